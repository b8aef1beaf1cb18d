"""Lower a training step to a GPU's kernels without the GPU: each kernel with its bytes and FLOPs.

Network and batch are fake tensors; Dynamo, AOTAutograd and Inductor run as usual, and what they generate is kept
instead of loaded. Needs :func:`bench.absent_gpu.pretend` before.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from bench.absent_gpu import naming_what_moved
from bench.stages.steps import loss_network
from fastseg.config import Config
from fastseg.device import autocast, precision_of

GATHERED = "nll_loss2d_forward"
"""Part of a kernel's name: it reads one class's value of a pixel, but Inductor counts those of all classes."""


@dataclass
class Kernel:
    """A node of Inductor's schedule: a Triton kernel (or several) or a library call."""

    direction: str
    """forward, backward or update."""
    names: list[str]
    reads: int = 0
    """Bytes read, as Inductor counts them."""
    writes: int = 0
    calls: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Results of a convolution or product (fprop, dgrad, wgrad or product) → their FLOP and bytes."""
    shape: str = ""
    channels_last: bool = True
    """Whether a convolution reads and writes channels-last 16-bit tensors."""
    atomics: int = 0
    """Number of atomic additions."""
    modules: list[str] = field(default_factory=list)
    operators: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Return the bytes read and written."""
        return sum(moved for _, moved in self.calls.values()) if self.calls else self.reads + self.writes

    @property
    def launches(self) -> int:
        """Return the number of kernel launches."""
        return len(self.calls) or max(len(self.names), 1)


@dataclass
class Lowered:
    """A lowered step."""

    kernels: list[Kernel] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    """Triton kernels by name."""
    graphs: int = 0
    """Two if neither the forward nor the backward pass is broken into several."""
    saved: int = 0
    """Bytes that the forward pass leaves for the backward pass."""
    misordered: list[str] = field(default_factory=list)
    """Gradients in another memory order than their weights, which fused optimizers read wrongly."""


def lower_step(config: Config, classes: int) -> Lowered:
    """Lower forward and backward pass of a recipe's step on one GPU. Raises if Dynamo breaks the graph."""
    import torch._functorch.config as functorch
    import torch._inductor.config as inductor
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses import FakeTensorMode

    device, mode = torch.device("cuda", 0), FakeTensorMode(allow_non_fake_inputs=True)
    data = config.data
    with mode, device:
        image = torch.empty(data.micro_batch, *data.crop, 3, dtype=torch.uint8)
        label = torch.empty(data.micro_batch, *data.crop, dtype=torch.uint8)
        weights = torch.ones(classes) if config.optim.class_weights else None
    network = loss_network(config, classes, weights)
    _make_fake(network, mode, device)
    found = Lowered()
    with naming_what_moved():
        outputs = _record(found)

    def backend(graph: Any, inputs: Any) -> Any:
        compile_fx(graph, inputs)
        return graph.forward  # fake tensors give fake results: there is no GPU to run kernels on

    with (
        mode,
        # Padding would be benchmarked.
        inductor.patch(shape_padding=False, compile_threads=1, force_disable_caches=True),
        functorch.patch(force_non_lazy_backward_lowering=True, enable_autograd_cache=False),
        autocast(precision_of(config.model.precision, device), device),
    ):
        torch.compile(network, backend=backend, fullgraph=True)(image, label)
    _look_at_outputs(found, outputs, network)
    for kernel in found.kernels:  # sources would be known only after loading
        kernel.atomics = sum(_atomics(found.sources.get(name, "")) for name in kernel.names)
    return found


def _make_fake(network: nn.Module, mode: Any, device: torch.device) -> None:
    def fake(value: Tensor) -> Tensor:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)

    with mode:
        for part in network.modules():
            for name, parameter in part._parameters.items():
                part._parameters[name] = None if parameter is None else nn.Parameter(fake(parameter))
            for name, buffer in part._buffers.items():
                part._buffers[name] = None if buffer is None else fake(buffer)


def _record(found: Lowered) -> list[tuple[str, list[Any]]]:
    """Keep what Inductor generates from now on; return the list that gets each graph's direction and outputs."""
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.codegen.triton import TritonScheduling
    from torch._inductor.graph import GraphLowering
    from torch._inductor.scheduler import BaseSchedulerNode
    from torch._inductor.virtualized import V

    kernels_of: dict[str, list[str]] = defaultdict(list)
    outputs: list[tuple[str, list[Any]]] = []
    define, codegen = TritonScheduling.define_kernel, GraphLowering.codegen

    def triton(_self: Any, name: str, source: str, *_more: Any, **_options: Any) -> Any:
        found.sources[name] = source
        return object()

    def define_kernel(self: Any, source: str, schedule: Any, kernel: Any, *more: Any, **options: Any) -> str:
        name: str = define(self, source, schedule, kernel, *more, **options)
        for node in schedule:
            if isinstance(node, BaseSchedulerNode):
                kernels_of[f"{id(V.graph)} {node.get_name()}"].append(name)
        return name

    def recorded(self: Any) -> Any:
        result = codegen(self)
        found.graphs += 1
        direction = "backward" if self.is_backward else "forward"
        outputs.append((direction, list(self.graph_outputs)))
        for node in self.scheduler.nodes:
            names = [name for n in node.get_nodes() for name in kernels_of[f"{id(self)} {n.get_name()}"]]
            if kernel := _kernel(node, direction, list(dict.fromkeys(names))):
                found.kernels.append(kernel)
        return result

    patch.object(AsyncCompile, "triton", triton).start()
    patch.object(TritonScheduling, "define_kernel", define_kernel).start()
    patch.object(GraphLowering, "codegen", recorded).start()
    return outputs


