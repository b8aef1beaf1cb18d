"""Split the network into stages and measure each alone: its FLOPs, and how fast they run."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import ASPP

from fastseg.config import Config
from fastseg.device import autocast, environment, precision_of
from fastseg.distributed.ranks import Ranks
from fastseg.labels import IGNORE
from fastseg.model.architectures import ARCHITECTURES
from fastseg.model.deeplab import IMAGENET_MEAN, IMAGENET_STD, DeepLab, Logits
from fastseg.training.compiled import wants_compiling
from fastseg.training.flops import device_peak, moment, seconds_between
from fastseg.training.step import LossNetwork

RUNS, SECONDS = 20, 2.0
"""Runs of a stage, or seconds after which to stop (after at least two runs)."""


class Stage(NamedTuple):
    """A part of the network."""

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    """Names of the stages whose outputs it takes, or ``image`` (uint8 N×H×W×3) and ``label`` (uint8 N×H×W)."""


class _Stem(nn.Sequential):
    """Normalization and the backbone's first layers."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: DeepLab, layers: list[nn.Module]) -> None:
        super().__init__(*layers)
        self.memory_format = model.memory_format
        self.register_buffer("mean", model.mean)
        self.register_buffer("std", model.std)

    def forward(self, image: Tensor) -> Tensor:
        # As DeepLab.forward; the tests hold the stages together to be the network, bit for bit.
        normalized = (image.permute(0, 3, 1, 2) - self.mean.view(3, 1, 1)) / self.std.view(3, 1, 1)
        return super().forward(normalized.contiguous(memory_format=self.memory_format))


