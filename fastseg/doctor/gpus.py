"""Check the driver, each GPU, and the driver's library for the JPEG engine."""

import ctypes
import warnings

from fastseg import driver as drivers
from fastseg.doctor.rows import Request, Row, broken, gib, ok, warning
from fastseg.driver import Gpu

NEEDED = (7, 0)
"""Lowest compute capability that CUDA 13's libraries may support: Volta's."""
HELD = 0.9
"""Share of a GPU's memory that must be free."""


def driver(_request: Request) -> list[Row]:
    """Compare the driver with the CUDA version that torch is built for."""
    import torch

    from fastseg.device import cuda_works
    from fastseg.gpu_problems import find_problem

    found, built = drivers.read_driver(), torch.version.cuda
    torch_is = f"torch {torch.__version__} is built for CUDA {built}" if built else f"torch {torch.__version__}"
    if cuda_works():
        major, minor = drivers.ask_cuda().version
        return ok("driver", f"{found.version or 'of unknown version'}, serves CUDA {major}.{minor}; {torch_is}")
    problem = find_problem(built, torch.__version__)
    if problem is None:
        return warning(
            "driver",
            f"none, and no GPU by NVIDIA is seen: training runs on the CPU; {torch_is}",
            "if this machine has one, install the driver, so that nvidia-smi lists it, or start the container with it "
            "(docker run --gpus all)",
        )
    what, _, cure = problem.sentence.rpartition("; ")
    return (broken if problem.certain else warning)("driver", what, cure)


def gpus(_request: Request) -> list[Row]:
    """Allocate and compute on each GPU that torch sees."""
    import torch

    from fastseg.device import cuda_works
    from fastseg.errors import UserError

    if not cuda_works():
        return []
    rows: list[Row] = []
    known = drivers.read_driver().gpus
    for index in range(torch.cuda.device_count()):
        try:
            rows += _gpu(index, known)
        except UserError as error:
            what, _, cure = str(error).rpartition("; ")
            rows += broken(f"GPU {index}", what, cure)
    return rows


def _gpu(index: int, known: tuple[Gpu, ...]) -> list[Row]:
    import torch

    from fastseg.device import device_of

    with warnings.catch_warnings():  # torch warns about GPUs that are too old for it
        warnings.simplefilter("ignore")
        device = device_of(f"cuda:{index}")
        about, (free, total) = torch.cuda.get_device_properties(device), torch.cuda.mem_get_info(device)
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    capability = (about.major, about.minor)
    found = (
        f"{about.name}, {gib(free)} of {gib(total)} are free, compute capability {about.major}.{about.minor}, bf16: "
        f"{'yes' if bf16 else 'no'}"
    )
    name = f"GPU {index}"
    mine = next((gpu for gpu in known if gpu.name in about.name and gpu.slices is not None), None)
    if mine:
        found += f", MIG: one of {mine.slices} instances"
    if capability < NEEDED:
        return warning(name, found, "use a newer GPU: libraries of CUDA 13 begin with Volta (7.0)")
    if free < HELD * total:
        pids = ", ".join(str(pid) for gpu in known if gpu.name == about.name for pid in gpu.processes)
        cure = "end what holds its memory (nvidia-smi lists it), or take others by CUDA_VISIBLE_DEVICES"
        return warning(name, found + (f"; processes on GPUs of this kind: {pids}" if pids else ""), cure)
    if not bf16:
        return warning(name, found, "nothing: training takes fp16 there; an A100 or newer has bf16")
    return ok(name, found)


def video(_request: Request) -> list[Row]:
    """Load libnvcuvid, without which a GPU's JPEG engine is off without a message."""
    from fastseg.device import cuda_works

    if not cuda_works():
        return []
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError as error:
        return warning(
            "libnvcuvid",
            f"it cannot be loaded ({error}): JPEGs are decoded without the GPU's own engine",
            "in a container let NVIDIA_DRIVER_CAPABILITIES be compute,utility,video; on the machine itself install the "
            "driver's decoding library (Debian: libnvcuvid1, Ubuntu: libnvidia-decode of the driver's version)",
        )
    return ok("libnvcuvid", "loads")
