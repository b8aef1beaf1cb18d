"""Recipe, batch and figures that all computing entries share."""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from bench.runner.worker import Benchmark
from bench.stages import Request
from fastseg.config import Config, DataConfig, ModelConfig
from fastseg.labels import IGNORE, cityscapes
from fastseg.memory import peak_memory
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fastseg.shards.manifest import Manifest
from fastseg.training.flops import device_peak, measured_peak, moment, seconds_between
from fastseg.training.step import LossNetwork

CLASSES = 19
"""Number of classes of the synthetic batch, as in Cityscapes."""

RATE = 1e-4
"""Learning rate, low because noise cannot be learned and diverging weights would change the time of a step."""


def settings_of(request: Request) -> dict[str, Any]:
    """Return the settings for the factory of a computing entry."""
    return {
        "device": request.device,
        "arch": request.arch,
        "crop": list(request.crop),
        "batch": request.batch,
        "precision": request.precision,
    }


def recipe(arch: str, crop: list[int], batch: int, precision: str) -> Config:
    """Return the Cityscapes recipe with other crop, batch and network, from fresh weights."""
    return Config(
        data=DataConfig(batch=batch, crop=(crop[0], crop[1])),
        model=ModelConfig(arch=arch, weights="none", precision=precision),  # type: ignore[arg-type]
    )


def loss_network(config: Config, classes: int, pixel_weights: torch.Tensor | None = None) -> LossNetwork:
    """Return a recipe's network with fresh weights and its loss, in training mode."""
    model, statistics = config.model, (IMAGENET_MEAN, IMAGENET_STD)
    network = SegmentationNetwork(model.arch, classes, *statistics, config.aux_weight > 0, model.channels_last)
    return LossNetwork(network, config.optim, pixel_weights).train()


def synthetic_manifest() -> Manifest:
    """Return the manifest of a set that does not exist, for the network's settings."""
    return Manifest("synthetic", cityscapes().classes, {}, "jpg", "tif", IMAGENET_MEAN, IMAGENET_STD)


def synthetic_batch(batch: int, crop: tuple[int, int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random uint8 N×H×W×3 and N×H×W train ids on ``device``; one label in twenty is ignored."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (batch, *crop, 3), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, CLASSES, (batch, *crop), dtype=torch.uint8, generator=generator)
    label[torch.rand(batch, *crop, generator=generator) < 0.05] = IGNORE
    return image.to(device), label.to(device)


def normalized(image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the batch as usual loaders do: float32 N×3×H×W, contiguous, and int64 N×H×W."""
    mean, std = (torch.tensor(values, device=image.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((image - mean) / std).permute(0, 3, 1, 2).contiguous(), label.long()


def first_device(name: str) -> torch.device:
    """Return ``cuda`` or ``cpu`` as a device, the GPU with its number."""
    return torch.device("cuda", 0) if name == "cuda" else torch.device("cpu")


def release_memory(device: torch.device) -> None:
    """Release torch's cached GPU memory between steps: other entries need it while this one waits."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


class Steps(Benchmark):
    """A benchmark that repeats one step on one batch and reports how well it uses the processor."""

    warmup_steps = 2  # The first compiles, and cuDNN tries its algorithms in it.

    def __init__(self, train: Callable[[], object], images: int, flops: int, device: torch.device, precision: str):
        """Take ``train``, which does one step of ``images`` images and ``flops`` operations."""
        self._train, self._images, self._flops = train, images, flops
        self._device, self._precision = device, precision
        self._datasheet = device_peak(device)
        self._product = 0.0
        self._times: list[tuple[Any, Any]] = []

    def step(self) -> int:
        """Do one step; return its number of images."""
        begin = moment(self._device)
        self._train()
        self._times.append((begin, moment(self._device)))
        return self._images

    def figures(self) -> dict[str, float]:
        """Return tflops: TFLOP/s of the median step since the last call; its shares of the processor's peaks, 0–1.

        The median, because warm-up steps are among them.
        """
        times, self._times = self._times, []
        tflops = self._flops / median(seconds_between(*pair) for pair in times) / 1e12
        memory = peak_memory(self._device)
        # Not at the start, when other entries are starting too.
        self._product = max(self._product, measured_peak(self._device, self._precision))
        release_memory(self._device)
        return {
            "tflops": tflops,
            **({"mfu_datasheet": tflops / self._datasheet} if self._datasheet else {}),
            "mfu_measured": tflops / self._product,
            "peak_tflops_measured": self._product,
            "peak_memory_bytes": memory,
        }
