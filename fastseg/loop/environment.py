"""What a run ran on: versions, hardware and the exact command, as text."""

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

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
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "gpus": ", ".join(sorted({f"{gpus.count(name)} × {name}" for name in gpus})) or "none",
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        **{name: found for name in PACKAGES if (found := _version(name))},
    }


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
