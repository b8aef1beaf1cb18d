"""Predict a training step's speed on an absent GPU: every kernel's bytes and FLOPs under a roofline.

The step is traced and lowered as on the GPU (bench/lowering.py), and each kernel takes the longer of its arithmetic and
its memory traffic. A prediction, not a measurement: which algorithms cuDNN chooses, how near Triton's kernels come to
the memory's bandwidth, and the gaps between kernels are assumed.

Example: python bench/roofline.py --recipe cityscapes --gpu H200 (TORCH_LOGS=output_code shows Inductor's output)
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import pandas as pd
import torch
import tyro

from bench.absent_gpu import GPUS, Gpu, Moved, pretend
from bench.docs.tables import table
from bench.lowering import GATHERED, Kernel, Lowered, compile_cubins, lower_step
from bench.runner.results import write_json
from bench.stages.steps import loss_network
from fastseg.cli_help import command_name
from fastseg.config import Config
from fastseg.errors import UserError, run_command
from fastseg.recipe_table import RECIPES
from fastseg.training.flops import datasheet_peak, run_flops

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
    with torch.device("meta"):
        model = loss_network(config, classes).model
    weights = 4 * sum(p.numel() for p in model.parameters())
    state = weights + 4 * sum(b.numel() for b in model.net.buffers() if b.is_floating_point())
    rows = [("gradient norm", weights, 0), ("optimizer", 3 * weights, 2 * weights)]
    rows += [("average", 2 * state, state)] if config.optim.ema else []
    return [Kernel("update", [name], reads, writes) for name, reads, writes in rows]


def tabulate(kernels: list[Kernel], gpu: Gpu) -> pd.DataFrame:
    """Return the sums of each category, the longest first."""
    rows = [
        {
            "category": category(kernel),
            "kernels": kernel.launches,
            "gigabytes": kernel.bytes / 1e9,
            "tflop": sum(flop for flop, _ in kernel.calls.values()) / 1e12,
            "milliseconds": 1e3 * seconds(kernel, gpu),
        }
        for kernel in kernels
    ]
    return pd.DataFrame(rows).groupby("category").sum().sort_values("milliseconds", ascending=False)


def correct_gathers(kernels: list[Kernel], classes: int) -> None:
    """Count the one value that the loss reads of a pixel's classes, of which Inductor counts all."""
    for kernel in kernels:
        if GATHERED in " ".join(kernel.names) and not kernel.calls and kernel.reads > 2e8 * classes / 19:
            kernel.reads //= classes


def summarize(found: Lowered, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the figures that a test compares with stored ones."""
    convolutions = [kernel for kernel in found.kernels if kernel.calls and "product" not in kernel.calls]
    return {
        **rows.sum().to_dict(),
        "saved_gigabytes": found.saved / 1e9,
        "atomics": sum(kernel.atomics for kernel in found.kernels),
        "graphs": found.graphs,
        "convolutions": len(convolutions),
        "slow_convolutions": [kernel.shape for kernel in convolutions if not kernel.channels_last],
        "misordered_gradients": found.misordered,
        "triton_kernels": len(found.sources),
    }


def show(config: Config, classes: int, gpu: Gpu, rows: pd.DataFrame, figures: dict[str, Any]) -> None:
    """Print the table and the prediction."""
    batch, crop, ms = config.data.micro_batch, config.data.crop, figures["milliseconds"]
    print(f"{config.model.arch}, batch {batch} of {crop[0]}×{crop[1]}; {gpu.name} at an assumed "
          f"{gpu.bandwidth / 1e12:.2f} TB/s and {gpu.rate / 1e12:.0f} TFLOP/s")  # fmt: skip
    rows = pd.concat([rows, rows.sum().to_frame("the whole step").T])
    cells = [
        [name, f"{kernels:.0f}", *(f"{value:.2f}" for value in (gigabytes, tflop, took)), f"{100 * took / ms:.1f} %"]
        for name, kernels, gigabytes, tflop, took in rows.itertuples()
    ]
    print(table(("category", "kernels", "GB", "TFLOP", "ms", "share"), cells, pad=True))
    print(f"saved for the backward pass: {figures['saved_gigabytes']:.2f} GB; {figures['atomics']:,} atomic additions; "
          f"convolutions that are not channels-last in 16 bits: {figures['slow_convolutions']}")  # fmt: skip
    counted, peak = run_flops(config, classes), datasheet_peak(gpu.name)
    share = f", {100 * counted / (ms / 1e3) / (peak * 1e12):.0f} % MFU" if peak else ""
    print(f"a prediction, not a measurement: {1e3 * batch / ms:.0f} images/s{share}, if every kernel reaches the "
          "assumed rates and nothing waits")  # fmt: skip


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
    figures = summarize(found, rows)
    show(config, classes, gpu, rows, figures)
    show_longest(found.kernels, gpu, options.top)
    if options.cubins:
        figures["failed_cubins"] = failed = compile_cubins(found)
        print(f"{len(found.sources)} Triton kernels compiled to machine code, {len(failed)} failed: {failed[:5]}")
    if options.json:
        document = {"recipe": options.recipe, "gpu": gpu._asdict(), "figures": figures}
        write_json(options.json, document | {"categories": rows.to_dict("index")})


def main() -> None:
    """Run the command."""
    try:
        predict(tyro.cli(Options, prog=command_name(), description=__doc__))
    except Moved as error:
        raise UserError(f"{error}; use the torch that the tests pass on") from error


if __name__ == "__main__":
    run_command(main)
