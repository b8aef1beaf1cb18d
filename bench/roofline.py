"""Predict a training step's speed on an absent GPU: every kernel's bytes and FLOPs under a roofline.

The step is traced and lowered as on the GPU (bench/lowering.py), and each kernel takes the longer of its arithmetic and
its memory traffic. A prediction, not a measurement: which algorithms cuDNN chooses, how near Triton's kernels come to
the memory's bandwidth, and the gaps between kernels are assumed.

Example: python bench/roofline.py --recipe cityscapes --gpu H200
"""

import json
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import tyro

from bench.absent_gpu import GPUS, Gpu, Moved, pretend
from bench.docs.targets import TARGETS
from bench.lowering import GATHERED, Kernel, Lowered, compile_cubins, lower_step
from fastseg.config import Config
from fastseg.errors import UserError, run_command
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fastseg.recipes import RECIPES
from fastseg.training.flops import datasheet_peak, step_flops

LAUNCH = 2.5e-6
"""Minimum seconds of a kernel."""
ATOMICS = 6e11
"""float32 additions a second into the second-level cache. A guess between 2e11 and 1.1e12."""
CLASSES = {"camvid": 11}
"""Number of classes of a recipe's data, if they are not Cityscapes'."""


@dataclass(frozen=True)
class Options:
    """See the module's docstring."""

    recipe: str = "cityscapes"
    """Recipe whose network, batch, crop and loss are traced."""
    gpu: Literal["H200", "H100", "A100"] = "H200"
    bandwidth: float | None = None
    """Bytes per second that kernels reach, in place of the assumption."""
    rate: float | None = None
    """FLOP per second that convolutions reach, in place of the assumption."""
    cubins: bool = False
    """Also compile every Triton kernel to machine code."""
    top: int = 0
    """Number of the longest kernels to list, without convolutions."""
    json: Path | None = None
    """Write the figures to this file."""
    code: Path | None = None
    """Write Inductor's output to this folder: code0.py is the forward pass, code1.py the backward pass."""


@dataclass
class Row:
    """A category of kernels."""

    kernels: int = 0
    gigabytes: float = 0.0
    tflop: float = 0.0
    milliseconds: float = 0.0


def category(kernel: Kernel) -> str:
    """Return a kernel's category, from the operators in Inductor's name for it."""
    names, way = " ".join(kernel.names), kernel.direction
    if way == "update":
        return names
    if kernel.calls:
        return f"{'matrix product' if 'product' in kernel.calls else 'convolution'}, {way}"
    if any(word in names for word in ("nll_loss", "softmax", "stack_sum")) or "_to_copy_ne" in names:
        return f"loss, {way}"
    if "batch_norm" in names:
        sums = "sums" if way == "backward" else "statistics"
        return f"batch norm, {way}: {'values' if names.startswith('triton_poi') else sums}"
    if any(word in names for word in ("_unsafe_index", "arange", "add_clamp")):
        return f"upsampling, {way}"
    if "max_pool" in names:
        return "max pooling"
    if "threshold" in names:
        return f"ReLU and additions, {way}"
    if all(operator.startswith(("prims.convert", "aten.convolution")) for operator in kernel.operators):
        return "casts of weights and their gradients"
    return f"other, {way}"


def seconds(kernel: Kernel, gpu: Gpu) -> float:
    """Return the longer of arithmetic and memory traffic; no kernel is shorter than a launch."""
    if kernel.calls:
        return sum(max(flop / gpu.rate, moved / gpu.bandwidth, LAUNCH) for flop, moved in kernel.calls.values())
    return max(kernel.bytes / gpu.bandwidth, kernel.atomics / ATOMICS, LAUNCH * kernel.launches)


def updates(config: Config, classes: int) -> list[Kernel]:
    """Return the kernels after the backward pass, uncompiled and float32: gradient norm, fused SGD, average."""
    model = SegmentationNetwork(config.model.arch, classes, IMAGENET_MEAN, IMAGENET_STD, config.aux_weight > 0)
    weights = 4 * sum(p.numel() for p in model.parameters())
    state = weights + 4 * sum(b.numel() for b in model.net.buffers() if b.is_floating_point())
    rows = [("gradient norm", weights, 0), ("optimizer", 3 * weights, 2 * weights)]
    rows += [("average", 2 * state, state)] if config.optim.ema else []
    return [Kernel("update", [name], reads, writes) for name, reads, writes in rows]


def tabulate(kernels: list[Kernel], gpu: Gpu) -> dict[str, Row]:
    """Return the sums of each category, the longest first."""
    rows: dict[str, Row] = defaultdict(Row)
    for kernel in kernels:
        row = rows[category(kernel)]
        row.kernels += kernel.launches
        row.gigabytes += kernel.bytes / 1e9
        row.tflop += sum(flop for flop, _ in kernel.calls.values()) / 1e12
        row.milliseconds += 1e3 * seconds(kernel, gpu)
    return dict(sorted(rows.items(), key=lambda item: -item[1].milliseconds))


def correct_gathers(kernels: list[Kernel], classes: int) -> None:
    """Count the one value that the loss reads of a pixel's classes, of which Inductor counts all."""
    for kernel in kernels:
        if GATHERED in " ".join(kernel.names) and not kernel.calls and kernel.reads > 2e8 * classes / 19:
            kernel.reads //= classes


