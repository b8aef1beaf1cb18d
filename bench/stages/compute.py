"""Compute: forward and backward pass and update on one synthetic batch, without a loader."""

from collections.abc import Sequence
from typing import Any

import torch

from bench import peers
from bench.runner.results import Row
from bench.runner.runner import Entry
from bench.stages import Request
from bench.stages.steps import (
    CLASSES,
    RATE,
    Steps,
    first_device,
    recipe,
    settings_of,
    synthetic_batch,
    synthetic_manifest,
)
from fastseg.config import Config
from fastseg.device import AsyncMetrics
from fastseg.distributed.ranks import Ranks
from fastseg.training.flops import step_flops
from fastseg.training.run import build_state

PEERS = ("step_notebook", "step_torchvision")
PEAKS = {"mfu_datasheet": "the datasheet's peak", "mfu_measured": "what matrix products reach in the same run"}
"""Figure → the peak of which it is a share."""


def entries(request: Request) -> list[Entry]:
    """Return fastseg's entry, then the peers that take part."""
    settings = settings_of(request)
    return [
        Entry("compute", "fastseg", "images/s", f"{__name__}:open_ours", settings),
        *(peer_entry(name, settings) for name in PEERS if request.takes(name)),
    ]


def peer_entry(name: str, settings: dict[str, Any]) -> Entry:
    """Return the entry of a module of bench/peers with ``open_step``."""
    module = peers.load(name)
    factory = f"bench.peers.{name}:open_step"
    return Entry("compute", module.NAME, "images/s", factory, settings, requires=module.REQUIRES)


class Ours:
    """The trainer's work on a batch, and nothing else: the step, the average, the metrics to the host."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        self.config, self.ranks = config, ranks
        self.state = build_state(config, synthetic_manifest(), ranks)
        self.async_metrics = AsyncMetrics[int](ranks.device)
        self.image, self.label = synthetic_batch(config.data.micro_batch, config.data.crop, ranks.device)

    def train(self) -> None:
        """Do one step."""
        state = self.state
        numbers = state.train_step(self.image, self.label, RATE)
        if state.average:
            state.average.update(state.step)
        state.step += 1
        self.async_metrics.exchange(state.step, numbers)

    def steps(self) -> Steps:
        """Return the step as a benchmark."""
        data, model = self.config.data, self.config.model
        flops = step_flops(model.arch, CLASSES, data.micro_batch, data.crop, self.config.aux_weight > 0)
        return Steps(self.train, data.micro_batch, flops, self.ranks.device, self.state.train_step.precision)


def open_ours(device: str, arch: str, crop: list[int], batch: int, precision: str) -> Steps:
    """Build the step of the Cityscapes recipe."""
    set_backends()
    return Ours(recipe(arch, crop, batch, precision), alone(device)).steps()


def set_backends() -> None:
    """Set torch's backends as :func:`fastseg.training.run.train` does."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")


def alone(device: str) -> Ranks:
    """Return a single rank."""
    return Ranks(rank=0, world=1, local_rank=0, local_world=1, device=first_device(device))


def derived(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return fastseg's TFLOP/s; on a GPU also as shares of the datasheet's peak and of measured matrix products.

    A CPU has no such peak: its convolutions beat the library's matrix products.
    """
    row = next((row for row in rows if row.stage == "compute" and row.ours and "tflops" in row.figures), None)
    if row is None:
        return []
    figures, peaks = row.figures, PEAKS if row.settings["device"] == "cuda" else {}
    shares = [f"{100 * figures[name]:.0f} % of {peak}" for name, peak in peaks.items() if name in figures]
    parts = [f"{figures['tflops']:.3g} TFLOP/s", *shares]
    sentence = f"The step computes {', '.join(parts)}; its memory peaks at {figures['peak_memory_bytes'] / 1e9:.3g} GB"
    return [{"name": "compute/tflops", "value": figures["tflops"], "sentence": sentence}]
