"""Emulate an absent GPU: answer what Dynamo, AOTAutograd, Inductor and Triton ask of a driver.

Replaces private parts of torch for the rest of the process. If one has moved, :class:`Moved` names it.
"""

import atexit
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch


class Moved(RuntimeError):
    """A private part of torch or Triton has moved."""


class Gpu(NamedTuple):
    """Properties of a GPU, and a roofline's assumptions about it."""

    name: str
    capability: tuple[int, int]
    processors: int
    memory: int
    """Bytes."""
    cache: int
    """Bytes of the second-level cache."""
    bandwidth: float
    """Bytes per second that long kernels reach: about nine tenths of the datasheet's. An assumption."""
    rate: float
    """FLOP per second that large convolutions reach: about two thirds of the datasheet's. An assumption."""


GPUS = {
    "H200": Gpu("NVIDIA H200", (9, 0), 132, 150_754_820_096, 62_914_560, 4.3e12, 6.5e14),
    "H100": Gpu("NVIDIA H100", (9, 0), 132, 85_000_000_000, 52_428_800, 3.0e12, 6.2e14),
    "A100": Gpu("NVIDIA A100", (8, 0), 108, 85_000_000_000, 41_943_040, 1.75e12, 2.2e14),
}


def pretend(gpu: Gpu) -> None:
    """Let torch believe in ``gpu`` as its only device, which can hold only fake tensors. Raises :class:`Moved`."""
    with naming_what_moved():
        _replace_hooks()
        _answer_torch(gpu)
        _answer_compiler()
        _answer_triton(gpu)


@contextmanager
def naming_what_moved() -> Iterator[None]:
    """Turn the error for a missing private part into a :class:`Moved` that names it."""
    try:
        yield
    except (AttributeError, ImportError, OSError) as error:
        raise Moved(f"torch {torch.__version__} is unlike the one that bench/roofline.py knows: {error}") from error


_no_context = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int8)(lambda _hooks, _index: False)


def _replace_hooks() -> None:
    """Tell the autograd engine that the GPU has no context; for an absent GPU torch raises instead.

    CUDAHooks::hasPrimaryContext is the fifth virtual function of ATen/detail/AcceleratorHooksInterface.h. A build of
    torch for CPUs does not ask.
    """
    if not torch.backends.cuda.is_built() or torch.cuda.device_count():
        return
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    get = library._ZN2at6detail12getCUDAHooksEv
    get.restype = ctypes.c_void_p
    hooks = ctypes.cast(get(), ctypes.POINTER(ctypes.c_void_p))
    table = hooks[0]
    assert table is not None
    old = ctypes.cast(table - 16, ctypes.POINTER(ctypes.c_void_p))
    new = (ctypes.c_void_p * 100)(*[old[i] for i in range(100)])
    new[2 + 4] = ctypes.cast(_no_context, ctypes.c_void_p).value
    hooks[0] = ctypes.addressof(new) + 16

    def restore(_kept: object = new) -> None:
        hooks[0] = table

    atexit.register(restore)


def _properties(gpu: Gpu) -> SimpleNamespace:
    hopper = gpu.capability[0] == 9
    return SimpleNamespace(
        name=gpu.name,
        major=gpu.capability[0],
        minor=gpu.capability[1],
        multi_processor_count=gpu.processors,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        regs_per_multiprocessor=65536,
        warp_size=32,
        total_memory=gpu.memory,
        L2_cache_size=gpu.cache,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=232448 if hopper else 166912,
        shared_memory_per_multiprocessor=233472 if hopper else 167936,
        gcnArchName="",
        is_integrated=False,
        is_multi_gpu_board=False,
    )


def _answer_torch(gpu: Gpu) -> None:
    from torch._dynamo.device_interface import CudaInterface

    properties = _properties(gpu)
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda _device=None: properties,
        "get_device_capability": lambda _device=None: gpu.capability,
        "get_device_name": lambda _device=None: gpu.name,
        "is_bf16_supported": lambda including_emulation=True: True,  # noqa: ARG005
        "synchronize": lambda _device=None: None,
        "set_device": lambda _device: None,
        "memory_allocated": lambda *_: 0,
        "is_initialized": lambda: False,
        "get_rng_state": lambda _device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda _state, device=None: None,  # noqa: ARG005
        "_lazy_init": lambda: None,
        "is_current_stream_capturing": lambda: False,
        "_exchange_device": lambda _index: 0,
        "_maybe_exchange_device": lambda _index: 0,
    }
    patch.multiple(torch.cuda, **answers).start()
    of_interface = answers.keys() & vars(CudaInterface).keys() - {"is_available"}
    methods: dict[str, Any] = {name: staticmethod(answers[name]) for name in of_interface}
    patch.multiple(CudaInterface, **methods).start()
    torch._C._cuda_getCurrentRawStream = lambda _device: 0  # type: ignore[assignment]


def _answer_compiler() -> None:
    from torch._inductor.fx_passes import joint_graph
    from torch._subclasses import fake_tensor

    patch.object(fake_tensor, "init_gpu_context", lambda _device: None).start()
    patch.object(fake_tensor.FakeTensorMode, "avoid_device_init", True).start()
    # Without a GPU torch would choose its own slow convolution, whose results are not channels-last.
    cudnn = torch._C._ConvBackend.Cudnn  # type: ignore[attr-defined]
    patch.object(torch._C, "_select_conv_backend", lambda *_, **__: cudnn).start()
    folder: Any = joint_graph.UniformValueConstantFolder
    deduce = folder._deduce_value

    def on_cpu(self: Any, node: Any) -> Any:  # constants are really computed, so they need an existing device
        before = node.kwargs
        if "device" in before:
            node.kwargs = {**before, "device": torch.device("cpu")}
        try:
            return deduce(self, node)
        finally:
            node.kwargs = before

    folder._deduce_value = on_cpu


def _answer_triton(gpu: Gpu) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    target = GPUTarget("cuda", 10 * gpu.capability[0] + gpu.capability[1], 32)
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: target,
            get_current_device=lambda: 0,
            get_current_stream=lambda _device=0: 0,
            get_active_torch_device=lambda: torch.device("cuda", 0),
            is_active=lambda: True,
        )
    )
