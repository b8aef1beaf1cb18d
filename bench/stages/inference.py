"""Inference on a CPU: frames through the network with all threads and with one, on an idle machine and a busy one.

On a busy machine each core has another job, which computes without end while an entry is measured.
"""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch

from bench.runner.results import Row, ratio_to_ours
from bench.runner.runner import Entry
from bench.runner.worker import Benchmark
from bench.stages import Request
from bench.stages.steps import recipe, synthetic_batch, synthetic_manifest
from fastseg.config import ModelConfig
from fastseg.device import autocast, precision_of
from fastseg.distributed.ranks import Ranks
from fastseg.model.inference import predict
from fastseg.training.run import build_model

FRAME = (256, 512)
"""Height and width of a frame, pixels: that of ``make demo``, whose many short operations wait most for threads."""
ALL, ONE, ALL_BUSY, ONE_BUSY = (
    "fastseg",
    "fastseg: one thread",
    "fastseg: on busy cores",
    "fastseg: one thread on busy cores",
)
JOB = (sys.executable, "-c", "while True: pass")


def entries(request: Request) -> list[Entry]:
    """Return the entries: threads × other jobs."""
    settings = {"arch": request.arch, "precision": request.precision}
    absent = None if request.device == "cpu" else "measures a CPU (--device cpu)"
    found = {ALL: (False, False), ONE: (True, False), ALL_BUSY: (False, True), ONE_BUSY: (True, True)}
    return [
        Entry(
            "inference",
            name,
            "frames/s",
            f"{__name__}:Inference",
            settings | {"threads": 1 if one else request.cores, "jobs": request.cores if busy else 0},
            absent=absent,
        )
        for name, (one, busy) in found.items()
    ]


def derived(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what all threads gain over one on an idle machine, and what they lose on a busy one."""
    windows = {row.entry: row.windows for row in rows if row.stage == "inference"}
    found = []
    for name, one, every, said in (
        ("inference/idle", ONE, ALL, "on an idle machine, one thread takes {:.2f}× the time of all"),
        (
            "inference/busy",
            ALL_BUSY,
            ONE_BUSY,
            "beside other jobs on all cores, all threads take {:.2f}× the time of one",
        ),
    ):
        # Times are the inverse of rates.
        if ratio := ratio_to_ours(windows.get(every, ()), windows.get(one, ())):
            found.append({"name": name, "value": ratio.median, "sentence": said.format(ratio.median)})
    return found


class Inference(Benchmark):
    """A benchmark: each step predicts the classes of a frame."""

    def __init__(self, arch: str, precision: str, threads: int, jobs: int) -> None:
        """Predict with ``threads`` threads, beside ``jobs`` other processes that compute."""
        torch.set_num_threads(threads)
        device = torch.device("cpu")
        self.precision, self.device = precision_of(ModelConfig(precision=precision).precision, device), device  # type: ignore[arg-type]
        config, ranks = recipe(arch, list(FRAME), 2, precision), Ranks(0, 1, 0, 1, device)
        self.model = build_model(config, synthetic_manifest(), ranks, "none").eval()
        self.image, _ = synthetic_batch(1, FRAME, device)
        self.jobs = [subprocess.Popen(JOB) for _ in range(jobs)]

    def step(self) -> int:
        """Predict a frame."""
        with autocast(self.precision, self.device):
            predict(self.model, self.image)
        return 1

    def close(self) -> None:
        """End the other jobs."""
        for job in self.jobs:
            job.kill()
            job.wait()
