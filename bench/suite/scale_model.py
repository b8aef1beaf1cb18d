"""A model of a step's time on one GPU and on many, from its parts: ``python -m bench.suite.scale_model --help``.

What follows from the network (operations, gradients, batch norms) is counted here; the rest are parameters, whose
defaults are a datasheet's or an assumption, as their texts say. Give it what ``bench/throughput.py`` measured.
"""

from dataclasses import dataclass

import torch
import tyro

from fastseg.config import Config, DataConfig
from fastseg.loop.distributed import Ranks
from fastseg.loop.flops import DATASHEET, step_flops
from fastseg.loop.optim import peak_rate
from fastseg.loop.step import use_sync_bn
from fastseg.model.deeplab import IMAGENET_MEAN, IMAGENET_STD, DeepLab

CLASSES = 19
FRAMES = 2975
"""Cityscapes' training split."""
BACKWARD = 2 / 3
"""Of a step's operations: gradients of weights and of activations take as many each as the forward pass."""
HEADINGS = (
    *("GPUs", "global batch", "peak rate", "steps/epoch", "SyncBN", "compute", "all-reduce", "of it exposed"),
    *("norms' waits", "data", "step", "images/s", "efficiency"),
)


@dataclass(frozen=True)
class Machine:
    """What the model is told of the machines and of the run. Times are in ms, bandwidths in GB/s one way."""

    gpus: tuple[int, ...] = (1, 8, 64)
    """Numbers of GPUs to predict for."""
    per_node: int = 8
    """GPUs of a machine."""
    batch: int = 8
    """Images per GPU."""
    crop: tuple[int, int] = (768, 768)
    """Height and width, pixels."""
    step: float | None = None
    """Compute of one step on one GPU, ms, as the compute stage of bench/throughput.py measures it. Without it: the
    counted operations at --mfu of --peak."""
    mfu: float = 0.5
    """Share of the peak that the step reaches. Assumption: the mark that fastseg has set itself, not measured."""
    peak: float = DATASHEET["H100"]
    """TFLOP/s of a GPU in bf16. NVIDIA's datasheet for the H100 SXM, dense."""
    nvlink: float = 450.0
    """Between the GPUs of a machine. NVIDIA's datasheet for the H100 SXM: 900 GB/s both ways together."""
    network: float = 400.0
    """Of a machine's network cards together. NVIDIA's datasheet for the DGX H100: 8 × 400 Gb/s."""
    reached: float = 0.7
    """Share of these bandwidths that an all-reduce reaches. Assumption."""
    latency: float = 0.03
    """Of one small exchange between all GPUs, ms. Assumption; it grows slowly with their number."""
    bucket: float = 25.0
    """Megabytes of gradients that DDP sends together (torch's default)."""
    loader: float = 1000.0
    """Images/s that one GPU's loader delivers. Assumption: half of the mark for one H200 that has the CPU to itself."""


@dataclass(frozen=True)
class Prediction:
    """One number of GPUs. Times of a step in ms."""

    gpus: int
    global_batch: int
    rate: float
    sync_bn: bool
    compute: float
    reduce: float
    exposed: float
    norms: float
    data: float

    @property
    def step(self) -> float:
        """Data is loaded while the GPU computes: the slower of the two decides."""
        return max(self.compute + self.exposed + self.norms, self.data)

    @property
    def images_per_second(self) -> float:
        return self.global_batch / self.step * 1000


def predict(machine: Machine, gpus: int) -> Prediction:
    """A step on ``gpus`` GPUs."""
    config = Config(data=DataConfig(batch=machine.batch, crop=machine.crop))
    gradients, layers = network_size(config.model.arch)
    compute = machine.step or compute_time(machine, config.model.arch)
    reduce = ring_time(machine, gpus, gradients)
    # Buckets are sent as their gradients are ready, beside the rest of the backward pass; the last has none beside it.
    last = ring_time(machine, gpus, min(machine.bucket * 1e6, gradients))
    exposed = last + max(reduce - last - BACKWARD * compute, 0.0)
    local = min(gpus, machine.per_node)
    sync_bn = use_sync_bn(config, Ranks(0, gpus, 0, local, torch.device("cuda")))
    return Prediction(
        gpus=gpus,
        global_batch=gpus * machine.batch,
        rate=peak_rate(config.optim, gpus * machine.batch),
        sync_bn=sync_bn,
        compute=compute,
        reduce=reduce,
        # Each norm waits for the others' statistics, forwards and backwards; nothing else can be computed meanwhile.
        norms=2 * layers * machine.latency if sync_bn else 0.0,
        exposed=exposed,
        data=machine.batch / machine.loader * 1000,
    )


def compute_time(machine: Machine, arch: str) -> float:
    """ms of a step's counted operations at the given share of the peak."""
    operations = step_flops(arch, CLASSES, machine.batch, machine.crop, True)
    return operations / (machine.mfu * machine.peak * 1e12) * 1000


def ring_time(machine: Machine, gpus: int, size: float) -> float:
    """ms in which ``size`` bytes are added up over all GPUs in a ring.

    Every GPU sends 2 (n - 1) / n of them (Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002) over the slowest
    link: NVLink, or the machines' network, which all rings through a machine share.
    """
    if gpus == 1:
        return 0.0
    bandwidth = machine.nvlink if gpus <= machine.per_node else min(machine.nvlink, machine.network)
    return 2 * (gpus - 1) / gpus * size / (machine.reached * bandwidth * 1e9) * 1000 + machine.latency


def network_size(arch: str) -> tuple[int, int]:
    """Bytes of its float32 gradients, and how many batch norms it has."""
    with torch.device("meta"):
        model = DeepLab(arch, CLASSES, IMAGENET_MEAN, IMAGENET_STD, True)
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    return 4 * sum(p.numel() for p in model.parameters() if p.requires_grad), norms


def table(machine: Machine) -> str:
    """The predictions as GitHub shows tables; times in ms."""
    alone = predict(machine, 1)
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{'---:|' * len(HEADINGS)}"]
    for found in (predict(machine, gpus) for gpus in machine.gpus):
        efficiency = 100 * found.images_per_second / alone.images_per_second / found.gpus
        times = (found.compute, found.reduce, found.exposed, found.norms, found.data, found.step)
        cells = [str(found.gpus), str(found.global_batch), f"{found.rate:g}", str(FRAMES // found.global_batch)]
        cells += ["yes" if found.sync_bn else "no", *(f"{time:.1f}" for time in times)]
        cells += [f"{found.images_per_second:.0f}", f"{efficiency:.0f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(tyro.cli(Machine, description=__doc__)))
