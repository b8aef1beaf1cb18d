"""The step never waits for the device, shown without one: network, loss, update and average on the meta device.

Tensors there have no numbers, so whatever asks a device for some (``.item()``, ``bool``, ``nonzero``) raises. The rest,
copies from the host, is watched for. What only a GPU shows (pinned memory, DALI) is shown by ``gpu/test_no_sync.py``.
"""

import dataclasses
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastseg.config import Config, ModelConfig, OptimConfig
from fastseg.distributed.ranks import Ranks
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fastseg.training.optim import Average
from fastseg.training.step import TrainStep

META = Ranks(0, 1, 0, 1, torch.device("meta"))
ARCH = "deeplabv3_mobilenet_v3_large"
FUSED_SGD = (torch.ops.aten._fused_sgd_.default, torch.ops.aten._fused_sgd_.tensor_lr)
COPYING = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor)
INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


class CopyFromHost(Exception):
    """A device would have been waited for: memory that is not pinned is copied when all queued work is done."""


class NoCopies(TorchDispatchMode):
    """Forbids operations that read from the host and write to the device; counts the updates of weights."""

    updates = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FUSED_SGD:  # one kernel on a GPU, and none for meta tensors
            assert all(tensor.is_meta for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor))
            self.updates += 1
            return None
        out = func(*args, **kwargs)
        # A single number on the host travels with a kernel's arguments, unless the kernel is a copy.
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and not t.is_meta]
        if any(t.ndim or func in COPYING for t in given) and any(
            isinstance(t, Tensor) and t.is_meta for t in tree_leaves(out)
        ):
            raise CopyFromHost(str(func))
        self.updates += func is torch.ops.aten._fused_adamw_.default
        return out


class NoNumbers(TorchFunctionMode):
    """Forbids tensors on the device out of Python's numbers, which are copied where no dispatch is seen."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        places = args[1] if func in INDEXING and isinstance(args[1], tuple) else args[1:2]
        listed = func in INDEXING and args[0].is_meta and any(isinstance(place, list) for place in places)
        if listed or (func in FROM_NUMBERS and out.is_meta):
            raise CopyFromHost(str(func))
        return out


@pytest.fixture(autouse=True)
def meta_like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps a list of the devices that its fused optimizers know."""
    optimizer = import_module(torch.optim.Optimizer.__module__)
    known = optimizer._get_fused_kernels_supported_devices()
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [*known, "meta"])


def step_of(optim: OptimConfig) -> tuple[TrainStep, Average]:
    model = SegmentationNetwork(ARCH, 5, IMAGENET_MEAN, IMAGENET_STD, True)
    average = Average(model.to("meta"), 0.999)
    config = Config(model=ModelConfig(arch=ARCH, precision="fp32", compile=False), optim=optim)
    weights = torch.ones(5, device="meta") if optim.class_weights else None
    return TrainStep(model, config, META, weights), average


def train(step: TrainStep, average: Average, steps: int = 2) -> int:
    """Steps without a word from or to the device; returns how many updates there were."""
    images = 2 * step.config.optim.accumulate
    image = torch.empty(images, 64, 64, 3, dtype=torch.uint8, device="meta")
    label = torch.empty(images, 64, 64, dtype=torch.uint8, device="meta")
    # Backward passes of devices other than the CPU run in threads of their own, which modes do not follow.
    with torch.autograd.set_multithreading_enabled(False), NoNumbers(), NoCopies() as watched:
        for number in range(steps):
            numbers = step(image, label, 0.1 / (number + 1))
            average.update(number)
    assert numbers.is_meta
    assert numbers.shape == (5,)
    return watched.updates


@pytest.mark.parametrize(
    "change",
    [{}, {"name": "adamw"}, {"clip": 1.0}, {"class_weights": 0.5}, {"dice": 0.5}, {"aux": 0.0}, {"accumulate": 2}],
    ids=["sgd", "adamw", "clip", "class weights", "dice", "out", "accumulated"],
)
def test_a_step_reads_nothing_from_the_device_and_copies_nothing_to_it(change: dict[str, Any]) -> None:
    step, average = step_of(dataclasses.replace(OptimConfig(), **change))
    groups = sum(bool(group["params"]) for group in step.optimizer.param_groups)
    assert train(step, average) == 2 * groups


READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.detach().sum().item(),
    "float": lambda x: float(x.detach().sum()),
    "if": lambda x: bool((x > 0).all()),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.detach().numpy(),
    "to the host": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "mask as an index": lambda x: x[x > 0],
    "unique": lambda x: x.unique(),
}
COPIES: dict[str, Callable[[Tensor], object]] = {
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "as_tensor": lambda x: torch.as_tensor([1.0], device=x.device),
    "to": lambda x: torch.ones(3).to(x.device),
    "a number to": lambda x: torch.ones(()).to(x.device),
    "copy_": lambda x: x.detach().copy_(torch.ones_like(x, device="cpu")),
    "index by a list": lambda x: x[[0, 1]],
}


@pytest.mark.parametrize("what", [*READS, *COPIES])
def test_a_step_that_asks_is_caught(what: str) -> None:
    """The same step with one such line in the network: the proof above is able to fail."""
    ask = {**READS, **COPIES}[what]
    step, average = step_of(OptimConfig())
    step.model.net.classifier.register_forward_hook(lambda _module, _inputs, logits: [ask(logits), None][1])
    with pytest.raises(CopyFromHost if what in COPIES else (NotImplementedError, RuntimeError, TypeError)):
        train(step, average, steps=1)


@pytest.mark.parametrize("what", ["item", "nonzero"])
def test_a_gradient_that_is_looked_at_is_caught(what: str) -> None:
    step, average = step_of(OptimConfig())
    step.model.net.classifier[1].weight.register_hook(lambda gradient: [READS[what](gradient), None][1])
    with pytest.raises((NotImplementedError, RuntimeError, TypeError)):
        train(step, average, steps=1)
