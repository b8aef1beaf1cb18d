"""Evaluation: whole frames from file to confusion matrix."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from bench.suite.contest import Contestant
from bench.suite.frames import Frames
from bench.suite.request import Request
from bench.suite.stages.compute import alone, set_backends
from bench.suite.steps import peak_memory, recipe, settings_of
from fastseg.config import Config
from fastseg.data.loader import Batch, EvalLoader, cpu_threads, open_files
from fastseg.data.manifest import read_manifest
from fastseg.loop.build import build_model
from fastseg.loop.distributed import Ranks
from fastseg.loop.step import autocast, precision_of
from fastseg.score.evaluator import predict
from fastseg.score.metrics import confusion_matrix

SPLIT = "val"


def contestants(request: Request) -> list[Contestant]:
    """Ours from shards, then the seed's way from PNG files."""
    assert request.frames is not None
    settings = settings_of(request) | {"shards": str(request.frames.shards())}
    found = [Contestant("evaluation", "fastseg", "frames/s", f"{__name__}:open_evaluation", settings)]
    if request.takes("step_seed"):
        found.append(replace(_seed(request, request.frames), absent="left out by --quick" if request.quick else None))
    absent = None if request.frames.about["val"] else f"the frames have no {SPLIT} split"
    return [replace(contestant, absent=absent or contestant.absent) for contestant in found]


def _seed(request: Request, frames: Frames) -> Contestant:
    settings = {
        "folder": str(frames.source / SPLIT),
        "device": request.device,
        "arch": request.arch,
        "classes": frames.about["classes"],
        "batch": 1,
    }
    counts = dict.fromkeys((request.cores, max(request.cores // 2, 1), 0))
    candidates = tuple({"workers": count} for count in counts)
    factory = "bench.peers.step_seed:open_evaluation"
    return Contestant("evaluation", "seed", "frames/s", factory, settings, candidates, requires=("torchvision",))


class Evaluation:
    """A contender: one batch of the evaluator a step, over and over."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        manifest = read_manifest(config.shards)
        self.classes, self.device = len(manifest.classes), ranks.device
        self.precision = precision_of(config.model.precision, ranks.device)
        self.model = build_model(config, manifest, ranks, "none").eval()
        self.loader = EvalLoader(
            open_files(config.shards, manifest, SPLIT),
            manifest.split(SPLIT),
            batch=config.data.eval_batch,
            device=ranks.device,
            threads=cpu_threads(1),
        )
        # On a GPU more than the loader prepared while the process was stopped; on a CPU, where a frame takes seconds to
        # predict and milliseconds to load, that makes no difference.
        self.warmup_steps = 4 if ranks.device.type == "cuda" else 1
        self.matrix = torch.zeros(self.classes, self.classes, dtype=torch.int64, device=ranks.device)
        self._batches = self._endless()

    def step(self) -> int:
        """Predict and count one batch; returns its frames."""
        batch = next(self._batches)
        with autocast(self.precision, self.device):
            prediction = predict(self.model, batch.image)
        self.matrix += confusion_matrix(prediction, batch.label, batch.valid, self.classes)
        return int(batch.valid.sum())

    def figures(self) -> dict[str, float]:
        """The peak of memory."""
        return {"peak_memory_bytes": peak_memory(self.device)}

    def close(self) -> None:
        """Nothing outlives the process."""

    def _endless(self) -> Iterator[Batch]:
        while True:
            yield from self.loader


def open_evaluation(device: str, arch: str, crop: list[int], batch: int, precision: str, shards: str) -> Evaluation:
    """The evaluation of the Cityscapes recipe on ``shards``, one frame at a time."""
    set_backends()
    config = recipe(arch, crop, batch, precision)
    return Evaluation(Config(shards=shards, data=config.data, model=config.model), alone(device))
