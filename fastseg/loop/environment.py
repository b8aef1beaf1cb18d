"""What a run ran on: versions, hardware and the exact command, as text."""

import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from fastseg.device import cuda_works
from fastseg.driver import read_driver
from fastseg.parallel import usable_cores

PACKAGES = (
    "fastseg-deeplab",
    "torch",
    "torchvision",
    "nvidia-dali-cuda130",
    "torchmetrics",
    "cityscapesScripts",
    "webdataset",
    "numpy",
    "Pillow",
)


def environment() -> dict[str, str]:
    """Package versions, Python, operating system, processor, GPUs and command line."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda_works() else []
    return {
        "command": command_line(sys.argv),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(usable_cores()),
        "gpus": ", ".join(sorted({f"{gpus.count(name)} × {name}" for name in gpus})) or "none",
        "driver": read_driver().version or "none",
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        **{name: found for name in PACKAGES if (found := _version(name))},
    }


def command_line(arguments: Sequence[str]) -> str:
    """What to type in this folder to run ``sys.argv`` again: a script by python, an installed command by its name."""
    script, here = Path(arguments[0]), Path.cwd()
    if script.suffix != ".py":
        return shlex.join([script.name, *arguments[1:]])
    near = script.relative_to(here) if script.is_relative_to(here) else script
    return shlex.join(["python", str(near), *arguments[1:]])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return platform.processor()