def _atomics(source: str) -> int:
    elements = re.search(r"    xnumel = (\d+)", source)
    return source.count("tl.atomic_add(") * int(elements[1] if elements else 0)


def _kernel(node: Any, direction: str, names: list[str]) -> Kernel | None:
    """Describe one node of the schedule; None for one that runs nothing."""
    from torch._inductor import ir
    from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode

    if isinstance(node, NopKernelSchedulerNode):
        return None
    kernel = Kernel(direction, names)
    if isinstance(node, ExternKernelSchedulerNode):
        inner: Any = node.node
        if isinstance(inner, ir.MultiOutput):
            return None
        name = getattr(inner, "op_overload", None) or getattr(inner, "python_kernel_name", None) or type(inner).__name__
        kernel.names = [str(name)]
        _count_calls(kernel, inner)
    reads = node.get_read_write_buffer_accesses(include_reads=True, include_writes=False)
    writes = node.get_read_write_buffer_accesses(include_reads=False, include_writes=True)
    kernel.reads, kernel.writes = sum(reads.values()), sum(writes.values())
    origins = [origin for n in node.get_nodes() if n.node is not None for origin in n.node.get_origins()]
    kernel.operators = sorted({str(origin.target) for origin in origins})
    stacks = [origin.meta.get("nn_module_stack") or origin.meta.get("fwd_nn_module_stack") for origin in origins]
    kernel.modules = sorted({list(stack.values())[-1][0].removeprefix("L['self'].") for stack in stacks if stack})
    return kernel


def _count_calls(kernel: Kernel, inner: Any) -> None:
    """Count FLOPs and bytes of a library's convolution or product: all inputs and outputs once per result."""
    matching = (o for o in inner.get_origins() if "convolution" in str(o.target) or "mm" in str(o.target))
    origin = next(matching, None)
    if origin is None:
        return
    if "convolution" not in str(origin.target):
        a, b = [arg.meta["val"] for arg in origin.args if isinstance(arg, torch.fx.Node)][-2:]
        kernel.calls["product"] = (2 * a.numel() * b.shape[-1], sum(map(_size, (a, b, origin.meta["val"]))))
        kernel.shape = f"{tuple(a.shape)} @ {tuple(b.shape)}"
        return
    if "backward" in str(origin.target):
        y, x, w = (arg.meta["val"] for arg in origin.args[:3])
        results = [name for name, wanted in zip(("dgrad", "wgrad"), origin.args[-1], strict=False) if wanted]
    else:
        x, w, y, results = origin.args[0].meta["val"], origin.args[1].meta["val"], origin.meta["val"], ["fprop"]
    flop = 2 * y.shape[0] * y.shape[2] * y.shape[3] * math.prod(w.shape)
    kernel.calls = {name: (flop, sum(map(_size, (x, w, y)))) for name in results}
    kernel.shape = f"{tuple(x.shape)} * {tuple(w.shape)}"
    ordered = all(t.is_contiguous(memory_format=torch.channels_last) for t in (x, y))
    kernel.channels_last = ordered and x.element_size() == 2


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _look_at_outputs(found: Lowered, outputs: list[tuple[str, list[Any]]], network: nn.Module) -> None:
    """Add up the saved bytes, and find gradients whose strides match no weight of their shape."""
    orders: dict[tuple[int, ...], set[tuple[int, ...]]] = defaultdict(set)
    for parameter in network.parameters():
        orders[tuple(parameter.shape)].add(parameter.stride())
    for direction, values in outputs:
        for value in values:
            if not hasattr(value, "get_stride") or value.maybe_get_size() is None or value.maybe_get_layout() is None:
                continue
            shape, stride = (tuple(int(n) for n in part) for part in (value.get_size(), value.get_stride()))
            if direction == "forward":
                found.saved += math.prod(shape) * value.get_dtype().itemsize
            elif shape in orders and stride not in orders[shape]:
                found.misordered.append(f"{shape} with strides {stride}")


def compile_cubins(found: Lowered) -> list[str]:
    """Compile every Triton kernel to machine code by Triton's own ptxas; return those that fail, with the reason."""
    from torch._inductor.async_compile import _load_triton_kernel_from_source
    from torch._inductor.runtime import triton_helpers

    triton_helpers.set_driver_to_gpu = lambda: None  # would look for libcuda
    failed = []
    for name, source in found.sources.items():
        try:
            kernel: Any = _load_triton_kernel_from_source(name, source)
            kernel.precompile(warm_cache_only=True)
            if not kernel.compile_results:
                failed.append(f"{name}: nothing was compiled")
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    return failed
