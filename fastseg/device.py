"""The device that a name means, if it is here and can be used: proven, not asked for."""

import os
import sys
import warnings
from functools import cache

import torch

from fastseg import driver
from fastseg.errors import UserError, shown
from fastseg.gpu_problems import CPU, explain_error, find_problem


def device_of(name: str | torch.device) -> torch.device:
    """``auto`` (a GPU if there is one), ``cuda``, ``cuda:N``, ``cpu`` or torch's object; a GPU with its number.

    Raises :class:`UserError` for what is no such device, for one that is not here, and for a GPU that is here and
    cannot be used: that it would be the CPU instead has to be said by the user.
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
    if device.index is None:  # asking for the current one starts CUDA, which may fail
        device = torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_initialized() else 0)
    prove(device)
    return device


def count_gpus() -> int:
    """GPUs that CUDA has for this process, 0 where the machine has none or they were hidden on purpose.

    Raises :class:`UserError` where GPUs are here and CUDA has none: NVML, which ``torch.cuda.device_count`` asks,
    counts those of a driver that is too old as well.
    """
    if not cuda_works():
        problem = find_problem(torch.version.cuda, torch.__version__)
        if problem and problem.certain:
            raise UserError(problem.sentence)
        return 0
    count = torch.cuda.device_count()
    return min(count, driver.ask_cuda().devices or count)  # NVML counts what fell off the bus, too


def require_gpus() -> int:
    """As :func:`count_gpus`, but at least 1: raises :class:`UserError` where the machine has none, too."""
    if count := count_gpus():
        return count
    problem = find_problem(torch.version.cuda, torch.__version__)
    reason = f": {problem.sentence}, {CPU}" if problem else "; look at nvidia-smi, or use --device cpu"
    raise UserError(f"the device is cuda, but torch sees no GPU here{reason}")


def prove(device: torch.device) -> None:
    """Allocate on a GPU and compute there; raises :class:`UserError` with the cause and the cure where that fails."""
    try:
        # 2 kernels, and a copy to the host that waits for them.
        works = torch.full((256,), 2.0, device=device).sum().item() == 512.0
    except (RuntimeError, AssertionError) as error:  # of torch's build without CUDA
        problem = None if cuda_works() else find_problem(torch.version.cuda, torch.__version__)
        said = explain_error(device.index or 0, error, torch.cuda.get_arch_list())
        raise UserError(problem.sentence if problem else said) from None
    if not works:
        raise UserError(f"{device} adds up wrongly: it is damaged; use another by CUDA_VISIBLE_DEVICES, {CPU}")


def cuda_works() -> bool:
    """Whether CUDA has started and has a GPU; torch's warning, where not, is left to the sentences above."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


@cache
def _tell_why() -> None:
    """Say once that a GPU is not used, where one is on the bus without a driver or was hidden on purpose."""
    problem = find_problem(torch.version.cuda, torch.__version__)
    if problem and os.environ.get("RANK", "0") == "0":
        print(f"warning: {problem.sentence}; on the CPU until then", file=sys.stderr)
