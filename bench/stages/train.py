"""Train: the real loop, from shards to updated weights, without evaluations and checkpoints."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch

from bench.runner.results import Row, ratio_to_ours
from bench.runner.runner import Entry
from bench.runner.worker import Benchmark
from bench.stages import Request, compute
from bench.stages.compute import alone, set_backends
from bench.stages.steps import recipe, settings_of
from fastseg.config import Config
from fastseg.distributed.ranks import Ranks
from fastseg.memory import peak_memory
from fastseg.shards.manifest import read_manifest
from fastseg.training.memory import plan_frame_cache
from fastseg.training.run import build_loaders, build_state
from fastseg.training.trainer import Trainer

COMPUTE = "fastseg: compute alone"
STREAMED = "fastseg, streamed"
NEVER = 1e9
"""Epochs until an evaluation, a checkpoint or the end."""


def entries(request: Request) -> list[Entry]:
    """Return fastseg's entry and its step alone; on a GPU, where frames are cached, also without the cache."""
    assert request.frames is not None
    settings = settings_of(request)
    reading = {"scale": list(request.scale), "shards": str(request.frames.shards())}
    loop = Entry("train", "fastseg", "images/s", f"{__name__}:open_train", settings | reading)
    streamed = replace(loop, name=STREAMED, settings=loop.settings | {"cache_frames": "off"})
    return [
        loop,
        *[streamed] * (request.device == "cuda"),
        Entry("train", COMPUTE, "images/s", f"{compute.__name__}:open_ours", settings),
    ]


class Train(Benchmark):
    """A benchmark of the steps of :class:`fastseg.training.trainer.Trainer`."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        manifest = read_manifest(config.shards)
        self.device, self.batch = ranks.device, config.data.micro_batch
        state = build_state(config, manifest, ranks)
        held = plan_frame_cache(config, manifest, ranks, state.train_step)
        loaders = build_loaders(config, manifest, ranks, None, held)
        # Uses up the batches prefetched while the process was stopped; cached frames are decoded once.
        self.warmup_steps = config.data.prefetch + 1 + loaders[0].cached * loaders[0].steps_per_epoch
        with _signals_kept():
            self.trainer = Trainer(config, manifest, ranks, state, loaders, None)

    def begin(self) -> None:
        """Restart the clock, so that the share of waiting is the window's."""
        self.trainer.clock.restart()

    def step(self) -> int:
        """Do one step of the loop; return its number of images."""
        self.trainer.advance()
        return self.batch

    def figures(self) -> dict[str, float]:
        """Return waiting: share of time that the device waited for data; gpu_utilization: 0–1, by the driver."""
        return {
            "waiting": self.trainer.clock.snapshot().waiting,
            "peak_memory_bytes": peak_memory(self.device),
            **utilization(self.device),
        }


def open_train(
    device: str,
    arch: str,
    crop: list[int],
    batch: int,
    precision: str,
    scale: list[float],
    shards: str,
    cache_frames: Literal["auto", "off"] = "auto",
) -> Train:
    """Build the loop of the Cityscapes recipe on ``shards``."""
    set_backends()
    config = recipe(arch, crop, batch, precision)
    config = replace(
        config,
        shards=shards,
        eval_every=NEVER,
        save_every=NEVER,
        log_every=10**9,
        data=replace(config.data, scale=(scale[0], scale[1]), cache_frames=cache_frames),
        optim=replace(config.optim, epochs=NEVER),
    )
    return Train(config, alone(device))


def utilization(device: torch.device) -> dict[str, float]:
    """Return the share of the driver's last sampling period in which a kernel ran; empty if it cannot be asked."""
    if device.type != "cuda":
        return {}
    try:
        return {"gpu_utilization": torch.cuda.utilization(device) / 100}
    except Exception:  # nvidia-ml-py is not installed, or the driver refuses in one of many ways
        return {}


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the signal handlers: the trainer would end after the step, an entry has to exit at once."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def derived(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the loop's speed over that of compute alone, with frames cached and streamed: the rest is loading."""
    windows = {row.entry: row.windows for row in rows if row.stage == "train"}
    found = []
    for entry, name, loop in (
        ("fastseg", "train/compute", "The whole loop"),
        (STREAMED, "train/streamed", "Streamed, the whole loop"),
    ):
        share = ratio_to_ours(windows.get(entry, ()), windows.get(COMPUTE, ()))
        if share is not None:
            sentence = f"{loop} reaches {100 * share.median:.0f} % of compute alone, window by window"
            found.append({"name": name, "value": share.median, "sentence": sentence})
    return found
