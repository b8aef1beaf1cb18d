"""Evaluation: whole frames from file to confusion matrix."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, cast

import torch

from bench.runner.results import Row, ratio_to_ours
from bench.runner.runner import Entry
from bench.runner.worker import Benchmark
from bench.stages import Request
from bench.stages.compute import alone, set_backends
from bench.stages.frames import Frames
from bench.stages.steps import recipe, settings_of
from fastseg.config import Config
from fastseg.data.loader import Batch, EvalLoader, open_files
from fastseg.device import autocast, precision_of
from fastseg.distributed.ranks import Ranks
from fastseg.evaluation.evaluator import EvaluatedModel, evaluate
from fastseg.evaluation.frames import ReportFrames
from fastseg.evaluation.metrics import ConfusionMatrix, Metric, class_metrics
from fastseg.memory import peak_memory
from fastseg.model.inference import predict
from fastseg.parallel import cpu_threads
from fastseg.shards.manifest import read_manifest
from fastseg.training.run import build_model

SPLIT = "val"
TRAINER, COMMAND = "fastseg", "fastseg: as fastseg-eval scores"
STRETCH = {"cuda": 64, "cpu": 2}
"""Frames of a step: many, so that few are kept as the worst, as in a whole data set; on a CPU each takes seconds."""


def entries(request: Request) -> list[Entry]:
    """Return fastseg's entries from shards, the trainer's and the command's, then the notebook's from PNG files."""
    assert request.frames is not None
    settings = settings_of(request) | {
        "shards": str(request.frames.shards()),
        "stretch": STRETCH[request.device],
    }
    factory = f"{__name__}:open_evaluation"
    found = [
        Entry("evaluation", TRAINER, "frames/s", factory, settings),
        Entry("evaluation", COMMAND, "frames/s", factory, settings | {"command": True}),
    ]
    if request.takes("step_notebook"):
        found.append(
            replace(_notebook(request, request.frames), absent="left out by --quick" if request.quick else None)
        )
    absent = None if request.frames.about["val"] else f"the frames have no {SPLIT} split"
    return [replace(entry, absent=absent or entry.absent) for entry in found]


def _notebook(request: Request, frames: Frames) -> Entry:
    settings = {
        "folder": str(frames.source / SPLIT),
        "device": request.device,
        "arch": request.arch,
        "classes": frames.about["classes"],
        "batch": 1,
    }
    counts = dict.fromkeys((request.cores, max(request.cores // 2, 1), 0))
    candidates = tuple({"workers": count} for count in counts)
    factory = "bench.peers.step_notebook:open_evaluation"
    return Entry("evaluation", "notebook", "frames/s", factory, settings, candidates, requires=("torchvision",))


def derived(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the time that fastseg-eval takes over that of the trainer's own evaluation."""
    windows = {row.entry: row.windows for row in rows if row.stage == "evaluation"}
    ratio = ratio_to_ours(windows.get(TRAINER, ()), windows.get(COMMAND, ()))
    if ratio is None:
        return []
    sentence = f"fastseg-eval takes {ratio.median:.2f}× the time of the trainer's own evaluation of the same frames"
    return [{"name": "evaluation/command", "value": ratio.median, "sentence": sentence}]


class Stretches:
    """A loader for :func:`evaluate` over the next few frames each time, cyclically."""

    first = 0

    def __init__(self, loader: EvalLoader, count: int) -> None:
        self.device, self.count = loader.device, count
        self.max_corrupt, self.corrupt_samples = loader.max_corrupt, loader.corrupt_samples
        self._batches = self._endless(loader)

    def __iter__(self) -> Iterator[Batch]:
        return islice(self._batches, self.count)

    @staticmethod
    def _endless(loader: EvalLoader) -> Iterator[Batch]:
        while True:
            yield from loader


class Evaluation(Benchmark):
    """A benchmark: a step is the trainer's evaluation, the report's frames and all, of the next few frames.

    As the command fastseg-eval it has the command's metrics instead of the report's frames.
    """

    def __init__(self, config: Config, ranks: Ranks, stretch: int, command: bool = False) -> None:
        manifest = read_manifest(config.shards)
        self.command = command
        self.classes, self.device = len(manifest.classes), ranks.device
        self.precision = precision_of(config.model.precision, ranks.device)
        self.model = build_model(config, manifest, ranks, "none").eval()
        files, threads = open_files(config.shards, manifest, SPLIT), cpu_threads(1)
        loader = EvalLoader(files, manifest.split(SPLIT), batch=1, device=ranks.device, threads=threads)
        keys = loader.sample_keys()
        self.keys = [keys[i % len(keys)] for i in range(stretch)]
        self.frames = Stretches(loader, stretch)
        self.matrix = torch.zeros(self.classes, self.classes, dtype=torch.int64)

    def step(self) -> int:
        """Evaluate a stretch; return its number of frames."""
        with autocast(self.precision, self.device):
            confusion = ConfusionMatrix(self.classes, self.device)
            metrics = [confusion, *self._further_metrics()]
            evaluated = EvaluatedModel(partial(predict, self.model), metrics)
            result = evaluate([evaluated], cast(EvalLoader, self.frames), self.classes)
            matrix, *_ = (metric.compute() for metric in metrics)
        assert result is not None
        self.matrix += torch.from_numpy(matrix)
        return result.images

    def _further_metrics(self) -> list[Metric]:
        return [*class_metrics(self.classes, self.device).values()] if self.command else [ReportFrames(self.keys)]

    def figures(self) -> dict[str, float]:
        """Return the peak memory."""
        return {"peak_memory_bytes": peak_memory(self.device)}


def open_evaluation(
    device: str,
    arch: str,
    crop: list[int],
    batch: int,
    precision: str,
    shards: str,
    stretch: int,
    command: bool = False,
) -> Evaluation:
    """Build the evaluation of the Cityscapes recipe on ``shards``, one frame at a time."""
    set_backends()
    config = recipe(arch, crop, batch, precision)
    return Evaluation(Config(shards=shards, data=config.data, model=config.model), alone(device), stretch, command)
