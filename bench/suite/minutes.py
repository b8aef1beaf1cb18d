"""Minutes of the whole ``cityscapes`` run, by measured rates and, clearly apart, by assumed ones.

``table`` is a part of docs/cityscapes.md.
"""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.suite.marks import hardware, on_gpu
from bench.suite.rows import Results, read_results
from bench.suite.show import number
from fastseg.config import Config
from fastseg.loop.flops import DATASHEET, run_flops
from fastseg.model.deeplab import IMAGENET_MEAN, IMAGENET_STD, DeepLab
from fastseg.recipes import cityscapes

IMAGES = 80_000 * 8
"""Training crops of the published schedules, and of the recipe's 215 epochs to within 0.3 % on one GPU."""
CLASSES, VALIDATION, FRAME = 19, 500, (1024, 2048)
"""Of Cityscapes: classes, frames of its val split, height and width in pixels."""
CARDS = {"H100, H200": "H100", "A100": "A100"}
"""Name in the table → name in the datasheet."""
SHARES = (0.2, 0.3, 0.4, 0.5)
"""Of the datasheet's 16-bit rate."""


def minutes(train: float, evaluation: float, gpus: int) -> float:
    """Of a whole run on ``gpus`` GPUs, each of which trains on and evaluates so many images a second.

    ``evaluation`` may be infinite, for training alone. Left out: the start, checkpoints, and what GPUs wait for each
    other.
    """
    return (IMAGES / train + evaluated() / evaluation) / gpus / 60


def evaluated() -> int:
    """Frames that a run of the recipe evaluates: the whole split every few epochs, and once more at the end."""
    config = cityscapes()
    return VALIDATION * math.ceil(config.optim.epochs / config.eval_every)


def assumed_rates(peak: float, share: float) -> tuple[float, float]:
    """Crops trained on and frames evaluated a second, by a GPU that reaches ``share`` of ``peak`` TFLOP/s at both."""
    config = cityscapes()
    done = share * peak * 1e12
    return done / (run_flops(config, CLASSES) / config.data.batch), done / frame_flops(config.model.arch)


@cache
def frame_flops(arch: str) -> int:
    """Floating-point operations of the forward pass of one whole frame, counted as those of a step are."""
    with torch.device("meta"):
        network = DeepLab(arch, CLASSES, IMAGENET_MEAN, IMAGENET_STD, aux=True).eval()
        frame = torch.empty(1, *FRAME, 3, dtype=torch.uint8)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(frame)
    return int(counter.get_total_flops())


def measured_rate(results: Results, stage: str) -> float | None:
    """Images/s of ours on one GPU in ``stage``, train or evaluation, with the recipe's network and crop."""
    config: Config = cityscapes()
    work = {"arch": config.model.arch, "crop": list(config.data.crop)}
    for row in results.rows if on_gpu(results.environment) else ():
        if (row.stage, row.contestant) == (stage, "fastseg") and row.windows and work.items() <= row.settings.items():
            return row.spread.median
    return None


def table(paths: list[Path]) -> str:
    """A row for each of the files of bench/throughput.py that measured training on a GPU, then the assumed ones."""
    lines = [
        "| GPU | from | images/s per GPU | frames/s in evaluations | minutes on 1 | on 8, if each keeps its rate |",
        "|---|---|---:|---:|---:|---:|",
    ]
    return "\n".join([*lines, *_measured(paths), *_assumed()])


def _measured(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        results = read_results(path)
        train, evaluation = (measured_rate(results, stage) for stage in ("train", "evaluation"))
        if train:
            source = f"**measured**, [{path.name}](../bench/results/{path.name})"
            yield _line(hardware(results.environment), source, train, evaluation)


def _assumed() -> Iterator[str]:
    for name, card in CARDS.items():
        peak = DATASHEET[card]
        for share in SHARES:
            yield _line(name, f"assumed: {100 * share:.0f} % of {peak:g} TFLOP/s", *assumed_rates(peak, share))


def _line(gpu: str, source: str, train: float, evaluation: float | None) -> str:
    shown = number(evaluation) if evaluation else "not measured, not counted"
    times = " | ".join(number(minutes(train, evaluation or math.inf, gpus)) for gpus in (1, 8))
    return f"| {gpu} | {source} | {number(train)} | {shown} | {times} |"
