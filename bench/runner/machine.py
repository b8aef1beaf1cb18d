"""Environment of a run of the bench: that of fastseg's runs, commit, cores and threads; a GPU's energy.

``python -m bench.runner.machine FILE COMMAND…`` writes it to a file, as that of a command.
"""

import os
import shlex
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from bench.runner.processes import ROOT
from bench.runner.results import write_json
from fastseg.device import environment

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
STATUS = Path("/proc/self/status")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def machine() -> dict[str, str]:
    """Return versions, hardware, command, commit, affinity and threads, as text; cores are the usable ones."""
    governor = "unknown"
    with suppress(OSError):
        governor = GOVERNOR.read_text(encoding="utf-8").strip()
    status = dict(line.split(":\t", 1) for line in STATUS.read_text(encoding="utf-8").splitlines())
    return {
        **environment(),
        "cores": str(len(os.sched_getaffinity(0))),
        "commit": commit(),
        "affinity": status["Cpus_allowed_list"],
        "threads": str(torch.get_num_threads()),
        **{name: os.environ[name] for name in THREADS if name in os.environ},
        "governor": governor,
    }


def commit() -> str:
    """Return the commit, followed by "(changed)" if files differ from it; "unknown" outside a repository."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty= (changed)"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


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
