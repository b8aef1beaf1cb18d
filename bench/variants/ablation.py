"""fastseg without one of its optimizations, to see what each one gains.

An optimization is switched off in the configuration if possible. Otherwise it is replaced here by the usual
implementation, only in this process's objects.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

import fastseg.training.step as step_module
from bench.stages import Request, scaling
from bench.stages.compute import Ours, alone, set_backends
from bench.stages.scaling import RankedSteps
from bench.stages.steps import Steps, first_device, recipe
from bench.variants import Changes, loader_ablation
from fastseg.device import precision_of

SWITCHES: dict[str, dict[str, Any]] = {
    "channels_last": {"channels_last": False},
    "mixed precision": {"precision": "fp32"},
    "compile": {"compile": False},
}
"""Name → changes of :class:`fastseg.config.ModelConfig`."""


def changes(request: Request, stage: str) -> Changes:
    """Return the optimizations that can be removed from a stage, without those not in use on this device."""
    if stage == "loader":
        return loader_ablation.changes(request)
    factory, found = f"{__name__}:open_variant", []
    if stage == "compute":
        found = parts(request)
    elif stage == "scaling" and scaling.largest(request) > 1:
        compiled = not request.ranks and request.device != "cpu"  # if a static graph is not in use
        factory, found = (
            f"{__name__}:open_ranked",
            [part for part in DDP_OPTIONS if part != "static graph" or not compiled],
        )
    return {f" without {part}": (factory, {"without": part}) for part in found}


def parts(request: Request) -> list[str]:
    """Return the optimizations that can be removed from the step on this device."""
    device = first_device(request.device)
    precision = precision_of(request.precision, device)
    cuda = device.type == "cuda"
    used = {
        "channels_last": True,
        "mixed precision": precision != "fp32",
        "compile": cuda,
        "fused optimizer": True,
        "skipping on the device": cuda and precision != "fp16",
        "average in one kernel": True,
        "late numbers": cuda,
        "cuDNN's search": cuda,
        "TF32 products": cuda,
    }
    return [part for part, is_used in used.items() if is_used]


def open_variant(device: str, arch: str, crop: list[int], batch: int, precision: str, without: str) -> Steps:
    """Build the step of the compute stage without one of :func:`parts`."""
    set_backends()
    config = recipe(arch, crop, batch, precision)
    config = replace(config, model=replace(config.model, **SWITCHES.get(without, {})))
    ours = Ours(config, alone(device))
    if without not in SWITCHES:
        REPLACEMENTS[without](ours)
    return ours.steps()


class UsualSgd(torch.optim.SGD):
    """SGD in torch's default form, which cannot skip a bad step on the device and so does even less work."""

    def step(self, closure: Any = None) -> Any:
        """Do one update of all parameters."""
        self.found_inf = None  # set for a fused optimizer, refused by this one
        return super().step(closure)


def _usual_optimizer(ours: Ours) -> None:
    """Use torch's default optimizer: several operations per parameter, or on a GPU per list of them."""
    train_step = ours.state.train_step
    groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in train_step.optimizer.param_groups]
    train_step.optimizer = UsualSgd(groups, lr=0.0, momentum=ours.config.optim.momentum)


def _skip_on_the_host(ours: Ours) -> None:
    """Let the host wait to learn whether the loss is finite, as torch's loss scaler does."""
    optimizer = ours.state.train_step.optimizer
    update = optimizer.step

    def guarded() -> None:
        if not optimizer.found_inf.item():  # type: ignore[attr-defined]
            update()

    optimizer.step = guarded  # type: ignore[method-assign, assignment]


def _average_one_by_one(ours: Ours) -> None:
    """Average some hundred tensors one by one."""
    average, decay = ours.state.average, ours.config.optim.ema
    assert average is not None
    assert decay is not None
    now, averaged = ours.state.model.state_dict(), average.model.state_dict()

    @torch.no_grad()
    def update(step: int) -> None:
        share = 1 - min(decay, (1 + step) / (10 + step))
        for name, value in averaged.items():
            if value.is_floating_point():
                value.lerp_(now[name], share)
            else:
                value.copy_(now[name])

    average.update = update  # type: ignore[method-assign]


def _numbers_at_once(ours: Ours) -> None:
    """Let the host wait for every step's loss, as a loop does that prints it."""
    ours.async_metrics.exchange = lambda companion, numbers: (companion, numbers.tolist())  # type: ignore[method-assign]


def _no_search(_ours: Ours) -> None:
    torch.backends.cudnn.benchmark = False


def _full_products(_ours: Ours) -> None:
    torch.set_float32_matmul_precision("highest")


REPLACEMENTS: dict[str, Callable[[Ours], None]] = {
    "fused optimizer": _usual_optimizer,
    "skipping on the device": _skip_on_the_host,
    "average in one kernel": _average_one_by_one,
    "late numbers": _numbers_at_once,
    "cuDNN's search": _no_search,
    "TF32 products": _full_products,
}

DDP_OPTIONS: dict[str, dict[str, Any]] = {
    "gradients as bucket views": {"gradient_as_bucket_view": False},
    "static graph": {"static_graph": False},
    "own running statistics": dict.fromkeys(step_module._NO_SYNC, True),
}
"""Name → DDP's default arguments in place of fastseg's."""


def open_ranked(without: str, precision: str, arch: str, crop: list[int], batch: int, **where: Any) -> RankedSteps:
    """Build the step of the scaling stage without one of :data:`DDP_OPTIONS`."""

    class Changed(DistributedDataParallel):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | DDP_OPTIONS[without])

    step_module.DistributedDataParallel = Changed  # type: ignore[misc]
    return scaling.open_ranks(precision=precision, arch=arch, crop=crop, batch=batch, **where)