def summarize(found: Lowered, rows: dict[str, Row]) -> dict[str, float | int | list[str]]:
    """Return the figures that a test compares with stored ones."""
    convolutions = [kernel for kernel in found.kernels if kernel.calls and "product" not in kernel.calls]
    return {
        "kernels": sum(row.kernels for row in rows.values()),
        "gigabytes": sum(row.gigabytes for row in rows.values()),
        "tflop": sum(row.tflop for row in rows.values()),
        "milliseconds": sum(row.milliseconds for row in rows.values()),
        "saved_gigabytes": found.saved / 1e9,
        "atomics": sum(kernel.atomics for kernel in found.kernels),
        "graphs": len(found.codes),
        "convolutions": len(convolutions),
        "slow_convolutions": [kernel.shape for kernel in convolutions if not kernel.channels_last],
        "misordered_gradients": found.misordered,
        "triton_kernels": len(found.sources),
    }


def show(config: Config, options: Options, gpu: Gpu, rows: dict[str, Row], figures: dict[str, object]) -> None:
    """Print the table, the prediction and the targets beside it."""
    batch, crop, ms = config.data.batch, config.data.crop, sum(row.milliseconds for row in rows.values())
    print(f"{config.model.arch}, batch {batch} of {crop[0]}×{crop[1]}; {gpu.name} at an assumed "
          f"{gpu.bandwidth / 1e12:.2f} TB/s and {gpu.rate / 1e12:.0f} TFLOP/s")  # fmt: skip
    print(f"{'category':38} {'kernels':>7} {'GB':>8} {'TFLOP':>8} {'ms':>8} {'share':>7}")
    for name, row in rows.items():
        print(f"{name:38} {row.kernels:7d} {row.gigabytes:8.2f} {row.tflop:8.2f} {row.milliseconds:8.2f} "
              f"{100 * row.milliseconds / ms:6.1f} %")  # fmt: skip
    print(
        f"{'the whole step':38} {figures['kernels']:7d} {figures['gigabytes']:8.2f} {figures['tflop']:8.2f} {ms:8.2f}"
    )
    print(f"saved for the backward pass: {figures['saved_gigabytes']:.2f} GB; {figures['atomics']:,} atomic additions; "
          f"convolutions that are not channels-last in 16 bits: {figures['slow_convolutions']}")  # fmt: skip
    counted = step_flops(config.model.arch, CLASSES.get(options.recipe, 19), batch, crop, config.aux_weight > 0)
    peak = datasheet_peak(gpu.name)
    share = f", {100 * counted / (ms / 1e3) / (peak * 1e12):.0f} % MFU" if peak else ""
    print(f"a prediction, not a measurement: {1e3 * batch / ms:.0f} images/s{share}, if every kernel reaches the "
          "assumed rates and nothing waits")  # fmt: skip
    target = next((m for m in TARGETS if m.what == f"train on one {options.gpu}, {crop[0]}² crops"), None)
    if target and options.recipe == "cityscapes":
        print(f"the target, {target.what}: at least {target.shown(target.least)}")


def show_longest(kernels: list[Kernel], gpu: Gpu, count: int) -> None:
    """Print the longest kernels other than convolutions and products."""
    rest = [kernel for kernel in kernels if not kernel.calls]
    for kernel in sorted(rest, key=lambda k: -seconds(k, gpu))[:count]:
        moved = f"{kernel.reads / 1e6:7.0f} MB read {kernel.writes / 1e6:7.0f} MB written"
        where = f"{'+'.join(kernel.names)[:100]} [{', '.join(kernel.modules[:3])[:90]}]"
        print(f"{1e6 * seconds(kernel, gpu):8.1f} µs {moved}  {kernel.direction:8} {where}")


def predict(options: Options) -> None:
    """Lower the recipe's step, print its time, and write the requested files."""
    if options.recipe not in RECIPES:
        raise UserError(f"--recipe is {options.recipe!r}; it must be one of: {', '.join(RECIPES)}")
    config, classes = RECIPES[options.recipe](), CLASSES.get(options.recipe, 19)
    if config.model.compile is False:
        raise UserError(f"--recipe is {options.recipe}, whose step is not compiled; take another")
    gpu = GPUS[options.gpu]
    gpu = gpu._replace(bandwidth=options.bandwidth or gpu.bandwidth, rate=options.rate or gpu.rate)
    after = updates(config, classes)
    pretend(gpu)
    found = lower_step(config, classes)
    correct_gathers(found.kernels, classes)
    rows = tabulate([*found.kernels, *after], gpu)
    figures: dict[str, object] = {**summarize(found, rows)}
    show(config, options, gpu, rows, figures)
    show_longest(found.kernels, gpu, options.top)
    if options.cubins:
        figures["failed_cubins"] = failed = compile_cubins(found)
        print(f"{len(found.sources)} Triton kernels compiled to machine code, {len(failed)} failed: {failed[:5]}")
    for i, code in enumerate(found.codes if options.code else ()):
        assert options.code
        options.code.mkdir(parents=True, exist_ok=True)
        (options.code / f"code{i}.py").write_text(code, encoding="utf-8")
    if options.json:
        document = {"recipe": options.recipe, "gpu": gpu._asdict(), "figures": figures}
        document["categories"] = {name: asdict(row) for name, row in rows.items()}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command."""
    try:
        predict(tyro.cli(Options, description=__doc__))
    except Moved as error:
        raise UserError(f"{error}; use the torch that the tests pass on") from error


if __name__ == "__main__":
    run_command(main)
