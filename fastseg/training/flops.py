"""Count a step's FLOPs; list GPUs' datasheet peaks; measure a processor's rate on matrix products."""

import math
import re
import time
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastseg.config import Config, Freeze, OptimConfig
from fastseg.model.architectures import OFFERED
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fastseg.training.step import LossNetwork

# Dense 16-bit products with float32 sums, TFLOP/s, from NVIDIA's datasheets (their figures with sparsity are twice
# these), by words of torch.cuda.get_device_name, the more specific ones first.
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
    """Return the TFLOP/s of a GPU by its name; None if it is not listed or a MIG instance."""
    if re.search(r"\bMIG\b", gpu):
        return None
    return next((peak for name, peak in DATASHEET.items() if re.search(rf"\b{name}\b", gpu)), None)


def device_peak(device: torch.device) -> float | None:
    """Return the datasheet's 16-bit TFLOP/s of a GPU; None for a CPU or a GPU that is not listed."""
    return datasheet_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def moment(device: torch.device) -> Any:
    """Mark the current time; on a GPU the time when all queued work is done, without waiting for it."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Any, end: Any) -> float:
    """Return the seconds between two moments; wait for the later one."""
    if isinstance(begin, float):
        return float(end - begin)
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def measured_peak(device: torch.device, precision: str) -> float:
    """Measure the best TFLOP/s of several large matrix products in ``precision`` (bf16, fp16 or fp32).

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
    """Time one product; on a GPU the mean of several, since one ends before the next is launched."""
    together = 10 if a.device.type == "cuda" else 1
    begin = moment(a.device)
    for _ in range(together):
        torch.mm(a, b, out=out)
    return seconds_between(begin, moment(a.device)) / together


@cache
def step_flops(arch: str, classes: int, batch: int, crop: tuple[int, int], aux: bool, freeze: Freeze = "none") -> int:
    """Count the floating-point operations of forward and backward pass of one step (a multiply-add is two).

    Counts on meta tensors, which takes a second, by torch's rules for convolutions and products. Norms, activations and
    loss are left out, as in every MFU.
    """
    # A network of one's own may compute with values where it is built, which meta tensors do not have.
    with torch.device("meta") if arch in OFFERED else nullcontext():
        model = SegmentationNetwork(arch, classes, IMAGENET_MEAN, IMAGENET_STD, aux)
    with torch.device("meta"):
        model.freeze(freeze)
        network = LossNetwork(model, OptimConfig()).to("meta")
        image = torch.empty(batch, *crop, 3, dtype=torch.uint8)
        label = torch.empty(batch, *crop, dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            sums = network(image, label)
            (sums[0] + sums[2]).backward()
    return int(counter.get_total_flops())


def run_flops(config: Config, classes: int) -> float:
    """Return :func:`step_flops` for one rank of a run; NaN for a network of one's own that meta tensors cannot pass."""
    data, arch = config.data, config.model.arch
    request = (arch, classes, data.micro_batch, data.crop, config.aux_weight > 0, config.model.freeze)
    if arch in OFFERED:
        return step_flops(*request) * config.optim.accumulate
    try:
        return step_flops.__wrapped__(*request) * config.optim.accumulate  # another network may have had this name
    except Exception:  # whatever the network raises where tensors have no values
        return math.nan
