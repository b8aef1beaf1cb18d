"""Arithmetic: what a step needs, what a GPU can do by its datasheet, and what a processor does on plain products."""

import re
import time
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastseg.config import Config, OptimConfig
from fastseg.model.deeplab import IMAGENET_MEAN, IMAGENET_STD, DeepLab
from fastseg.training.step import LossNetwork

# Dense 16-bit products with float32 sums, TFLOP/s, as NVIDIA's datasheets have it (theirs with sparsity are twice
# that). By words of torch.cuda.get_device_name, the more special ones first.
DATASHEET = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "A30": 165.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "T4": 65.0,
}

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def datasheet_peak(gpu: str) -> float | None:
    """TFLOP/s of a GPU by its name; None for one that is not listed and for a part of one (MIG)."""
    if re.search(r"\bMIG\b", gpu):
        return None
    return next((peak for name, peak in DATASHEET.items() if re.search(rf"\b{name}\b", gpu)), None)


def device_peak(device: torch.device) -> float | None:
    """The datasheet's TFLOP/s of a GPU in 16 bits; None for one that is not listed, and for a CPU."""
    return datasheet_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def moment(device: torch.device) -> Any:
    """Now; on a GPU when it has done all that is queued, without waiting for that."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Any, end: Any) -> float:
    """Of two moments; waits for the later one."""
    if isinstance(begin, float):
        return float(end - begin)
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def measured_peak(device: torch.device, precision: str) -> float:
    """TFLOP/s of the best of several large matrix products in ``precision`` (bf16, fp16 or fp32).

    fp32 products of a GPU run as TF32, as its convolutions do unless told otherwise.
    """
    sizes = (4096, 8192, 16384) if device.type == "cuda" else (1024, 1536)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return max(_product_rate(size, DTYPES[precision], device) for size in sizes)
    finally:
        torch.set_float32_matmul_precision(before)


def _product_rate(size: int, dtype: torch.dtype, device: torch.device) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    for _ in range(2):
        torch.mm(a, b, out=out)
    seconds = min(_seconds(a, b, out) for _ in range(4))
    return 2 * size**3 / seconds / 1e12


def _seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    """Of one product. On a GPU the mean of some launched together: one alone is over before the next is launched."""
    together = 10 if a.device.type == "cuda" else 1
    begin = moment(a.device)
    for _ in range(together):
        torch.mm(a, b, out=out)
    return seconds_between(begin, moment(a.device)) / together


@cache
def step_flops(arch: str, classes: int, batch: int, crop: tuple[int, int], aux: bool) -> int:
    """Count the floating-point operations of forward and backward pass of one step (a multiply-add is two).

    Counted on tensors without memory, on which it takes a second, by torch's rules for convolutions and products;
    what is left out (norms, activations, loss) is counted by nobody's MFU.
    """
    with torch.device("meta"):
        network = LossNetwork(DeepLab(arch, classes, IMAGENET_MEAN, IMAGENET_STD, aux), OptimConfig())
        image = torch.empty(batch, *crop, 3, dtype=torch.uint8)
        label = torch.empty(batch, *crop, dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            sums = network(image, label)
            (sums[0] + sums[2]).backward()
    return int(counter.get_total_flops())


def run_flops(config: Config, classes: int) -> int:
    """:func:`step_flops` of one rank of a run."""
    data = config.data
    return step_flops(config.model.arch, classes, data.batch, data.crop, config.aux_weight > 0)
