"""Measure where a step's time goes, the headspace first: ``fastseg-train --breakdown SECONDS``.

The headspace is how much faster training would be if the loader cost nothing. Windows of the real loop alternate with
windows on one repeated batch, of the loader alone, and of the loader up to one of its parts: a machine that slows down
slows all of them.
"""

import statistics
import sys
import time
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.text import Text

from fastseg.config import Config
from fastseg.data.decoder_probe import choose_decoder_for_ranks
from fastseg.data.loader import CPU, Batch, open_files
from fastseg.data.loader_parts import IMAGE, MASK, READ, loader_part
from fastseg.distributed.ranks import Ranks, barrier, gather_states
from fastseg.parallel import cpu_threads
from fastseg.progress import is_quiet
from fastseg.shards.manifest import Manifest
from fastseg.storage import use_cache
from fastseg.training.display import plain_table
from fastseg.training.memory import explain_memory_error, plan_frame_cache, with_batch
from fastseg.training.optim import with_accumulation
from fastseg.training.profiler import SpanTimes, Table, profile_document
from fastseg.training.run import build_state, resume
from fastseg.training.trainer import Trainer

ROUNDS = 5
"""Windows of each kind: an odd number, so that the median is one of them."""
WARMUP = 3
"""Steps before the first window, which compile and search for algorithms."""
REAL, FREE, LOADER = "real", "free", "loader"
"""Kinds of windows: the real loop, on a repeated batch, the loader alone; the others are parts of the loader."""
WAITING, OTHER = "waiting for the loader", "other"
SPANS = {"data": WAITING}
"""Ranges of :class:`Trainer` → the names of parts; the other ranges have the names of theirs."""
ENOUGH = 1.05
"""Headspace from which the loader is worth a thought: less is within the noise of a busy machine."""


class Loop:
    """The training loop, step by step, at the beginning of its schedule for ever."""

    def __init__(self, trainer: Trainer, parts: dict[str, Callable[[], object]], seconds: float) -> None:
        """Warm up. ``parts``: name → function that makes a batch up to that part. ``seconds``: of all windows."""
        self.trainer, self.loader, self.parts = trainer, trainer.loader, parts
        self.device = trainer.ranks.device
        self.images = trainer.config.rank_batch * trainer.ranks.world
        self.ahead = trainer.config.data.prefetch + 2
        """Batches that may lie finished, and would make a window look faster than it is."""
        self.seconds = seconds / ROUNDS / (3 + len(parts))
        """Seconds of a window."""
        self.take(WARMUP)
        if self.loader.filling:
            self.take(self.loader.steps_per_epoch)
        each = self.take(WARMUP) / WARMUP
        # As many on all ranks, which exchange gradients.
        self.steps = max(2, *(state["steps"] for state in gather_states({"steps": round(self.seconds / each)})))

    def take(self, steps: int) -> float:
        """Do steps; return their seconds."""
        begin = time.perf_counter()
        for _ in range(steps):
            self.trainer.run_step()
            self.trainer.state.step = 0
            if number := self.trainer.stopping.signal:
                sys.exit(128 + number)
        return self.wait() - begin

    def wait(self) -> float:
        """Wait for the device; return the time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def measure_round(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the images per second of a window of each kind, and the milliseconds of a real step's parts."""
        drained = self.take(min(self.ahead, self.steps))
        with SpanTimes(self.device) as times:
            seconds = self.take(self.steps)
        rates = {REAL: self.steps * self.images / seconds}
        each = {SPANS.get(name, name): 1000 * spent / self.steps for name, spent in times.seconds().items()}
        each[OTHER] = max(1000 * seconds / self.steps - sum(each.values()), 0.0)
        batch = self.loader.next()
        time.sleep(drained)  # the loader makes its batches ahead meanwhile, and then rests
        self.trainer.loader = _Repeated(batch)  # type: ignore[assignment]
        rates[FREE] = self.steps * self.images / self.take(self.steps)
        self.trainer.loader = self.loader
        for name, make in {LOADER: self.loader.next, **self.parts}.items():
            rates[name] = self._rate(make)
        return rates, each

    def _rate(self, make: Callable[[], object]) -> float:
        for _ in range(self.ahead):
            make()
        begin = self.wait()
        for made in count(1):
            make()
            if time.perf_counter() - begin >= self.seconds:
                return made * self.images / (self.wait() - begin)
        raise AssertionError


