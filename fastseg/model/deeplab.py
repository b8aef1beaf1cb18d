"""torchvision's DeepLabv3 from uint8 frames to logits at the network's stride, and what it starts from."""

from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from fastseg.errors import UserError

# What torchvision's pretrained weights were trained with, R, G, B, 0–255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


Rgb = tuple[float, float, float]


class Logits(NamedTuple):
    """What the network says, before upsampling."""

    out: Tensor
    """N×C×h×w with h = H / stride."""
    aux: Tensor | None
    """The auxiliary head's, N×C×h×w; None in a network without one, and in evaluation."""


class DeepLab(nn.Module):
    """Normalisation, then torchvision's network; parameter names below ``net.`` are torchvision's own.

    Frames come as bytes and are normalised here, on the device and in the compute dtype: four times fewer bytes
    cross the bus, and a compiled network fuses the arithmetic into its neighbours.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, arch: str, classes: int, mean: Rgb, std: Rgb, aux: bool, channels_last: bool = True) -> None:
        """A network with fresh weights. ``mean`` and ``std`` are of R, G, B, 0–255."""
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = get_model(arch, weights=None, weights_backbone=None, num_classes=classes, aux_loss=aux)
        self.net.to(memory_format=self.memory_format)
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                # torch's default, which torchvision's ResNets keep. Its MobileNetV3 has 0.01: a thousand steps until
                # the running statistics mean anything, so that short runs evaluate to nonsense.
                module.momentum = 0.1
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, image: Tensor) -> Logits:
        """``image``: uint8 N×H×W×3, RGB."""
        # The permuted view of N×H×W×3 is channels-last as it stands: no copy.
        normalised = (image.permute(0, 3, 1, 2) - self.mean.view(3, 1, 1)) / self.std.view(3, 1, 1)
        features = self.net.backbone(normalised.contiguous(memory_format=self.memory_format))
        out = self.net.classifier(features["out"])
        if self.net.aux_classifier is None or not self.training:
            return Logits(out, None)
        return Logits(out, self.net.aux_classifier(features["aux"]))


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, half-pixel centres, as torchvision does: N×C×h×w → N×C×H×W in float32."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


def normalisation(weights: str, mean: Rgb, std: Rgb) -> tuple[Rgb, Rgb]:
    """What to normalise with: pretrained weights expect ImageNet's statistics, fresh ones take the data's own."""
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
        state = _download(arch)
    elif weights == "imagenet":
        state = _download(arch.removeprefix("deeplabv3_"))
    else:
        document = _read_file(Path(weights))
        state = _state_dict(document, weights)
        if "mean" in document and "std" in document:  # a checkpoint of ours knows what it was fed
            model.mean.copy_(torch.tensor(document["mean"]))
            model.std.copy_(torch.tensor(document["std"]))
    _load_fitting(model.net, _network_names(state), weights)


def restore_model(saved: dict[str, Any]) -> DeepLab:
    """The network of a checkpoint on the CPU, channels-last, in evaluation mode, with averaged weights if there are.

    Raises :class:`UserError` where the checkpoint's parts do not fit together.
    """
    try:
        weights = saved["ema"] or saved["model"]
        aux = any(name.startswith("aux_classifier.") for name in weights)
        model = DeepLab(saved["arch"], len(saved["classes"]), tuple(saved["mean"]), tuple(saved["std"]), aux)
        model.net.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"the checkpoint is damaged ({reason}); use another") from None
    return model.eval()


def _download(name: str) -> dict[str, Tensor]:
    entry = get_model_weights(name).DEFAULT
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError) as error:
        raise UserError(
            f"cannot download {entry.url} ({getattr(error, 'reason', error)}); fetch it on a machine that can and pass "
            "--model.weights FILE, or start from --model.weights none"
        ) from None
    except RuntimeError as error:  # load_state_dict_from_url: invalid hash value
        raise UserError(f"the download of {entry.url} is damaged ({error}); try again") from None


def _read_file(path: Path) -> Any:
    try:
        # Always explicit: the environment can switch the safe default off.
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"--model.weights is {path}, which is no file; it takes imagenet, coco, none or a file"
        ) from None
    except Exception as error:  # any kind of file may be named here, and unpickling fails in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a file of weights that can be loaded safely: {reason}") from None


def _state_dict(document: Any, source: str) -> dict[str, Tensor]:
    """The weights in a file: the averaged ones of a checkpoint, its plain ones, or the file itself."""
    if isinstance(document, dict) and isinstance(document.get("model"), dict):
        document = document.get("ema") or document["model"]
    if not isinstance(document, dict) or not all(isinstance(value, Tensor) for value in document.values()):
        raise UserError(f"{source} holds no state dict; save one with torch.save(model.state_dict(), …)")
    return document


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
