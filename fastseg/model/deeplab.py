"""torchvision's DeepLabv3 from uint8 frames to logits at the network's stride, and what it starts from."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from fastseg.errors import UserError
from fastseg.model.batchnorm import replace_batch_norms
from fastseg.model.weights import Rgb, check_weights, fitting, parse_normalisation, read_tensors

# What torchvision's pretrained weights were trained with, R, G, B, 0–255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class Logits(NamedTuple):
    """What the network says, before upsampling."""

    out: Tensor
    """N×C×h×w with h = H / stride."""
    aux: Tensor | None
    """The auxiliary head's, N×C×h×w; None in a network without one, and in evaluation."""


class DeepLab(nn.Module):
    """Normalization, then torchvision's network; parameter names below ``net.`` are torchvision's own.

    Frames come as bytes and are normalized here, on the device and in the compute dtype: four times fewer bytes
    cross the bus, and a compiled network fuses the arithmetic into its neighbors.
    """

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
        """A network with fresh weights. ``mean`` and ``std`` are of R, G, B, 0–255.

        ``stretch_to``: height and width to which evaluation resizes every frame, as the loader did in training.
        """
        super().__init__()
        self.stretch_to = stretch_to
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = get_model(arch, weights=None, weights_backbone=None, num_classes=classes, aux_loss=aux)
        self.net.to(memory_format=self.memory_format)
        # torch's default momentum, which torchvision's ResNets keep. Its MobileNetV3 has 0.01: a thousand steps until
        # the running statistics mean anything, so that short runs evaluate to nonsense.
        replace_batch_norms(self.net, momentum=0.1)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, image: Tensor) -> Logits:
        """``image``: uint8 N×H×W×3, RGB."""
        if self.stretch_to and not self.training:
            image = resize(image, self.stretch_to)
        # The permuted view of N×H×W×3 is channels-last as it stands: no copy.
        normalized = (image.permute(0, 3, 1, 2) - self.mean.view(3, 1, 1)) / self.std.view(3, 1, 1)
        features = self.net.backbone(normalized.contiguous(memory_format=self.memory_format))
        out = self.net.classifier(features["out"])
        if not self.training:
            return Logits(out, None)
        if self.net.aux_classifier is None:
            return Logits(out, None)
        return Logits(out, self.net.aux_classifier(features["aux"]))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bytes N×H×W×3 → N×h×w×3: bilinear, antialiased as in training, rounded."""
    planes = image.permute(0, 3, 1, 2).float()
    resized = F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=True)
    return resized.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, half-pixel centers, as torchvision does: N×C×h×w → N×C×H×W in float32."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


def normalization(weights: str, mean: Rgb, std: Rgb) -> tuple[Rgb, Rgb]:
    """What to normalize with: pretrained weights expect ImageNet's statistics, fresh ones take the data's own."""
    return (mean, std) if weights == "none" else (IMAGENET_MEAN, IMAGENET_STD)


def load_weights(model: DeepLab, arch: str, weights: str) -> None:
    """Start ``model`` from ``imagenet``, ``coco``, ``none`` or a file; see :class:`fastseg.config.ModelConfig`.

    A file holds a state dict of torchvision's, of the network or of its backbone alone, or a checkpoint of ours.
    Last layers made for other classes keep their fresh values. Downloads go to torchvision's cache and their
    hashes are checked. Raises :class:`UserError` where weights cannot be had or do not fit.
    """
    if weights == "none":
        return
    if weights == "coco":
        state = pretrained(arch, _OFFLINE)
    elif weights == "imagenet":
        state = pretrained(arch.removeprefix("deeplabv3_"), _OFFLINE)
    else:
        state = _from_file(model, Path(weights))
    _load_fitting(model.net, _network_names(state), weights)


def restore_model(saved: dict[str, Any]) -> DeepLab:
    """The network of a checkpoint on the CPU, channels-last, in evaluation mode, with averaged weights if there are.

    It stretches frames by itself if it was trained on such.
    ``saved`` has been checked (:func:`fastseg.model.checkpoint.load`). Raises :class:`UserError` where its parts do not
    fit together.
    """
    with fitting():
        weights = saved["ema"] or saved["model"]
        aux = any(name.startswith("aux_classifier.") for name in weights)
        stretch_to = tuple(saved["stretch_to"]) if saved["stretch_to"] else None
        mean, std = tuple(saved["mean"]), tuple(saved["std"])
        model = DeepLab(saved["arch"], len(saved["classes"]), mean, std, aux, stretch_to=stretch_to)
        model.net.load_state_dict(weights)
    return model.eval()


_OFFLINE = "fetch it on a machine that can and pass --model.weights FILE, or start from --model.weights none"


def pretrained(name: str, offline: str) -> dict[str, Tensor]:
    """torchvision's weights of the network ``name``, from its cache or by a download whose hash is checked.

    Raises :class:`UserError` where they cannot be had; ``offline`` is the cure that it names where a download fails.
    """
    # The first that were published: torchvision's own DeepLabv3 and the published results start from these.
    # For DEFAULT's, trained otherwise, others had to change the optimizer (https://github.com/open-mmlab/mmdetection/pull/7489).
    entry = next(iter(get_model_weights(name)))
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError) as error:
        raise UserError(f"cannot download {entry.url} ({getattr(error, 'reason', error)}); {offline}") from None
    except (RuntimeError, UnpicklingError, EOFError) as error:  # an invalid hash; no file of weights in the cache
        cache = Path(torch.hub.get_dir(), "checkpoints", Path(entry.url).name)
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"the download of {entry.url} is damaged ({reason}); remove {cache} and try again") from None


def _from_file(model: DeepLab, path: Path) -> dict[str, Tensor]:
    """The weights in a file; a checkpoint of ours knows what it was fed, which ``model`` takes over."""
    try:
        document = read_tensors(path, "file of weights")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"--model.weights is {path}, which is no file; it takes imagenet, coco, none or a file"
        ) from None
    state = document
    if isinstance(document, dict) and isinstance(document.get("model"), dict):
        state = document.get("ema") or document["model"]  # the averaged ones where there are any
        if "mean" in document and "std" in document:
            mean, std = parse_normalisation(document, path)
            model.mean.copy_(torch.tensor(mean))
            model.std.copy_(torch.tensor(std))
    check_weights(state, path)
    return dict(state)


def _network_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Classification networks' names → names below the segmentation network; the network's own stay."""
    if any(name.startswith("backbone.") for name in state):
        return state
    if any(name.startswith("features.") for name in state):  # MobileNetV3
        return {
            "backbone." + name.removeprefix("features."): v for name, v in state.items() if name.startswith("features.")
        }
    return {"backbone." + name: v for name, v in state.items() if not name.startswith("fc.")}


def _load_fitting(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    own = net.state_dict()
    fitting = {name: v for name, v in state.items() if name in own and own[name].shape == v.shape}
    heads_too = any(name.startswith("classifier.") for name in state)
    for name in own.keys() - fitting.keys():
        of_classes = name.startswith(("classifier.4.", "aux_classifier."))
        of_head = not heads_too and name.startswith("classifier.")
        if not (of_classes or of_head or name.endswith("num_batches_tracked")):
            found = f"has the shape {tuple(state[name].shape)} there" if name in state else "is not in it"
            raise UserError(
                f"the weights {source} do not fit this network: {name} {found}; check --model.arch and --model.weights"
            )
    net.load_state_dict(fitting, strict=False)
