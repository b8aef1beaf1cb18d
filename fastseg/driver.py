"""Ask the NVIDIA driver about itself, its GPUs and their energy, without torch, which may be unable to use them."""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

DEV = Path("/dev")
PROC = Path("/proc/driver/nvidia")
PCI = Path("/sys/bus/pci/devices")
NVIDIA = "0x10de"
"""NVIDIA's PCI vendor id."""
EXCLUSIVE, PROHIBITED = 3, 2
"""NVML's compute modes that refuse a second process, or every process (0: any may compute)."""
MISMATCH = 18
"""NVML's error code if the driver's libraries and its kernel module differ in version."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as NVML lists it, whatever CUDA_VISIBLE_DEVICES says."""

    index: int
    name: str
    total: int
    """Bytes of memory."""
    free: int
    """Bytes of free memory."""
    mode: int
    """Compute mode: :data:`EXCLUSIVE`, :data:`PROHIBITED` or another."""
    slices: int | None
    """Number of MIG instances; None outside MIG mode."""
    processes: tuple[int, ...]
    """Ids of the processes that compute on it; a container does not see its host's."""


class Driver(NamedTuple):
    """The driver of this machine."""

    version: str
    """Version of the driver, such as 580.65.06; empty if unknown."""
    error: int | None
    """NVML's error code; 0 if it started, None if there is no NVML."""
    gpus: tuple[Gpu, ...]


class Cuda(NamedTuple):
    """State of libcuda."""

    code: int | None
    """Return code of cuInit, 0 for success; None if libcuda cannot be loaded."""
    version: tuple[int, int]
    """Newest CUDA version that this driver supports."""
    devices: int
    """Number of GPUs after CUDA_VISIBLE_DEVICES."""


def read_driver() -> Driver:
    """Ask NVML for the driver's version and its GPUs, and /proc for the version if NVML does not answer."""
    with _nvml() as (library, error):
        if library is None:
            return Driver(_module_version(), error, ())
        text, count = ctypes.create_string_buffer(80), ctypes.c_uint()
        library.nvmlSystemGetDriverVersion(text, 80)
        library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        gpus = tuple(_read_gpu(library, index) for index in range(count.value))
        return Driver(text.value.decode(errors="replace") or _module_version(), 0, gpus)


def ask_cuda() -> Cuda:
    """Start libcuda as CUDA's own runtime does."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Cuda(None, (0, 0), 0)
    version, devices = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    code = library.cuInit(0)
    if code == 0:
        library.cuDeviceGetCount(ctypes.byref(devices))
    return Cuda(code, (version.value // 1000, version.value % 1000 // 10), devices.value)


def joules(device: int = 0) -> float | None:
    """Return the energy that the visible GPU ``device`` has used since its driver was loaded, J; None if unknown.

    It is the whole GPU's, for all its processes: the driver has no counter for a slice (MIG).
    """
    with _nvml() as (library, _):
        visible = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(device + 1)))).split(",")
        if library is None or device >= len(visible):
            return None
        name, gpu, used = visible[device].strip(), ctypes.c_void_p(), ctypes.c_ulonglong()
        by, value = ("UUID", name.encode()) if not name.isdigit() else ("Index_v2", int(name))
        found = _ask(library, f"nvmlDeviceGetHandleBy{by}", value, ctypes.byref(gpu))
        if not found or _slices(library, gpu) is not None:
            return None
        known = _ask(library, "nvmlDeviceGetTotalEnergyConsumption", gpu, ctypes.byref(used))  # mJ
        return used.value / 1000 if known else None


def device_nodes() -> list[Path]:
    """Return the GPUs' device files: /dev/nvidia0 and so on."""
    return sorted(path for path in DEV.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))


def pci_gpus() -> int:
    """Count NVIDIA's GPUs on the PCI bus, which a container sees even without access to them."""

    def is_gpu(device: Path) -> bool:
        try:
            maker, kind = ((device / name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
        except (OSError, ValueError):
            return False
        return maker == NVIDIA and kind.startswith(("0x0300", "0x0302"))

    return sum(map(is_gpu, PCI.glob("*")))


@contextmanager
def _nvml() -> Iterator[tuple[ctypes.CDLL | None, int | None]]:
    """Yield NVML, started, and 0; else None and its error code, None if there is no such library."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        yield None, None
        return
    error = library.nvmlInit_v2()
    yield (None if error else library), error
    if not error:
        library.nvmlShutdown()


def _ask(library: ctypes.CDLL, function: str, *arguments: object) -> bool:
    """Call a function of NVML; return whether this version has it and it succeeded."""
    asked = getattr(library, function, None)
    return asked is not None and asked(*arguments) == 0


def _read_gpu(library: ctypes.CDLL, index: int) -> Gpu:
    device, name, memory = ctypes.c_void_p(), ctypes.create_string_buffer(96), (ctypes.c_ulonglong * 3)()
    mode = ctypes.c_uint()
    if _ask(library, "nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(device)):
        _ask(library, "nvmlDeviceGetName", device, name, 96)
        _ask(library, "nvmlDeviceGetMemoryInfo", device, memory)  # total, free, used
        _ask(library, "nvmlDeviceGetComputeMode", device, ctypes.byref(mode))
    slices, processes = _slices(library, device), _processes(library, device)
    return Gpu(index, name.value.decode(errors="replace"), memory[0], memory[1], mode.value, slices, processes)


def _slices(library: ctypes.CDLL, device: ctypes.c_void_p) -> int | None:
    now, later, most, one = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint(), ctypes.c_void_p()
    # GPUs without MIG answer with an error.
    if not _ask(library, "nvmlDeviceGetMigMode", device, ctypes.byref(now), ctypes.byref(later)) or not now.value:
        return None
    _ask(library, "nvmlDeviceGetMaxMigDeviceCount", device, ctypes.byref(most))
    handle = ctypes.byref(one)
    return sum(_ask(library, "nvmlDeviceGetMigDeviceHandleByIndex", device, i, handle) for i in range(most.value))


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("memory", ctypes.c_ulonglong),
        ("instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


def _processes(library: ctypes.CDLL, device: ctypes.c_void_p) -> tuple[int, ...]:
    count, found = ctypes.c_uint(64), (_Process * 64)()
    if not _ask(library, "nvmlDeviceGetComputeRunningProcesses_v3", device, ctypes.byref(count), found):
        return ()
    return tuple(process.pid for process in found[: count.value])


def _module_version() -> str:
    """Return the version of the kernel module, which a container shares with its host."""
    try:
        text = (PROC / "version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)  # the line below it has the compiler's version
    return found[0] if found else ""
