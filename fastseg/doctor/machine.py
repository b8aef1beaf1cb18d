"""Check what the machine, a container or a batch system grants this process: cores, memory, files."""

import os
import resource
import shutil
from pathlib import Path

from fastseg.doctor.rows import Request, Row, broken, gib, ok, warning
from fastseg.driver import read_driver
from fastseg.parallel import usable_cores

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
SHM = Path("/dev/shm")
MIN_SHM = 1 << 29
"""Bytes of shared memory: NCCL takes some tens of MB per pair of ranks; Docker gives 64 MB by default."""
MIN_MEMORY = 8 << 30
"""Bytes below which even a process for one GPU, with torch, CUDA and DALI, may be killed."""
MIN_FILES = 1024
"""Open files: tars, memory maps, and the sockets between ranks."""


def cores(_request: Request) -> list[Row]:
    """Compare the usable cores with the container's CPU limit."""
    usable, total, quota = usable_cores(), os.cpu_count() or 1, cpu_quota()
    found = f"{usable} of {total} cores may be used"
    if quota is not None and quota < usable:
        return warning(
            "cores",
            f"{found}, but the container's limit (cgroup) is the time of {quota:.1f}: threads are started for {usable} "
            "and then throttled",
            "give it more (docker --cpus, Kubernetes resources.limits.cpu), or keep to fewer cores: taskset -c "
            f"0-{max(round(quota) - 1, 0)} COMMAND",
        )
    gpus = len(read_driver().gpus)
    if usable < min(2 * gpus, total):
        return warning("cores", f"{found}, for {gpus} GPUs", "ask for 8 a GPU, 2 at least (Slurm: --cpus-per-task)")
    return ok("cores", found)


def threads(_request: Request) -> list[Row]:
    """Check how many threads torch uses on the CPU."""
    value, usable = os.environ.get("OMP_NUM_THREADS"), usable_cores()
    if value is None:
        return ok("threads", "OMP_NUM_THREADS is not set: each rank takes its share of the cores")
    number = int(value) if value.isdigit() else 0
    found = f"OMP_NUM_THREADS is {value}, with {usable} cores to use"
    if number == 0 or number > usable or (number == 1 and usable > 1 and not read_driver().gpus):
        return warning("threads", found, "unset OMP_NUM_THREADS: each rank then takes its share of the cores")
    return ok("threads", found)


def cpu_quota() -> float | None:
    """Return the CPU limit of this process's cgroups (v1 or v2), in cores; None without one."""
    quotas = []
    for folder in _groups("cpu"):
        try:
            if (folder / "cpu.max").exists():
                most, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            else:
                most, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
            if most not in ("max", "-1"):
                quotas.append(int(most) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return min(quotas, default=None)


def memory_limit() -> int | None:
    """Return the memory limit of this process's cgroups, bytes; None without one."""
    limits = []
    for folder in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                limits.append(int((folder / name).read_text(encoding="ascii")))
            except (OSError, ValueError):
                continue
    return min((limit for limit in limits if limit < 1 << 60), default=None)


def _groups(controller: str) -> list[Path]:
    """Return the folders of this process's cgroup and of its parents."""
    try:
        lines = (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, names, path = line.split(":", 2)
        root = CGROUP if names == "" else CGROUP / controller
        if names == "" or controller in names.split(","):
            group = root / path.strip("/")
            folders += [group, *(parent for parent in group.parents if parent.is_relative_to(root))]
    return folders


def memory(_request: Request) -> list[Row]:
    """Check the free memory of the machine and the container's limit."""
    fields = dict(line.split(":") for line in (PROC / "meminfo").read_text(encoding="ascii").splitlines())
    total, free = (1024 * int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    limit = memory_limit()
    found = f"{gib(free)} of {gib(total)} are free"
    if limit is not None and limit < total:
        found += f", the container's limit is {gib(limit)}"
    least = MIN_MEMORY * max(len(read_driver().gpus), 1)
    if min(free, limit or free) < least:
        cure = f"end what is not needed, or ask for more (Slurm: --mem): training may take {gib(least)} here"
        return warning("memory", found, cure)
    return ok("memory", found)


def shared_memory(_request: Request) -> list[Row]:
    """Check the shared memory that NCCL's ranks on one machine use."""
    try:
        room = shutil.disk_usage(SHM)
    except OSError as error:
        cure = "mount it, of type tmpfs: NCCL needs it between the GPUs of a machine"
        return broken("shared memory", f"{SHM} cannot be used ({error.strerror})", cure)
    found = f"{gib(room.free)} of {gib(room.total)} in {SHM} are free"
    if room.free < MIN_SHM:
        return warning("shared memory", found, "start the container with more: docker run --shm-size 8g, or --ipc host")
    return ok("shared memory", found)


def open_files(_request: Request) -> list[Row]:
    """Check how many files a process may have open."""
    soft, hard = (2**31 if n == resource.RLIM_INFINITY else n for n in resource.getrlimit(resource.RLIMIT_NOFILE))
    found = f"{soft:,} at a time (up to {hard:,})"
    if soft < MIN_FILES:
        cure = "before the command: ulimit -n 4096" + " (as root, or in /etc/security/limits.conf)" * (hard < 4096)
        return warning("open files", found, cure)
    return ok("open files", found)
