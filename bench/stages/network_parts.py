"""Measure the network's parts one by one: their arithmetic, and how fast they run."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.segmentation import DeepLabV3

from bench.docs.tables import table
from bench.stages.steps import loss_network
from fastseg.config import Config
from fastseg.device import autocast, precision_of
from fastseg.labels import IGNORE
from fastseg.model.network import Logits, SegmentationNetwork
from fastseg.training.compiled import wants_compiling
from fastseg.training.flops import device_peak
from fastseg.training.profiler import category_table
from fastseg.training.step import LossNetwork

SECONDS = 2.0
"""Minimum seconds of measuring a part."""


class Part(NamedTuple):
    """A piece of the network."""

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    """Names of the parts whose outputs it takes, or ``image`` (uint8 N×H×W×3) and ``label`` (uint8 N×H×W)."""


class _Stem(nn.Sequential):
    """Normalization and the backbone's first layers."""

    def __init__(self, model: SegmentationNetwork, layers: list[nn.Module]) -> None:
        super().__init__(*layers)
        self.normalize = model.normalize

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(self.normalize(image))


class _Loss(nn.Module):
    """Upsampling and loss of both heads."""

    def __init__(self, network: LossNetwork) -> None:
        super().__init__()
        self.loss = network.loss

    def forward(self, label: Tensor, out: Tensor, aux: Tensor | None = None) -> Tensor:
        return self.loss(Logits(out, aux), label)


def parts_of(network: LossNetwork) -> list[Part]:
    """Return stem, the backbone's parts, ASPP, the rest of the head, the auxiliary head, the loss: in this order.

    The modules are the network's own: run in sequence they compute what the network does. A network that is not
    torchvision's DeepLabv3 is one part.
    """
    net: Any = network.model.net  # torchvision has no type hints
    if not isinstance(net, DeepLabV3):
        return [Part("network and loss", network, ("image", "label"))]
    parts: list[Part] = []
    read: dict[str, str] = {}  # head → the part that it reads
    before = "image"
    for layers in _groups(net.backbone):
        module = nn.Sequential(*layers.values()) if parts else _Stem(network.model, list(layers.values()))
        parts.append(Part(_name(list(layers), first=not parts), module, (before,)))
        before = parts[-1].name
        read |= {head: before for layer, head in net.backbone.return_layers.items() if layer in layers}
    aspp, *rest = net.classifier
    parts += [Part("ASPP", aspp, (read["out"],)), Part("rest of the head", nn.Sequential(*rest), ("ASPP",))]
    if net.aux_classifier is not None:
        parts.append(Part("auxiliary head", net.aux_classifier, (read["aux"],)))
    logits = (part.name for part in parts if part.name.endswith("head"))
    return [*parts, Part("loss", _Loss(network), ("label", *logits))]


def _groups(backbone: Any) -> Iterator[dict[str, nn.Module]]:
    """Yield the backbone's children in parts: ResNet's layers, MobileNet's blocks of one resolution and dilation.

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


def walk(parts: list[Part], image: Tensor, label: Tensor) -> Iterator[tuple[Part, list[Tensor], Tensor]]:
    """Yield every part with its inputs, cut from what came before, and its output."""
    values = {"image": image, "label": label}
    for part in parts:
        inputs = [values[name].detach() for name in part.inputs]
        for value in inputs:
            value.requires_grad_(value.is_floating_point())
        values[part.name] = part.module(*inputs)
        yield part, inputs, values[part.name]


def part_flops(config: Config, classes: int) -> dict[str, int]:
    """Count the operations of each part's forward and backward pass on meta tensors."""
    counts = {}
    with torch.device("meta"):
        parts = parts_of(loss_network(config, classes))
        steps = walk(parts, *_batch(config, torch.device("meta")))
        for _ in parts:
            with FlopCounterMode(display=False) as counter:
                part, _, out = next(steps)  # on the meta device
                out.sum().backward()
            counts[part.name] = int(counter.get_total_flops())
    return counts


def measure_parts(config: Config, classes: int, device: torch.device) -> list[dict[str, Any]]:
    """Measure ``ms`` (median) of every part's forward and backward pass, ``tflop``, ``tflops`` (TFLOP/s) and ``mfu``.

    Uses the run's shapes, dtypes and memory order, compiled if the run compiles, with fresh weights and batch norm
    without other ranks. ``mfu`` is the share of the GPU's dense 16-bit peak by its datasheet, None without one.
    """
    flops, peak = part_flops(config, classes), device_peak(device)
    rows = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # leaves the run's random numbers unchanged
        for name, seconds in _part_seconds(config, classes, device):
            rate = flops[name] / seconds / 1e12
            row = {"stage": name, "ms": 1000 * seconds, "tflop": flops[name] / 1e12, "tflops": rate}
            rows.append(row | {"mfu": rate / peak if peak else None})
    return rows


def _part_seconds(config: Config, classes: int, device: torch.device) -> Iterator[tuple[str, float]]:
    cast = partial(autocast, precision_of(config.model.precision, device), device)
    parts, compiled = parts_of(loss_network(config, classes).to(device)), wants_compiling(config.model, device)
    with torch.no_grad(), cast():
        steps = [(part, inputs, torch.ones_like(out)) for part, inputs, out in walk(parts, *_batch(config, device))]
    for part, inputs, gradient in steps:
        # The parts share code, of which the compiler by default keeps only eight versions.
        with torch._dynamo.config.patch(recompile_limit=64):
            module = torch.compile(part.module, dynamic=False) if compiled else part.module
            leaves = [tensor for tensor in (*inputs, *part.module.parameters()) if tensor.requires_grad]
            run = partial(_both_passes, module, inputs, leaves, gradient, cast)
            run()  # compiles
            timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
            yield part.name, timer.blocked_autorange(min_run_time=SECONDS).median


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


def profile_tables(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield titles and Markdown tables of a profile: categories of kernels, and the network's parts if measured."""
    kernels = category_table(document["step"])
    yield kernels.title, table(kernels.columns, kernels.rows)
    if document.get("stages"):
        yield "Forward and backward pass of each stage alone", part_table(document["stages"])


def part_table(parts: list[dict[str, Any]]) -> str:
    """Return a table of each part's forward and backward pass, and how well it uses the processor."""
    found = pd.DataFrame(parts).set_index("stage")[["ms", "tflop", "mfu"]].astype(float)
    found.loc["all stages"] = [*found[["ms", "tflop"]].sum(), (found["mfu"] * found["ms"]).sum() / found["ms"].sum()]
    rows = [
        [
            str(name),
            f"{row['ms']:.2f}",
            f"{100 * row['ms'] / found['ms']['all stages']:.1f} %",
            f"{row['tflop']:.3g}",
            f"{1000 * row['tflop'] / row['ms']:.3g}",
            *([f"{100 * row['mfu']:.1f} %"] if parts[0]["mfu"] is not None else []),
        ]
        for name, row in found.iterrows()
    ]
    columns = ("stage", "ms", "share", "TFLOP", "TFLOP/s", "MFU")
    return table(columns[: len(rows[0])], rows)


def _batch(config: Config, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a batch of noise; one label in twenty is ignored."""
    data = config.data
    image = torch.randint(0, 256, (data.micro_batch, *data.crop, 3), dtype=torch.uint8, device=device)
    label = torch.randint(0, 2, (data.micro_batch, *data.crop), dtype=torch.uint8, device=device)
    return image, label.masked_fill_(torch.rand(label.shape, device=device) < 0.05, IGNORE)
