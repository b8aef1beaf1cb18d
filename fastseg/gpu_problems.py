"""Explain in one sentence why a GPU of this machine cannot be used, and what to do about it."""

import os
import re
from typing import NamedTuple

from fastseg import driver as drivers
from fastseg.driver import Cuda, Driver, Gpu

DRIVERS = {11: 450, 12: 525, 13: 580}
"""The first driver for each major version of CUDA ("CUDA Toolkit Release Notes", minor version compatibility)."""
_CODES = {
    2: ("has no memory left for a process on this GPU", "end what holds it (nvidia-smi lists it)"),
    34: (
        "is a stub, made for linking only",
        "take the folder of CUDA's stubs from LD_LIBRARY_PATH, so that the driver's libcuda.so.1 is found",
    ),
    46: (
        "finds the GPUs busy or shut to other processes",
        "end what computes on them, or allow sharing as root: nvidia-smi -c 0",
    ),
    100: (
        "sees none of them",
        "check whether nvidia-smi lists them and this user may read and write /dev/nvidia*; in a container give it the "
        "GPUs (docker run --gpus all), under Slurm ask for them (--gres gpu:1 or --gpus-per-node 1)",
    ),
    802: (
        "is not initialized yet: the fabric manager of a machine with NVSwitch does not run",
        "start it as root (systemctl start nvidia-fabricmanager); its version must be the driver's",
    ),
    803: (
        "is of another version than the driver's kernel module",
        "reboot after an update of the driver; in a container take cuda-compat from LD_LIBRARY_PATH",
    ),
    804: (
        "is a newer one of CUDA's compatibility package, which this GPU does not allow",
        "take cuda-compat from LD_LIBRARY_PATH and update the driver",
    ),
    999: (
        "fails for an unknown reason",
        "reload its module (sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm) or reboot; dmesg may name the "
        "cause (Xid)",
    ),
}
"""Error code of libcuda → its meaning, after "the driver's libcuda …", and its cure."""
CPU = "or use --device cpu"


class Problem(NamedTuple):
    """Reason why CUDA cannot be used here."""

    sentence: str
    certain: bool
    """Whether a GPU should be usable; False if it is only on the bus, or was hidden on purpose."""


def find_problem(built_for: str | None, torch_version: str) -> Problem | None:
    """Return why torch, built for that version of CUDA, can use no GPU here; None if there is no GPU.

    Asks the driver itself, by NVML and libcuda, and looks at the device files.
    """
    driver, cuda = drivers.read_driver(), drivers.ask_cuda()
    nodes, hidden = drivers.device_nodes(), os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(driver.gpus) or len(nodes)
    if not count and driver.error != drivers.MISMATCH:
        return _only_on_the_bus(drivers.pci_gpus())
    if hidden in ("", "-1"):
        said = f"CUDA_VISIBLE_DEVICES is {hidden!r} and hides {_gpus(count)} of this machine"
        return Problem(f"{said}; unset it to use {'it' if count == 1 else 'them'}", False)
    here = f"{_gpus(count)} {'is' if count == 1 else 'are'} here" if count else "a GPU may be here"
    sentence = (
        _of_torch(here, built_for, torch_version)
        or _of_driver(here, driver, cuda, built_for or "", torch_version)
        or _of_choice(hidden, driver, cuda)
        or _of_slices(driver, cuda)
        or _of_code(here, cuda)
    )
    return Problem(f"{sentence}, {CPU}", True)


def explain_error(index: int, error: BaseException, arch_list: list[str]) -> str:
    """Explain the error of torch's first operation on this GPU (numbered after CUDA_VISIBLE_DEVICES)."""
    text = " ".join(str(error).split())
    gpu = _named(index)
    if "no kernel image" in text:
        return (
            f"{gpu} is of a generation that this torch has no code for (it has {' '.join(arch_list)}); use a newer "
            f"GPU, {CPU}"
        )
    if "out of memory" in text:
        return f"{gpu} has no memory left{_held(index)}; end what holds it or name other GPUs by CUDA_VISIBLE_DEVICES"
    if "busy or unavailable" in text:
        return (
            f"{gpu} is busy or unavailable{_shut(index)}; {_CODES[46][1]}, or name other GPUs by CUDA_VISIBLE_DEVICES"
        )
    if "invalid device ordinal" in text:
        return f"{gpu} is not there for CUDA, which in MIG mode gives a process one slice; use --gpus 1, {CPU}"
    if "driver" in text and "too old" in text:
        return f"{gpu} cannot be used: the NVIDIA driver is too old for this torch; update the driver, {CPU}"
    first = re.split(r"(?<=[a-z])\. |\s(?:CUDA kernel errors|Search for|For debugging|Compile with)", text)[0]
    return f"{gpu} cannot be used ({first}); look at nvidia-smi and dmesg, reset the GPU or reboot, {CPU}"


def _gpus(count: int) -> str:
    return "a GPU" if count == 1 else f"{count} GPUs"