class _Repeated:
    """In place of a loader: always the same batch."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def next(self) -> Batch:
        return self._batch


def measure(config: Config, manifest: Manifest, ranks: Ranks, seconds: float) -> dict[str, Any]:
    """Measure on every rank; return what the first one saw, with the windows of :func:`summarize`.

    ``seconds``: of all windows, without building, compiling and caching. Writes nothing.
    """
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    config = with_accumulation(with_batch(config, manifest, ranks, None), ranks.world)
    use_cache(config.cache, config.cache_gb)
    decoder = choose_decoder_for_ranks(config.data.decoder, config.shards, config.train_split, manifest, ranks)
    state = build_state(config, manifest, ranks, resumed=True)  # no weights are downloaded
    with explain_memory_error(config, manifest, ranks):
        plan = plan_frame_cache(config, manifest, ranks, state.train_step)
        if state.train_step.network.untried:
            state.train_step.dry_run(config.data.micro_batch, config.data.crop)
        loaders, _ = resume(config, manifest, ranks, state, None, plan, decoder.processor)
        trainer = Trainer(config, manifest, ranks, state, loaders, None)
        cached = loaders[0].cached
        parts = {} if cached else _loader_parts(config, manifest, ranks, decoder.processor)
        if ranks.first and not is_quiet():
            print(f"measuring for {seconds:g} s, after a few steps to warm up", file=sys.stderr)
        loop = Loop(trainer, parts, seconds)
        rounds = [loop.measure_round() for _ in range(ROUNDS)]
    barrier()
    about = profile_document({}, state.train_step.config, ranks)
    return {
        "environment": about["environment"],
        "settings": about["settings"] | {"images": loop.images, "cached": cached, "image_codec": manifest.image_codec},
        "windows": {
            "steps": loop.steps,
            "images_per_second": {kind: [rates[kind] for rates, _ in rounds] for kind in rounds[0][0]},
            "step_ms": [each for _, each in rounds],
        },
    }


def _loader_parts(config: Config, manifest: Manifest, ranks: Ranks, processor: str) -> dict[str, Callable[[], object]]:
    """Return functions that make this rank's batches up to each part of the loader."""
    data = config.data
    files = open_files(config.shards, manifest, config.train_split, rank=ranks.rank, world=ranks.world)
    options: dict[str, Any] = {
        "batch": config.rank_batch,
        "device": ranks.device if processor == "gpu" else CPU,
        "threads": data.threads or cpu_threads(ranks.local_world),
        "prefetch": data.prefetch,
        "seed": config.seed,
    }
    return {part: loader_part(part, files, data, **options) for part in (READ, IMAGE, MASK)}


class Summary(NamedTuple):
    """What the windows of a measurement say."""

    rate: float
    """Images per second of training, over all ranks."""
    headspace: float
    """How many times as fast training would be if the loader cost nothing."""
    step: dict[str, float]
    """Part of a step → its milliseconds in the median window; they add up to the step."""
    loader_rate: float
    """Images per second of the loader alone."""
    loader: dict[str, float]
    """Part of the loader → milliseconds a batch; they add up to those of the loader alone."""

    @property
    def step_ms(self) -> float:
        """Return the milliseconds of a step."""
        return sum(self.step.values())


