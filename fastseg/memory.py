"""Measure memory: what is left on a device, what a computation takes, and how much of it would fit."""

import ctypes
import gc
import math
import os
import resource
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from fastseg.errors import UserError, out_of_memory

SPARE = 0.1
"""Share of a GPU's memory left free for DALI's buffers, an evaluation's, and fragmentation."""
SIDES = (256, 512)
"""Heights and widths of the pictures by which the memory of a pixel is measured."""


def memory_left(device: torch.device, sharing: int = 1) -> int:
    """Return the bytes that this process may still take on its GPU, or of the machine's memory.

    ``sharing``: processes that share the machine's memory, each with its own GPU if they use any.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(free - SPARE * total)
    return int(min(min(_available(), _allowed()) / sharing, _limited()) * (1 - SPARE))


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


def _limited() -> float:
    """Return the bytes that this process's limit of addresses leaves (``ulimit -v``); infinity without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return float("inf") if limit == resource.RLIM_INFINITY else limit - _status("VmSize")


def memory_used(device: torch.device) -> float:
    """Return the bytes that this process holds on the GPU, freed ones that torch keeps included, or on the CPU."""
    return float(torch.cuda.memory_reserved(device)) if device.type == "cuda" else _status("VmRSS")


def peak_memory(device: torch.device) -> float:
    """Return the peak bytes of tensors on the GPU so far, or of this process on the CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    # Not getrusage's ru_maxrss, which a process inherits from the one that started it.
    return _status("VmHWM")


def _status(name: str) -> float:
    """Return one of this process's sizes, bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return 1024 * float(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def peak_of(work: Callable[[], object], device: torch.device) -> float:
    """Return this process's peak bytes on the device while ``work`` runs; infinity if there are not as many.

    On a GPU it runs twice: at first cuDNN searches for algorithms, with memory that it does not take again.
    """
    try:
        if device.type == "cuda":
            work()
        free_memory(device)
        _begin_peak(device)
        work()
    except Exception as error:
        if not out_of_memory(error):
            raise
        abandon(error, device)
        return math.inf
    return float(torch.cuda.max_memory_reserved(device)) if device.type == "cuda" else _status("VmHWM")


def _begin_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5)


def free_memory(device: torch.device) -> None:
    """Give back what is freed, but kept by Python, torch or the C library."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        ctypes.CDLL(None).malloc_trim(0)


def abandon(error: BaseException, device: torch.device) -> None:
    """Free what the functions that ``error`` has left hold: an exception keeps all their variables."""
    traceback.clear_frames(error.__traceback__)
    free_memory(device)


def pixels_that_fit(work: Callable[[int], object], device: torch.device, sharing: int = 1) -> int:
    """Return how many pixels at a time a device's memory takes, if ``work`` computes a square picture of a side.

    Measures two small ones: memory grows by the same for every pixel. Returns 0 if not even those can be computed.
    """
    try:
        room = memory_left(device, sharing) + memory_used(device)
        small, large = (peak_of(lambda side=side: work(side), device) for side in SIDES)  # type: ignore[misc]
    except Exception:  # what is measured has failed before; the caller's sentence does without a number
        return 0
    if not large < math.inf:
        return 0
    each = max((large - small) / (SIDES[1] ** 2 - SIDES[0] ** 2), 1.0)
    return max(int(SIDES[0] ** 2 + (room - small) / each), 0)


def blank(side: int, device: torch.device) -> torch.Tensor:
    """Return a black picture as networks take it, uint8 1×side×side×3."""
    return torch.zeros(1, side, side, 3, dtype=torch.uint8, device=device)


def too_little(device: torch.device, work: str, cure: str) -> UserError:
    """Return the error that the device's (or the machine's) memory is too little for ``work``, with the cure."""
    total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else machine_memory()
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    total = min(total, limit) if device.type == "cpu" and limit != resource.RLIM_INFINITY else total
    return UserError(f"{device}'s {total / 2**30:.1f} GiB of memory are too little to {work}; {cure}")


def machine_memory() -> int:
    """Return this machine's memory, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
