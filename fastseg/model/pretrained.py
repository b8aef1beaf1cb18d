"""Initial weights of a network: torchvision's, a file's, or those of a fastseg checkpoint."""

from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from fastseg.errors import UserError
from fastseg.model.architectures import ARCHITECTURES
from fastseg.model.match_weights import Match, find_arch, match_weights, strip_prefixes
from fastseg.model.network import SegmentationNetwork
from fastseg.model.weights import check_weights, parse_normalization, read_tensors

WRAPPED = ("model", "state_dict", "model_state_dict")
"""Under which keys files have a state dict: ours and torchvision's scripts', mmsegmentation's and Lightning's, torch's
tutorials'."""


def load_weights(model: SegmentationNetwork, weights: str) -> str:
    """Start ``model`` from ``imagenet``, ``coco``, ``none`` or a file; see :class:`fastseg.config.ModelConfig`.

    A file holds a state dict of torchvision's network or of its backbone alone, under whatever prefixes training tools
    give it, a checkpoint of ours, or a network of mmsegmentation's. Last layers made for other classes keep their fresh
    values. Downloads go to torchvision's cache and their hashes are checked. Returns a sentence about what was taken of
    a file, and an empty one otherwise. Raises :class:`UserError` where weights cannot be had or do not fit.
    """
    if weights == "none":
        return ""
    offered, own = ARCHITECTURES[model.arch].pretrained or {}, model.net.state_dict()
    if weights in offered:
        state, prefix = download_weights(offered[weights], _HINT), ""
    elif weights in ("imagenet", "coco"):
        raise UserError(
            f"--model.weights is {weights}, and there are no such weights for {model.arch}; "
            f"it takes {', '.join([*offered, 'none'])} or a file"
        )
    else:
        state, prefix = strip_prefixes(_from_file(model, Path(weights)), own, weights)
    match = match_weights(model.arch, own, state)
    if match.problems:
        other = find_arch(state, model.arch)
        cure = f": {other} takes them" if other else ", and that the file holds one network and nothing else"
        raise UserError(
            f"the weights {weights} do not fit this network: {', and '.join(match.problems)}; check --model.arch{cure}"
        )
    model.net.load_state_dict(match.tensors, strict=False)
    return "" if weights in offered else _describe(match, weights, len(state), prefix)


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
        document = read_tensors(path, "file of weights", foreign=True)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"--model.weights is {path}, which is no file; it takes imagenet, coco, none or a file"
        ) from None
    state = document
    if isinstance(document, dict):
        state = next((document[key] for key in WRAPPED if isinstance(document.get(key), dict)), document)
        if state is document.get("model"):
            state = document.get("ema") or state  # the averaged ones where there are any
            if "mean" in document and "std" in document:
                mean, std = parse_normalization(document, path)
                model.mean.copy_(torch.tensor(mean))
                model.std.copy_(torch.tensor(std))
    check_weights(state, path)
    return dict(state)


def _describe(match: Match, weights: str, total: int, prefix: str) -> str:
    """Say what of a file's tensors a network started from, and what of it starts anew."""
    names = f", their names without {prefix!r}" if prefix else ""
    anew = f"; starting anew: {', '.join(match.anew)}" if match.anew else ""
    return f"took {len(match.tensors)} of {total} tensors of {weights}{names}: {match.taken}{anew}"
