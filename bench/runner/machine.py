"""Environment of a run of the bench: that of fastseg's runs, commit, cores and threads; a GPU's energy.

``python -m bench.runner.machine FILE COMMAND…`` writes it to a file, as that of a command.
"""

import os
import shlex
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from itertools import count, groupby
from pathlib import Path
from typing import Any

import torch

from bench.runner.processes import ROOT
from bench.runner.results import write_json
from fastseg.device import environment

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def machine() -> dict[str, str]:
    """Return versions, hardware, command, commit, affinity and threads, as text; cores are the usable ones."""
    usable, governor = sorted(os.sched_getaffinity(0)), "unknown"
    with suppress(OSError):
        governor = GOVERNOR.read_text(encoding="utf-8").strip()
    # Consecutive numbers keep their distance to a counter: 0-3,8 as taskset takes it.
    counter = count()
    runs = [list(group) for _, group in groupby(usable, lambda core: core - next(counter))]
    return {
        **environment(),
        "cores": str(len(usable)),
        "commit": commit(),
        "affinity": ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs),
        "threads": str(torch.get_num_threads()),
        **{name: os.environ[name] for name in THREADS if name in os.environ},
        "governor": governor,
    }


def commit() -> str:
    """Return the commit, followed by "(changed)" if files differ from it; "unknown" outside a repository."""
    try:
        head, changed = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + (" (changed)" if changed else "")


def on_gpu(where: dict[str, str]) -> bool:
    """Return whether the machine of an environment has a GPU."""
    return where.get("gpus", "none") != "none"


def hardware(where: dict[str, str]) -> str:
    """Return the GPUs, or the processor without a GPU."""
    if on_gpu(where):
        return where["gpus"]
    return f"{where['processor']}, {where['cores']} core{'' if where['cores'] == '1' else 's'}"


def short_commit(commit: str) -> str:
    """Return the commit's first nine characters, with "(changed)" if files differed."""
    return commit[:9] + commit[40:]


def joules() -> float | None:
    """Return the energy that the first visible GPU has used since its driver was loaded, J; None if unknown.

    It is the whole GPU's, for all its processes: the driver has no counter for a slice (MIG).
    """
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:  # installed by the extra "bench"
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    with suppress(nvml.NVMLError):  # no driver, or a GPU without a counter
        nvml.nvmlInit()
        try:
            by_index = nvml.nvmlDeviceGetHandleByIndex
            gpu = by_index(int(visible)) if visible.isdigit() else nvml.nvmlDeviceGetHandleByUUID(visible)
            with suppress(nvml.NVMLError):  # A GPU that cannot be sliced has no mode.
                if nvml.nvmlDeviceGetMigMode(gpu)[0] == nvml.NVML_DEVICE_MIG_ENABLE:
                    return None
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000)
        finally:
            nvml.nvmlShutdown()
    return None


if __name__ == "__main__":
    write_json(Path(sys.argv[1]), machine() | {"command": shlex.join(sys.argv[2:])})