def _only_on_the_bus(count: int) -> Problem | None:
    if not count:
        return None
    return Problem(
        f"{_gpus(count)} by NVIDIA {'is' if count == 1 else 'are'} in this machine, but no driver is to be seen here; "
        "install it, or start the container with its GPUs (docker run --gpus all)",
        False,
    )


def _of_torch(here: str, built_for: str | None, torch_version: str) -> str:
    if built_for:
        return ""
    return f"{here}, but torch {torch_version} is built without CUDA; install torch and torchvision for CUDA 13"


def _of_driver(here: str, driver: Driver, cuda: Cuda, built_for: str, torch_version: str) -> str:
    """Explain a libcuda that is missing, does not match the kernel module, or is too old for torch's CUDA."""
    if cuda.code is None:
        return (
            f"{here}, but the driver's libcuda.so.1 cannot be loaded; in a container let NVIDIA_DRIVER_CAPABILITIES be "
            "compute,utility,video and start it with its GPUs (docker run --gpus all), on the machine itself install "
            "the driver whole"
        )
    if driver.error == drivers.MISMATCH:
        found = f" ({driver.version})" if driver.version else ""
        return f"{here}, but {_code(803, cuda)}{found}; {_CODES[803][1]}"
    major, minor = map(int, built_for.split(".")[:2])
    if cuda.version and cuda.version[0] >= major:
        return ""
    least = f"driver {DRIVERS[major]} or newer" if major in DRIVERS else "a newer driver"
    return (
        f"{here}, but the NVIDIA driver {driver.version or 'of this machine'} is too old: it serves CUDA "
        f"{cuda.version[0]}.{cuda.version[1]} at most, and torch {torch_version} is built for {major}.{minor}; "
        f"install {least}"
    )


def _of_choice(hidden: str | None, driver: Driver, cuda: Cuda) -> str:
    """Explain a CUDA_VISIBLE_DEVICES that names no existing GPU."""
    if hidden is None or cuda.devices or cuda.code not in (0, 100):
        return ""
    first = hidden.split(",")[0].strip()
    if not driver.gpus or (first.isdigit() and int(first) < len(driver.gpus) and len(hidden.split(",")) == 1):
        return ""
    names = "0" if len(driver.gpus) == 1 else f"0 to {len(driver.gpus) - 1}"
    return (
        f"CUDA_VISIBLE_DEVICES is {hidden!r}, which names no GPU of this machine, or one twice; unset it, or name them "
        f"by {names} (nvidia-smi -L lists them)"
    )


def _of_slices(driver: Driver, cuda: Cuda) -> str:
    """Explain MIG mode without an instance."""
    if cuda.devices or not driver.gpus or any(gpu.slices != 0 for gpu in driver.gpus):
        return ""
    gpu = driver.gpus[0]
    return (
        f"GPU {gpu.index} ({gpu.name}) is in MIG mode and not cut into instances; as root make one (nvidia-smi mig "
        f"-cgi PROFILE -C; nvidia-smi mig -lgip lists the profiles) or leave the mode (nvidia-smi -i "
        f"{gpu.index} -mig 0)"
    )


def _of_code(here: str, cuda: Cuda) -> str:
    code = cuda.code or 100  # it starts without a GPU
    cure = _CODES.get(code, ("", "look at nvidia-smi and dmesg, or reboot"))[1]
    return f"{here}, but {_code(code, cuda)}; {cure}"


def _code(code: int, cuda: Cuda) -> str:
    meaning = _CODES.get(code, ("cannot be used", ""))[0]
    return f"the driver's libcuda {meaning} (error {cuda.code or code})"


def _seen(index: int) -> Gpu | None:
    """Return the GPU that torch numbers ``index``; None if that is unknown."""
    chosen, gpus = os.environ.get("CUDA_VISIBLE_DEVICES"), drivers.read_driver().gpus
    if chosen is not None:
        numbers = [int(number) if number.strip().isdigit() else -1 for number in chosen.split(",")]
        index = numbers[index] if index < len(numbers) else -1
    return gpus[index] if 0 <= index < len(gpus) else None


def _named(index: int) -> str:
    gpu = _seen(index)
    return f"GPU {index} ({gpu.name})" if gpu else f"GPU {index}"


def _held(index: int) -> str:
    gpu = _seen(index)
    if not gpu or not gpu.total:
        return ""
    others = ", ".join(str(pid) for pid in gpu.processes if pid != os.getpid())
    by = f", by the processes {others}" if others else ""
    return f" ({gpu.free / 2**30:.1f} of {gpu.total / 2**30:.1f} GiB are free{by})"


def _shut(index: int) -> str:
    gpu = _seen(index)
    modes = {
        drivers.EXCLUSIVE: "it is in exclusive mode, and another process has it",
        drivers.PROHIBITED: "its mode prohibits computing",
    }
    return f" ({modes[gpu.mode]})" if gpu and gpu.mode in modes else ""