def summarize(document: dict[str, Any]) -> Summary:
    """Return medians of what :func:`measure` returned."""
    rates, steps = document["windows"]["images_per_second"], document["windows"]["step_ms"]
    order = sorted(range(len(steps)), key=lambda i: rates[REAL][i])
    middle = order[len(order) // 2]
    ratios = [free / real for free, real in zip(rates[FREE], rates[REAL], strict=True)]
    ms = {kind: 1000 * document["settings"]["images"] / statistics.median(found) for kind, found in rates.items()}
    return Summary(
        rate=rates[REAL][middle],
        headspace=statistics.median(ratios),
        step=steps[middle],
        loader_rate=statistics.median(rates[LOADER]),
        loader=_loader_ms(ms),
    )


def _loader_ms(ms: dict[str, float]) -> dict[str, float]:
    """Return the milliseconds of each part of the loader; ``ms``: of a batch up to there, by kind.

    Parts that ran beside each other are shortened, so that all add up to the loader alone.
    """
    if READ not in ms:
        return {"cutting and augmenting cached frames": ms[LOADER]}
    parts = {
        "reading and cutting": ms[READ],
        "decoding images": max(ms[IMAGE] - ms[READ], 0.0),
        "decoding masks": max(ms[MASK] - ms[READ], 0.0),
    }
    together = sum(parts.values())
    parts = {name: part * min(ms[LOADER] / together, 1.0) for name, part in parts.items()}
    return {**parts, "augmenting, resizing and copying": max(ms[LOADER] - together, 0.0)}


CURES = {
    "reading and cutting": "copy the set to a local disk, or name a folder on one with --cache",
    "decoding images": "give it more cores (--data.threads), a set packed smaller (fastseg-pack --height), or on a GPU "
    "with room for the decoded frames --data.cache-frames auto",
    "decoding masks": "give it more cores (--data.threads), or pack a smaller set (fastseg-pack --height)",
    "augmenting, resizing and copying": "give it more cores (--data.threads), or set --data.hue, --data.saturation and "
    "--data.contrast to 0",
    "cutting and augmenting cached frames": "set --data.hue, --data.saturation and --data.contrast to 0",
}
"""Part of the loader → what makes it faster."""


def advice(document: dict[str, Any]) -> str:
    """Return one sentence that follows from the measurement."""
    found, codec = summarize(document), document["settings"]["image_codec"]
    largest = max((name for name in found.step if name != WAITING), key=lambda name: found.step[name])
    if found.headspace < ENOUGH:
        return (
            f"The network limits training and there is nothing to win in the loader: {largest} takes most; a smaller "
            "--data.crop or --model.arch is faster."
        )
    slowest = max(found.loader, key=lambda name: found.loader[name])
    cure = "pack the images as JPEGs (--image jpg)" if "images" in slowest and codec == "png" else CURES[slowest]
    if found.loader_rate > ENOUGH * found.rate * found.headspace:
        return (
            "Loader and network want the same cores: alone the loader would keep up; give the machine more cores, or "
            f"let the loader work less, most of all at {slowest}: {cure}."
        )
    return f"The loader limits training, most of all by {slowest}: {cure}."


def tables(document: dict[str, Any]) -> tuple[str, list[Table], str]:
    """Return the headline, the tables of the step and of the loader, and the advice."""
    found = summarize(document)
    free = f"{found.rate * found.headspace:.4g} images/s, {found.headspace:.2f} times as fast"
    free = free if found.headspace >= 1 else f"no faster ({found.headspace:.2f} times as fast, which is noise)"
    headline = (
        f"{found.rate:.4g} images/s, {found.step_ms:.4g} ms a step of {document['settings']['images']}. "
        f"Headspace: with a loader that costs nothing {free}."
    )
    step = _table("part of a step", found.step, "the step")
    loader = _table("part of the loader, beside the step", found.loader, f"alone, {found.loader_rate:.4g} images/s")
    return headline, [step, loader], advice(document)


def _table(title: str, parts: dict[str, float], total: str) -> Table:
    whole = sum(parts.values())
    rows = [(name, f"{ms:.2f}", f"{100 * ms / whole:.1f} %") for name, ms in parts.items()]
    return Table(title, (title, "ms", "share"), [*rows, (total, f"{whole:.2f}", "100 %")])


def show(document: dict[str, Any]) -> None:
    """Print the measurement on stdout."""
    console = Console(markup=False, highlight=False)
    headline, found, last = tables(document)
    console.print(Text(headline))
    for table in found:
        console.print(plain_table(table))
    console.print(Text(last))
