"""Environment of a run of the bench: that of fastseg's runs, cores and threads.

``python -m bench.runner.machine FILE COMMAND…`` writes it to a file, as that of a command.
"""

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path

import torch

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
        "affinity": status["Cpus_allowed_list"],
        "threads": str(torch.get_num_threads()),
        **{name: os.environ[name] for name in THREADS if name in os.environ},
        "governor": governor,
    }


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


if __name__ == "__main__":
    write_json(Path(sys.argv[1]), machine() | {"command": shlex.join(sys.argv[2:])})
