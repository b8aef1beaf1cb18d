"""A network of the table, from uint8 frames to logits at its output stride."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.config import Freeze
from fastseg.errors import UserError, shown
from fastseg.model.architectures import ARCHITECTURES, OFFERED, Net
from fastseg.model.batchnorm import freeze_batch_norms, replace_batch_norms
from fastseg.model.weights import Rgb, fitting

# Normalization of torchvision's pretrained weights, R, G, B, 0–255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class Logits(NamedTuple):
    """Logits of both heads, before upsampling."""

    out: Tensor
    """N×C×h×w with h = H / stride."""
    aux: Tensor | None
    """Logits of the auxiliary head, N×C×h×w; None in a network without one, and in evaluation."""


class SegmentationNetwork(nn.Module):
    """Normalization and a network of :data:`ARCHITECTURES`, whose own parameter names follow ``net.``.

    Frames come as bytes and are normalized here, on the device and in the compute dtype: a quarter of the bytes cross
    the bus, and the compiler fuses the arithmetic with its neighbors.
    """

    net: Net
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        arch: str,
        classes: int,
        mean: Rgb,
        std: Rgb,
        aux: bool,
        channels_last: bool = True,
        *,
        stretch_to: tuple[int, int] | None = None,
    ) -> None:
        """Build the network ``arch`` with fresh weights. ``mean`` and ``std`` are of R, G, B, 0–255.

        ``aux``: with the auxiliary head, which not every network has (:attr:`Architecture.heads`).
        ``stretch_to``: height and width to which evaluation resizes every frame, as the loader did in training.
        """
        super().__init__()
        self.arch = arch
        self.stretch_to = stretch_to
        self.dtype = torch.float32
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = ARCHITECTURES[arch].build(classes, aux)
        self._logits = ARCHITECTURES[arch].logits
        self.net.to(memory_format=self.memory_format)
        # torch's default momentum, which torchvision's ResNets keep. Its MobileNetV3 has 0.01: a thousand steps until
        # the running statistics mean anything, so that short runs evaluate to nonsense.
        replace_batch_norms(self.net, momentum=0.1)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def freeze(self, what: Freeze) -> None:
        """Keep the backbone, or all batch norms, at their present values in training (:class:`ModelConfig`)."""
        if what == "none":
            return
        part = self.net.get_submodule(ARCHITECTURES[self.arch].backbone) if what == "backbone" else self.net
        freeze_batch_norms(part)
        if what == "backbone":
            part.requires_grad_(False)

    def forward(self, image: Tensor) -> Logits:
        """Compute the logits of ``image``: uint8 N×H×W×3, RGB."""
        if self.stretch_to and not self.training:
            image = resize(image, self.stretch_to)
        logits = self._logits(self.net, self.normalize(image))
        return Logits(logits["out"], logits.get("aux"))

    def normalize(self, image: Tensor) -> Tensor:
        """Map uint8 N×H×W×3 to what the network reads: float N×3×H×W in its memory order."""
        # The permuted view of N×H×W×3 is channels-last already: no copy.
        normalized = (image.permute(0, 3, 1, 2) - self.mean.view(3, 1, 1)) / self.std.view(3, 1, 1)
        return normalized.contiguous(memory_format=self.memory_format).to(self.dtype)

    def half(self) -> "SegmentationNetwork":
        """Convert the weights to float16, for inference; frames are normalized in float32 all the same."""
        self.net.half()
        self.dtype = torch.float16
        return self


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bytes N×H×W×3 → N×h×w×3: bilinear, antialiased as in training, rounded."""
    planes = image.permute(0, 3, 1, 2).float()
    resized = F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=True)
    return resized.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits N×C×h×w → N×C×H×W in float32: bilinear, half-pixel centers, as torchvision does."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


def normalization(weights: str, mean: Rgb, std: Rgb) -> tuple[Rgb, Rgb]:
    """Return the mean and deviation to normalize with: ImageNet's for pretrained weights, the data's for fresh ones."""
    return (mean, std) if weights == "none" else (IMAGENET_MEAN, IMAGENET_STD)


@torch.no_grad()
def check_logits(model: SegmentationNetwork, classes: int, size: tuple[int, int]) -> None:
    """Refuse a network of one's own whose logits for a frame of ``size`` are not 1×C×h×w. Raises :class:`UserError`."""
    if model.arch in OFFERED:
        return
    found: Any = model.eval()(torch.zeros(1, *size, 3, dtype=torch.uint8, device=model.mean.device)).out
    if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[:2] != (1, classes):
        shape = "×".join(map(str, found.shape)) if isinstance(found, Tensor) else shown(found)
        raise UserError(
            f"the network {model.arch} gives logits of {shape} for one image and {classes} classes; they must be "
            f"1×{classes}×h×w"
        )


def restore_model(saved: dict[str, Any]) -> SegmentationNetwork:
    """Build a checkpoint's network on the CPU, channels-last, in evaluation mode, with averaged weights if any.

    It stretches frames if it was trained on stretched ones. ``saved`` has been checked
    (:func:`fastseg.model.checkpoint.load`). Raises :class:`UserError` if its parts do not fit together.
    """
    with fitting():
        weights = saved["ema"] or saved["model"]
        aux = ARCHITECTURES[saved["arch"]].has_aux(weights)
        stretch_to = tuple(saved["stretch_to"]) if saved["stretch_to"] else None
        mean, std = tuple(saved["mean"]), tuple(saved["std"])
        model = SegmentationNetwork(saved["arch"], len(saved["classes"]), mean, std, aux, stretch_to=stretch_to)
        model.net.load_state_dict(weights)
    return model.eval()
