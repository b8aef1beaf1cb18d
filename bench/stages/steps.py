"""What all entries that compute have in common: the recipe, the batch, and the figures of a window."""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from bench.runner.worker import Benchmark
from bench.stages import Request
from fastseg.config import Config, DataConfig, ModelConfig
from fastseg.labels import IGNORE, cityscapes
from fastseg.model.deeplab import IMAGENET_MEAN, IMAGENET_STD
from fastseg.shards.manifest import Manifest
from fastseg.training.flops import device_peak, measured_peak, moment, seconds_between
from fastseg.training.memory import peak_memory

CLASSES = 19
"""Of the synthetic batch: Cityscapes'."""

RATE = 1e-4
"""Learning rate: noise is learnt by nobody, and weights that diverge would change the time of a step."""


def settings_of(request: Request) -> dict[str, Any]:
    """Return what every factory of an entry that computes is called with."""
    return {
        "device": request.device,
        "arch": request.arch,
        "crop": list(request.crop),
        "batch": request.batch,
        "precision": request.precision,
    }


def recipe(arch: str, crop: list[int], batch: int, precision: str) -> Config:
    """Return the Cityscapes recipe on other work, from fresh weights."""
    return Config(
        data=DataConfig(batch=batch, crop=(crop[0], crop[1])),
        model=ModelConfig(arch=arch, weights="none", precision=precision),  # type: ignore[arg-type]
    )


def synthetic_manifest() -> Manifest:
    """Return what a network needs to know of its data, of a set that is not there."""
    return Manifest("synthetic", cityscapes().classes, {}, "jpg", "tif", IMAGENET_MEAN, IMAGENET_STD)


def synthetic_batch(batch: int, crop: tuple[int, int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random uint8 N×H×W×3 and N×H×W train ids on ``device``; of the labels one in twenty is ignored."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (batch, *crop, 3), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, CLASSES, (batch, *crop), dtype=torch.uint8, generator=generator)
    label[torch.rand(batch, *crop, generator=generator) < 0.05] = IGNORE
    return image.to(device), label.to(device)


def normalized(image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the batch as the usual loaders hand it over: float32 N×3×H×W, contiguous, and int64 N×H×W."""
    mean, std = (torch.tensor(values, device=image.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((image - mean) / std).permute(0, 3, 1, 2).contiguous(), label.long()


def first_device(name: str) -> torch.device:
    """Return ``cuda`` or ``cpu`` as a device, the GPU with its number."""
    return torch.device("cuda", 0) if name == "cuda" else torch.device("cpu")


def release_memory(device: torch.device) -> None:
    """Give back what torch keeps of a GPU's memory between steps: while this entry waits, others need it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


class Steps(Benchmark):
    """A benchmark that repeats one step on one batch and says how well that uses the processor."""

    warmup_steps = 2  # The first compiles, and cuDNN tries its algorithms in it.

    def __init__(self, train: Callable[[], object], images: int, flops: int, device: torch.device, precision: str):
        """Take ``train``, which does one step, of ``images`` images and ``flops`` operations."""
        self._train, self._images, self._flops = train, images, flops
        self._device, self._precision = device, precision
        self._datasheet = device_peak(device)
        self._product = 0.0
        self._times: list[tuple[Any, Any]] = []

    def step(self) -> int:
        """Do one step; returns its images."""
        begin = moment(self._device)
        self._train()
        self._times.append((begin, moment(self._device)))
        return self._images

    def figures(self) -> dict[str, float]:
        """Return tflops: TFLOP/s of the median step since the last call; its shares of the processor's peaks, 0–1.

        The median because the steps of the warm-up are among them.
        """
        times, self._times = self._times, []
        tflops = self._flops / median(seconds_between(*pair) for pair in times) / 1e12
        memory = peak_memory(self._device)
        # Here and not at the start, where other entries are starting too.
        self._product = max(self._product, measured_peak(self._device, self._precision))
        release_memory(self._device)
        return {
            "tflops": tflops,
            **({"mfu_datasheet": tflops / self._datasheet} if self._datasheet else {}),
            "mfu_measured": tflops / self._product,
            "peak_tflops_measured": self._product,
            "peak_memory_bytes": memory,
        }