class _Head(nn.Module):
    """A head that reads several of the backbone's outputs, each under its name."""

    def __init__(self, head: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.head, self.names = head, names

    def forward(self, *features: Tensor) -> Tensor:
        return self.head(dict(zip(self.names, features, strict=True)))


class _Loss(nn.Module):
    """Upsampling and loss of both heads."""

    def __init__(self, network: LossNetwork) -> None:
        super().__init__()
        self.loss = network.loss

    def forward(self, label: Tensor, out: Tensor, aux: Tensor | None = None) -> Tensor:
        return self.loss(Logits(out, aux), label)


def stages_of(network: LossNetwork) -> list[Stage]:
    """Return stem, the backbone's stages, ASPP, the rest of the head, the auxiliary head, the loss: in this order.

    The modules are the network's own. Run one after the other they compute what the network does. Of a network whose
    backbone is not torchvision's, which names the layers that heads read, all is one stage.
    """
    net: Any = network.model.net  # torchvision has no type hints
    backbone = getattr(net, ARCHITECTURES[network.model.arch].backbone, None)
    if not isinstance(backbone, IntermediateLayerGetter):
        return [Stage("network and loss", network, ("image", "label"))]
    taps = backbone.return_layers
    stages: list[Stage] = []
    before = "image"
    heads: dict[str, str] = {}
    for layers in _groups(backbone):
        module = nn.Sequential(*layers.values()) if stages else _Stem(network.model, list(layers.values()))
        stages.append(Stage(_name(list(layers), first=not stages), module, (before,)))
        before = stages[-1].name
        heads |= {taps[layer]: before for layer in layers if layer in taps}
    return [*stages, *_head_stages(network, heads)]


def _head_stages(network: LossNetwork, read: dict[str, str]) -> Iterator[Stage]:
    """Yield the heads and the loss; ``read``: which stage has each of the backbone's outputs."""
    net: Any = network.model.net
    logits = ["head"]
    if isinstance(net.classifier[0] if isinstance(net.classifier, nn.Sequential) else None, ASPP):
        yield Stage("ASPP", net.classifier[0], (read["out"],))
        yield Stage("rest of the head", nn.Sequential(*list(net.classifier)[1:]), ("ASPP",))
        logits = ["rest of the head"]
    elif "out" in read:
        yield Stage("head", net.classifier, (read["out"],))
    else:
        yield Stage("head", _Head(net.classifier, tuple(read)), tuple(read.values()))
    if getattr(net, "aux_classifier", None) is not None:
        yield Stage("auxiliary head", net.aux_classifier, (read["aux"],))
        logits.append("auxiliary head")
    yield Stage("loss", _Loss(network), ("label", *logits))


def _groups(backbone: Any) -> Iterator[dict[str, nn.Module]]:
    """Yield the backbone's children by stage: ResNet's layers, MobileNet's blocks of one resolution and dilation.

    A new stage begins when the resolution falls or a dilation begins, and after what a head reads.
    """
    group: dict[str, nn.Module] = {}
    dilated = False
    for name, child in backbone.items():
        convolutions = [module for module in child.modules() if isinstance(module, nn.Conv2d)]
        dilates = any(max(c.dilation) > 1 for c in convolutions)
        falls = any(max(c.stride) > 1 for c in convolutions)
        read = bool(group) and next(reversed(group)) in backbone.return_layers
        if group and (name.startswith("layer") or falls or read or (dilates and not dilated)):
            yield group
            group = {}
        group[name], dilated = child, dilates
    yield group


def _name(layers: list[str], first: bool) -> str:
    if first:
        return "stem"
    if not layers[0].isdigit():
        return layers[0]
    return f"blocks {layers[0]}–{layers[-1]}" if len(layers) > 1 else f"block {layers[0]}"


def walk(stages: list[Stage], image: Tensor, label: Tensor) -> Iterator[tuple[Stage, list[Tensor], Tensor]]:
    """Yield every stage with its inputs, detached from earlier stages, and its output."""
    values = {"image": image, "label": label}
    for stage in stages:
        inputs = [values[name].detach() for name in stage.inputs]
        for value in inputs:
            value.requires_grad_(value.is_floating_point())
        values[stage.name] = stage.module(*inputs)
        yield stage, inputs, values[stage.name]


def stage_flops(config: Config, classes: int) -> dict[str, int]:
    """Count the floating-point operations of each stage's forward and backward pass, on meta tensors."""
    counts = {}
    with torch.device("meta"):
        stages = stages_of(_network(config, classes))
        steps = walk(stages, *_batch(config, torch.device("meta")))
        for _ in stages:
            with FlopCounterMode(display=False) as counter:
                stage, _, out = next(steps)  # runs its forward pass
                out.sum().backward()
            counts[stage.name] = int(counter.get_total_flops())
    return counts


def measure_stages(config: Config, classes: int, device: torch.device) -> list[dict[str, Any]]:
    """Measure every stage's forward and backward pass: median ``ms``, ``tflop``, ``tflops`` (TFLOP/s) and ``mfu``.

    Uses the run's shapes, dtypes and memory order, compiled if the run compiles, with fresh weights and batch norm
    without other ranks. ``mfu`` is the share of the GPU's dense 16-bit peak by its datasheet, None without one.
    """
    flops, peak = stage_flops(config, classes), device_peak(device)
    rows = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # leaves the run's random state as it was
        for name, seconds in _stage_seconds(config, classes, device):
            rate = flops[name] / seconds / 1e12
            row = {"stage": name, "ms": 1000 * seconds, "tflop": flops[name] / 1e12, "tflops": rate}
            rows.append(row | {"mfu": rate / peak if peak else None})
    return rows


def _stage_seconds(config: Config, classes: int, device: torch.device) -> Iterator[tuple[str, float]]:
    cast = partial(autocast, precision_of(config.model.precision, device), device)
    stages, compiled = stages_of(_network(config, classes).to(device)), wants_compiling(config.model, device)
    with torch.no_grad(), cast():
        steps = [(stage, inputs, torch.ones_like(out)) for stage, inputs, out in walk(stages, *_batch(config, device))]
    for stage, inputs, gradient in steps:
        # The stages share code, of which the compiler keeps only eight versions by default.
        with torch._dynamo.config.patch(recompile_limit=64):
            module = torch.compile(stage.module, dynamic=False) if compiled else stage.module
            leaves = [tensor for tensor in (*inputs, *stage.module.parameters()) if tensor.requires_grad]
            yield stage.name, _median_seconds(partial(_both_passes, module, inputs, leaves, gradient, cast), device)


def _both_passes(
    module: Callable[..., Tensor],
    inputs: list[Tensor],
    leaves: list[Tensor],
    gradient: Tensor,
    cast: Callable[[], AbstractContextManager[object]],
) -> None:
    with cast():
        out = module(*inputs)
    torch.autograd.grad(out, leaves, gradient)


def _median_seconds(run: Callable[[], None], device: torch.device) -> float:
    """Return the median seconds of a warm run; on a GPU by events in its queue."""
    for _ in range(3 if device.type == "cuda" else 1):
        run()
    times: list[tuple[Any, Any]] = []
    start = time.perf_counter()
    while len(times) < 2 or (len(times) < RUNS and time.perf_counter() - start < SECONDS):
        begin = moment(device)
        run()
        times.append((begin, moment(device)))
    return median(seconds_between(*pair) for pair in times)


def stages_beside(config: Config, classes: int, ranks: Ranks) -> list[dict[str, Any]]:
    """Return :func:`measure_stages` during a run; nothing if memory is short or other ranks would wait."""
    try:
        return measure_stages(config, classes, ranks.device) if ranks.world == 1 else []
    except torch.OutOfMemoryError:
        return []
    finally:
        if ranks.device.type == "cuda":
            torch.cuda.empty_cache()  # DALI takes its memory elsewhere


def profile_document(
    step: dict[str, Any], stages: list[dict[str, Any]], config: Config, ranks: Ranks
) -> dict[str, Any]:
    """Return ``profile.json``, from :meth:`StepProfiler.finish` and :func:`stages_beside`."""
    device, model, data = ranks.device, config.model, config.data
    settings = {
        "arch": model.arch,
        "batch": data.batch,
        "crop": list(data.crop),
        "precision": precision_of(model.precision, device),
        "channels_last": model.channels_last,
        "compile": wants_compiling(config.model, device),
        "ranks": ranks.world,
        "device": device.type,
    }
    return {"environment": environment(), "settings": settings, "step": step, "stages": stages}


def _network(config: Config, classes: int) -> LossNetwork:
    settings, statistics = config.model, (IMAGENET_MEAN, IMAGENET_STD)
    model = DeepLab(settings.arch, classes, *statistics, config.aux_weight > 0, settings.channels_last)
    return LossNetwork(model, config.optim).train()


def _batch(config: Config, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a batch of noise, with one label in twenty ignored."""
    data = config.data
    image = torch.randint(0, 256, (data.batch, *data.crop, 3), dtype=torch.uint8, device=device)
    label = torch.randint(0, 2, (data.batch, *data.crop), dtype=torch.uint8, device=device)
    return image, label.masked_fill_(torch.rand(label.shape, device=device) < 0.05, IGNORE)
