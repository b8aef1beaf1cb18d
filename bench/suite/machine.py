"""What a run of the suite ran on: the environment of fastseg's runs, the commit, and what of the machine was used.

``python -m bench.suite.machine FILE COMMAND…`` writes it to a file, as that of a command.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from fastseg.device import environment
from fastseg.files import write_atomic

ROOT = Path(__file__).resolve().parents[2]
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def machine() -> dict[str, str]:
    """Versions, hardware, command, commit, affinity and threads, as text; cores are those that may be used."""
    usable = sorted(os.sched_getaffinity(0))
    return {
        **environment(),
        "cores": str(len(usable)),
        "commit": commit(),
        "affinity": _ranges(usable),
        "threads": str(torch.get_num_threads()),
        **{name: os.environ[name] for name in THREADS if name in os.environ},
        "governor": _read(GOVERNOR) or "unknown",
    }


def commit() -> str:
    """The commit that is measured, "(changed)" behind it if files differ from it; "unknown" outside a repository."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return "unknown"
    return head + (" (changed)" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _ranges(numbers: list[int]) -> str:
    """0-3,8 for 0, 1, 2, 3, 8: as taskset takes it."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ",".join(f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0]) for group in groups)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


if __name__ == "__main__":
    write_atomic(Path(sys.argv[1]), json.dumps(machine() | {"command": shlex.join(sys.argv[2:])}, indent=1) + "\n")
