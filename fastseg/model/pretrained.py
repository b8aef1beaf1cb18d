"""Initial weights of a network: torchvision's, a file's, or those of a fastseg checkpoint."""

from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from fastseg.errors import UserError
from fastseg.model.architectures import ARCHITECTURES, Architecture
from fastseg.model.network import SegmentationNetwork
from fastseg.model.weights import check_weights, parse_normalization, read_tensors


def load_weights(model: SegmentationNetwork, weights: str) -> None:
    """Load ``imagenet``, ``coco``, ``none`` or a file into ``model``; see :class:`fastseg.config.ModelConfig`.

    A file holds torchvision's state dict of the network, or of its backbone alone, or a fastseg checkpoint. Last layers
    for other classes keep their fresh values. Downloads go to torchvision's cache, and their hashes are checked. Raises
    :class:`UserError` if weights are not available or do not fit.
    """
    if weights == "none":
        return
    architecture = ARCHITECTURES[model.arch]
    offered = architecture.pretrained or {}
    if weights in offered:
        state = download_weights(offered[weights], _HINT)
    elif weights in ("imagenet", "coco"):
        raise UserError(
            f"--model.weights is {weights}, and there are no such weights for {model.arch}; "
            f"it takes {', '.join([*offered, 'none'])} or a file"
        )
    else:
        state = _from_file(model, Path(weights))
    _load_fitting(model.net, architecture, _network_names(architecture, state), weights)


_HINT = "fetch it on a machine that can and pass --model.weights FILE, or start from --model.weights none"


def download_weights(name: str, hint: str) -> dict[str, Tensor]:
    """Return torchvision's weights of the network ``name``, from its cache or by a download whose hash is checked.

    Raises :class:`UserError` if they are not available; ``hint`` is the cure that it names if a download fails.
    """
    # The first version: torchvision's own DeepLabv3 and the published results start from it.
    # DEFAULT's are trained differently, and others had to change the optimizer for them (https://github.com/open-mmlab/mmdetection/pull/7489).
    entry = next(iter(get_model_weights(name)))
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError) as error:
        raise UserError(f"cannot download {entry.url} ({getattr(error, 'reason', error)}); {hint}") from None
    except (RuntimeError, UnpicklingError, EOFError) as error:  # an invalid hash; no weights in the cache
        cache = Path(torch.hub.get_dir(), "checkpoints", Path(entry.url).name)
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"the download of {entry.url} is damaged ({reason}); remove {cache} and try again") from None


def _from_file(model: SegmentationNetwork, path: Path) -> dict[str, Tensor]:
    """Read the weights in a file; ``model`` takes over a checkpoint's normalization."""
    try:
        document = read_tensors(path, "file of weights")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"--model.weights is {path}, which is no file; it takes imagenet, coco, none or a file"
        ) from None
    state = document
    if isinstance(document, dict) and isinstance(document.get("model"), dict):
        state = document.get("ema") or document["model"]  # the averaged ones if there are any
        if "mean" in document and "std" in document:
            mean, std = parse_normalization(document, path)
            model.mean.copy_(torch.tensor(mean))
            model.std.copy_(torch.tensor(std))
    check_weights(state, path)
    return dict(state)


def _network_names(architecture: Architecture, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a classification network's weights to those of the backbone; the network's own are unchanged."""
    if any(name.startswith(f"{architecture.backbone}.") for name in state):
        return state
    if any(name.startswith("features.") for name in state):  # MobileNetV3
        state = {name.removeprefix("features."): v for name, v in state.items() if name.startswith("features.")}
    return {f"{architecture.backbone}.{name}": v for name, v in state.items() if not name.startswith("fc.")}


def _load_fitting(net: nn.Module, architecture: Architecture, state: dict[str, Tensor], source: str) -> None:
    """Load what fits of ``state``. Raises :class:`UserError` if more is missing than may keep its fresh values."""
    own = net.state_dict()
    fitting = {name: v for name, v in state.items() if name in own and own[name].shape == v.shape}
    for name in own.keys() - fitting.keys():
        if not _may_stay_fresh(name, architecture, state):
            found = f"has the shape {tuple(state[name].shape)} there" if name in state else "is not in it"
            raise UserError(
                f"the weights {source} do not fit this network: {name} {found}; check --model.arch and --model.weights"
            )
    net.load_state_dict(fitting, strict=False)


def _may_stay_fresh(name: str, architecture: Architecture, state: dict[str, Tensor]) -> bool:
    """Return whether ``name`` may keep its fresh values: in the last layers, or in a head that ``state`` lacks."""
    backbone = f"{architecture.backbone}."
    if all(given.startswith(backbone) for given in state) and not name.startswith(backbone):
        return True
    heads = [f"{head}." for head in architecture.heads.values()]
    absent = [head for head in heads if not any(given.startswith(head) for given in state)]
    last = [f"{layer}." for layer in architecture.class_layers]
    return name.startswith((*last, *absent)) or name.endswith("num_batches_tracked")
