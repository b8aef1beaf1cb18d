"""Evaluation: whole frames from file to confusion matrix."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import cast

import torch

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
from fastseg.evaluation.metrics import ConfusionMatrix
from fastseg.memory import peak_memory
from fastseg.model.inference import predict
from fastseg.parallel import cpu_threads
from fastseg.shards.manifest import read_manifest
from fastseg.training.run import build_model

SPLIT = "val"
STRETCH = {"cuda": 64, "cpu": 2}
"""Frames of a step: many, so that few are kept as the worst, as in a whole data set; on a CPU each takes seconds."""


def entries(request: Request) -> list[Entry]:
    """Return fastseg's entry from shards, then the notebook project's from PNG files."""
    assert request.frames is not None
    settings = settings_of(request) | {
        "shards": str(request.frames.shards()),
        "stretch": STRETCH[request.device],
    }
    found = [Entry("evaluation", "fastseg", "frames/s", f"{__name__}:open_evaluation", settings)]
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
    """A benchmark: a step is the trainer's evaluation, the report's frames and all, of the next few frames."""

    def __init__(self, config: Config, ranks: Ranks, stretch: int) -> None:
        manifest = read_manifest(config.shards)
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
            metrics = [ConfusionMatrix(self.classes, self.device), ReportFrames(self.keys)]
            evaluated = EvaluatedModel(partial(predict, self.model), metrics)
            result = evaluate([evaluated], cast(EvalLoader, self.frames), self.classes)
            matrix, _ = (metric.compute() for metric in metrics)
        assert result is not None
        self.matrix += torch.from_numpy(matrix)
        return result.images

    def figures(self) -> dict[str, float]:
        """Return the peak memory."""
        return {"peak_memory_bytes": peak_memory(self.device)}


def open_evaluation(
    device: str, arch: str, crop: list[int], batch: int, precision: str, shards: str, stretch: int
) -> Evaluation:
    """Build the evaluation of the Cityscapes recipe on ``shards``, one frame at a time."""
    set_backends()
    config = recipe(arch, crop, batch, precision)
    return Evaluation(Config(shards=shards, data=config.data, model=config.model), alone(device), stretch)
