"""Devices by name, proven to compute; precision, autocast, and the environment of a run."""

import math
import os
import platform
import shlex
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from fastseg import driver
from fastseg.driver import read_driver
from fastseg.errors import UserError, shown
from fastseg.gpu_problems import CPU, explain_error, find_problem
from fastseg.parallel import usable_cores


def device_of(name: str | torch.device) -> torch.device:
    """Return the device named ``auto`` (a GPU if there is one), ``cuda``, ``cuda:N`` or ``cpu``; a GPU with its number.

    Also takes a torch.device. Raises :class:`UserError` for any other name, for a device that is not here, and for a
    GPU that cannot be used: the CPU takes its place only if the user says so.
    """
    if name == "auto":
        name = "cuda" if count_gpus() else "cpu"
        if name == "cpu":
            _tell_why()
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"the device is {shown(name)}; it must be auto, cuda, cuda:N or cpu")
    if device.type == "cpu":
        return device
    if (device.index or 0) >= (count := require_gpus()):
        raise UserError(f"the device is {name}, but torch sees {count} GPUs here; use cpu or auto")
    if device.index is None:  # current_device starts CUDA, which may fail
        device = torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_initialized() else 0)
    prove(device)
    return device


def count_gpus() -> int:
    """Count the GPUs that CUDA offers this process; 0 if the machine has none or they were hidden on purpose.

    Raises :class:`UserError` if there are GPUs and CUDA offers none: NVML, which ``torch.cuda.device_count`` asks,
    counts those of a driver that is too old as well.
    """
    if not cuda_works():
        problem = find_problem(torch.version.cuda, torch.__version__)
        if problem and problem.certain:
            raise UserError(problem.sentence)
        return 0
    count = torch.cuda.device_count()
    return min(count, driver.ask_cuda().devices or count)  # NVML also counts a GPU that fell off the bus


def require_gpus() -> int:
    """Return :func:`count_gpus`; raise :class:`UserError` if that is 0."""
    if count := count_gpus():
        return count
    problem = find_problem(torch.version.cuda, torch.__version__)
    reason = f": {problem.sentence}, {CPU}" if problem else "; look at nvidia-smi, or use --device cpu"
    raise UserError(f"the device is cuda, but torch sees no GPU here{reason}")


def prove(device: torch.device) -> None:
    """Allocate on a GPU and compute there; raise :class:`UserError` with the cause and the cure if that fails."""
    try:
        # 2 kernels, and a copy to the host that waits for them.
        works = torch.full((256,), 2.0, device=device).sum().item() == 512.0
    except (RuntimeError, AssertionError) as error:  # of torch's build without CUDA
        problem = None if cuda_works() else find_problem(torch.version.cuda, torch.__version__)
        said = explain_error(device.index or 0, error, torch.cuda.get_arch_list())
        raise UserError(problem.sentence if problem else said) from None
    if not works:
        raise UserError(f"{device} computes wrong sums: it is damaged; use another by CUDA_VISIBLE_DEVICES, {CPU}")


def cuda_works() -> bool:
    """Return whether CUDA starts and has a GPU, without torch's warning, which the sentences above replace."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


@cache
def _tell_why() -> None:
    """Warn once that a GPU is not used, if one is on the bus without a driver or was hidden on purpose."""
    problem = find_problem(torch.version.cuda, torch.__version__)
    if problem and os.environ.get("RANK", "0") == "0":
        print(f"warning: {problem.sentence}; on the CPU until then", file=sys.stderr)


def gpu_joules(device: torch.device) -> float:
    """Return the energy that a GPU has used since its driver was loaded, J; NaN for a CPU or if unknown."""
    used = driver.joules(device.index or 0) if device.type == "cuda" else None
    return math.nan if used is None else used


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
    """Return package versions, Python, operating system, processor, GPUs, command line and fastseg's commit.

    And whether torch is held to deterministic algorithms.
    """
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda_works() else []
    return {
        "command": command_line(sys.argv),
        "commit": commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(usable_cores()),
        "gpus": ", ".join(sorted({f"{gpus.count(name)} × {name}" for name in gpus})) or "none",
        "driver": read_driver().version or "none",
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "deterministic": "yes" if torch.are_deterministic_algorithms_enabled() else "no",
        **{name: found for name in PACKAGES if (found := _version(name))},
    }


def command_line(arguments: Sequence[str]) -> str:
    """Return the command that runs ``arguments`` again: a script by python, an installed command by its name."""
    script, here = Path(arguments[0]), Path.cwd()
    if script.suffix != ".py":
        return shlex.join([script.name, *arguments[1:]])
    near = script.relative_to(here) if script.is_relative_to(here) else script
    return shlex.join(["python", str(near), *arguments[1:]])


def commit() -> str:
    """Return fastseg's commit, followed by "(changed)" if files differ from it; "unknown" outside its repository."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # an installed package may lie in the repository of another project
        return "unknown"
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty= (changed)"]
    try:
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


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


def precision_of(wanted: str, device: torch.device) -> str:
    """Return ``bf16``, ``fp16`` or ``fp32``: ``wanted``, or for ``auto`` the fastest that the hardware has.

    Raises :class:`UserError` for another name.
    """
    if wanted in ("bf16", "fp16", "fp32"):
        return wanted
    if wanted != "auto":
        raise UserError(f"the precision is {shown(wanted)}; it must be auto, bf16, fp16 or fp32")
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # Without these instructions bf16 is emulated on the CPU, slower than fp32.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context that computes convolutions and products in ``precision``, and what needs range in float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


Companion = TypeVar("Companion")


class AsyncMetrics(Generic[Companion]):
    """Bring a few numbers of every step to the host: on a GPU one step late, so that it always has work queued.

    They travel with a ``companion``: the step's number, or the batch that they describe.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._waiting: tuple[Companion, torch.Tensor, torch.cuda.Event] | None = None

    def exchange(self, companion: Companion, numbers: torch.Tensor) -> tuple[Companion, list[Any]] | None:
        """Send the numbers of a step and return those that have arrived, as lists; None the first time on a GPU."""
        if not self._cuda:
            return companion, numbers.tolist()
        before = self.collect()
        copy = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._waiting = (companion, copy, event)
        return before

    def collect(self) -> tuple[Companion, list[Any]] | None:
        """Wait for the numbers still on their way and return them; None if there are none."""
        if self._waiting is None:
            return None
        (companion, numbers, event), self._waiting = self._waiting, None
        event.synchronize()
        return companion, numbers.tolist()
