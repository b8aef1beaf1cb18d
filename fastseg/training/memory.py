"""Measure a run's memory, and decide how many decoded frames fit beside the network."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from fastseg.config import Config
from fastseg.data.frame_cache import allocate_arena, cache_bytes
from fastseg.distributed.ranks import Ranks, gather_states, raise_on_first
from fastseg.errors import UserError, out_of_memory
from fastseg.memory import (
    abandon,
    blank,
    free_memory,
    memory_left,
    memory_used,
    peak_of,
    pixels_that_fit,
    too_little,
)
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fastseg.shards.manifest import Manifest, Split
from fastseg.training.step import TrainStep

MAX_BATCH = 32
"""Largest batch per GPU that is chosen: larger ones need another schedule, and are not faster per image."""
CPU_BATCH = 4
"""Batch that is chosen per rank on a CPU, whose memory is not what limits it."""


class FrameCachePlan(NamedTuple):
    """The memory for a rank's decoded training frames."""

    arena: torch.Tensor | None
    """Memory on the device; None if frames are streamed."""
    rank_local: bool
    """Hold only the rank's share of the split, and draw from it alone."""


STREAMED = FrameCachePlan(arena=None, rank_local=False)


def with_batch(config: Config, manifest: Manifest, ranks: Ranks, saved: dict[str, Any] | None = None) -> Config:
    """Return ``config`` with a number for ``--data.batch auto``: the checkpoint's, or one chosen alike on every rank.

    On a GPU it is the largest that the memory left takes, a multiple of 8 from 8 on, at most :data:`MAX_BATCH`; on a
    CPU :data:`CPU_BATCH`. An epoch has at least one step. Raises :class:`UserError` if not even 2 images fit.
    """
    if config.data.batch != "auto":
        return config
    if saved:
        batch = saved["config"]["data"]["batch"]
    else:
        most = manifest.split(config.train_split).samples // (ranks.world * config.optim.accumulate)
        most = min(most, (config.optim.global_batch or most * ranks.world) // ranks.world)
        fits = CPU_BATCH if ranks.device.type == "cpu" else _batch_that_fits(config, manifest, ranks)
        batch = min(state["fits"] for state in gather_states({"fits": min(fits, MAX_BATCH, max(most, 2))}))
        if batch < 2:
            raise_on_first(too_little(ranks.device, "train with --data.batch auto", "lower --data.crop"))
    return replace(config, data=replace(config.data, batch=batch))


def _batch_that_fits(config: Config, manifest: Manifest, ranks: Ranks) -> int:
    """Return the images per step that fit, by a line through the memory of steps of 2 and 4."""
    return largest_batch(*_measure_steps(config, manifest, ranks, config.data.crop))


def _measure_steps(
    config: Config, manifest: Manifest, ranks: Ranks, crop: tuple[int, int]
) -> tuple[float, float, float]:
    """Return the peak bytes of steps of 2 and of 4 crops, infinity where there are not as many, and those there are.

    They are measured uncompiled, which takes more memory, with a network of their own.
    """
    device, model = ranks.device, replace(config.model, compile=False)
    free_memory(device)
    room = memory_left(device, ranks.local_world) + memory_used(device)
    network = SegmentationNetwork(
        model.arch, len(manifest.classes), IMAGENET_MEAN, IMAGENET_STD, config.aux_weight > 0, model.channels_last
    ).to(device)
    network.freeze(model.freeze)
    step = TrainStep(network, replace(config, model=model), Ranks(0, 1, 0, 1, device))
    averaged = sum(value.nbytes for value in network.state_dict().values()) if config.optim.ema else 0
    small, large = (peak_of(partial(step.dry_run, batch, crop), device) for batch in (2, 4))
    del step, network
    free_memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return small, large, room - averaged


def crops_that_fit(config: Config, manifest: Manifest, ranks: Ranks) -> float:
    """Return how many crops, or what share of one, a step may have: measured on crops of half the height and width.

    Where not even those fit, on smaller ones. Returns 0 if nothing could be measured.
    """
    for part in (2, 4, 8):
        height, width = (max(side // part, 32) for side in config.data.crop)
        small, large, room = _measure_steps(config, manifest, ranks, (height, width))
        if math.isfinite(large):
            break
    else:
        return 0.0
    each = max((large - small) / (2 * height * width), 1.0)
    return max(2 * height * width + (room - small) / each, 0.0) / math.prod(config.data.crop)


def smaller_step(config: Config, crops: float) -> str:
    """Return flags of a step of at most ``crops`` crops: of as many images in parts, else of smaller crops, or empty.

    An image more in a batch takes as much memory as another, and so does a pixel more in a crop.
    """
    data, whole = config.data, config.rank_batch
    if crops >= data.micro_batch:  # it was not the step that was too large
        return ""
    parts = [batch for batch in range(2, data.micro_batch) if batch <= crops and whole % batch == 0]
    if parts:
        by = "" if config.optim.global_batch else f" --optim.accumulate {whole // parts[-1]}"
        return f"--data.batch {parts[-1]}{by} fits, with as many images per step"
    if crops >= 2:
        return f"--data.batch {int(crops)} fits"
    height, width = (int(side * math.sqrt(crops / 2)) // 32 * 32 for side in data.crop)
    return f"--data.batch 2 --data.crop {height} {width} fits" if min(height, width) >= 32 else ""


@contextmanager
def explain_memory_error(config: Config, manifest: Manifest, ranks: Ranks) -> Iterator[None]:
    """Turn an error about too little memory for training into a :class:`UserError` that says what would fit."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        abandon(error, ranks.device)
        data, flags = config.data, ""
        with suppress(Exception):  # the measurement may fail as the run has: then there is no number
            flags = smaller_step(config, crops_that_fit(config, manifest, ranks))
        cached = data.cache_frames != "off" and ranks.device.type == "cuda"
        frames = "use --data.cache-frames off, or " if cached else ""
        cure = flags or f"{frames}lower --data.batch or --data.crop; --optim.accumulate adds small batches up"
        kept = "; the run resumes from its last checkpoint" if (config.folder / "checkpoints/last.pt").exists() else ""
        work = f"train with --data.batch {data.batch} and --data.crop {data.crop[0]} {data.crop[1]}"
        raise too_little(ranks.device, work, f"{cure}{kept}") from None


@contextmanager
def explain_evaluation_error(
    config: Config, manifest: Manifest, ranks: Ranks, infer: Callable[[torch.Tensor], object]
) -> Iterator[None]:
    """Turn an error about too little memory for an evaluation into a :class:`UserError` that says what would fit."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        device, batch = ranks.device, config.data.eval_batch
        abandon(error, device)
        largest = max(height * width for height, width, _ in manifest.split(config.eval_split).sizes)
        frames = pixels_that_fit(lambda side: infer(blank(side, device)), device, ranks.local_world) // largest
        cure = "lower --data.eval-batch" if batch > 1 else "use --data.cache-frames off or smaller frames"
        cure = f"--data.eval-batch {frames} fits" if 1 <= frames < batch else cure
        raise too_little(device, f"evaluate with --data.eval-batch {batch}", cure) from None


def largest_batch(small: float, large: float, room: float) -> int:
    """Return the batch whose step takes at most ``room`` bytes, if steps of 2 and 4 images take ``small``, ``large``.

    Memory grows by the same for every image. From 8 on a multiple of 8; 0 if 2 do not fit.
    """
    if small > room:
        return 0
    if math.isinf(large):
        return 2
    each = max((large - small) / 2, 1.0)
    batch = int(2 + (room - small) / each)
    return batch // 8 * 8 if batch >= 8 else batch


def plan_frame_cache(config: Config, manifest: Manifest, ranks: Ranks, train_step: TrainStep) -> FrameCachePlan:
    """Choose how to cache frames, alike on every rank, by ``config.data.cache_frames`` and the memory left.

    The frames' memory is allocated here at once, so that later requests see that it is taken. Raises
    :class:`UserError` if what is asked for does not fit.
    """
    wanted = config.data.cache_frames
    if wanted == "off" or (wanted == "auto" and ranks.device.type == "cpu"):
        return STREAMED
    # The network first: only a finished step shows what it needs.
    train_step.dry_run(config.data.micro_batch, config.data.crop)
    split = manifest.split(config.train_split)
    need = {"full": cache_bytes(split), "sharded": cache_bytes(split, ranks.world)}
    room = min(state["room"] for state in gather_states({"room": memory_left(ranks.device, ranks.local_world)}))
    for name, rank_local in (("full", False), ("sharded", True)):
        if wanted in ("auto", name) and need[name] <= room:
            arena = _allocate(split, ranks, ranks.world if rank_local else 1)
            if arena is not None:
                return FrameCachePlan(arena, rank_local and ranks.world > 1)
    if wanted == "auto":
        return STREAMED
    raise UserError(
        f"--data.cache-frames is {wanted}, but the decoded frames take {need[wanted] / 1e9:.1f} GB, and "
        f"{max(room, 0) / 1e9:.1f} GB are free beside the network; use --data.cache-frames auto or off"
    )


def _allocate(split: Split, ranks: Ranks, world: int) -> torch.Tensor | None:
    """Allocate the frames' memory if every rank can; else return None on all."""
    try:
        arena = allocate_arena(split, ranks.device, world)
    except Exception as error:
        if not out_of_memory(error):
            raise
        arena = None
    return arena if all(state["taken"] for state in gather_states({"taken": arena is not None})) else None
