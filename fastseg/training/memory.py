"""Measure a run's memory, and decide how many decoded frames fit beside the network."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastseg.config import Config
from fastseg.data.frame_cache import allocate_arena, cache_bytes
from fastseg.device import too_little
from fastseg.distributed.ranks import Ranks, gather_states, raise_on_first
from fastseg.errors import UserError
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fastseg.shards.manifest import Manifest, Split
from fastseg.training.step import TrainStep

SPARE = 0.1
"""Share of a GPU's memory left free for DALI's buffers, an evaluation's, and fragmentation."""
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
        fits = CPU_BATCH if ranks.device.type == "cpu" else _batch_that_fits(config, manifest, ranks)
        batch = min(state["fits"] for state in gather_states({"fits": min(fits, MAX_BATCH, max(most, 2))}))
        if batch < 2:
            raise_on_first(too_little(ranks.device, "train with --data.batch auto", "lower --data.crop"))
    return replace(config, data=replace(config.data, batch=batch))


def _batch_that_fits(config: Config, manifest: Manifest, ranks: Ranks) -> int:
    """Measure steps of 2 and 4 images on the GPU, uncompiled, which takes more memory; return what fits by a line."""
    model = replace(config.model, compile=False)
    alone = Ranks(0, 1, 0, 1, ranks.device)
    network = SegmentationNetwork(
        model.arch, len(manifest.classes), IMAGENET_MEAN, IMAGENET_STD, config.aux_weight > 0, model.channels_last
    ).to(ranks.device)
    network.freeze(model.freeze)
    step = TrainStep(network, replace(config, model=model), alone)
    averaged = sum(value.nbytes for value in network.state_dict().values()) if config.optim.ema else 0
    room = memory_left(ranks) + torch.cuda.memory_reserved(ranks.device) - averaged
    small, large = (_step_memory(step, batch, config.data.crop) for batch in (2, 4))
    del step, network
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(ranks.device)
    return largest_batch(small, large, room)


def _step_memory(step: TrainStep, batch: int, crop: tuple[int, int]) -> float:
    """Return the peak bytes of a step, the network's included; infinity if there are not as many."""
    try:
        step.dry_run(batch, crop)  # searches for the convolutions' algorithms, with memory that later steps do not take
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step.dry_run(batch, crop)
    except torch.OutOfMemoryError:
        return math.inf
    return float(torch.cuda.max_memory_reserved())


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
    room = min(state["room"] for state in gather_states({"room": memory_left(ranks)}))
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
    except torch.OutOfMemoryError:
        arena = None
    return arena if all(state["taken"] for state in gather_states({"taken": arena is not None})) else None


def memory_left(ranks: Ranks) -> int:
    """Return the bytes that this rank may still take on its GPU, or of its share of the machine's memory."""
    if ranks.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(ranks.device)
        return int(free - SPARE * total)
    return int(min(_available(), _allowed()) * (1 - SPARE) / ranks.local_world)


def _available() -> float:
    """Return the bytes that the kernel can give without swapping."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return 1024 * float(fields["MemAvailable"].split()[0])


def _allowed() -> float:
    """Return the bytes that a container's limit leaves (cgroup v2); infinity without a limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return float("inf")
    return float("inf") if limit == "max" else float(limit) - float(used)


def peak_memory(device: torch.device) -> float:
    """Return the peak bytes of tensors on the GPU so far, or of this process on the CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    # Not getrusage's ru_maxrss, which a process inherits from the one that started it.
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return 1024 * float(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
