"""Checkpoints: one file that is whole or absent, loaded without running code from it."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastseg.errors import UserError
from fastseg.files import atomic_path
from fastseg.labels import SegmentationClass

FORMAT = "fastseg-checkpoint"
VERSION = 1
REQUIRED = ("step", "arch", "model", "ema", "mean", "std", "classes", "shards")
"""What an evaluation needs; a run that goes on needs more (:class:`fastseg.loop.state.RunState`)."""


def save(path: Path, document: dict[str, Any]) -> None:
    """Write ``document`` (tensors, numbers, strings, lists, dicts, None) to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        torch.save({"format": FORMAT, "version": VERSION, **document}, temporary)


def keep(path: Path, name: Path) -> None:
    """Keep the checkpoint at ``path`` under another name too: a second link to the same bytes, or a copy."""
    with atomic_path(name) as temporary:
        try:
            temporary.hardlink_to(path)
        except OSError:  # not every file system has links
            shutil.copyfile(path, temporary)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, tensor by tensor as they are used.

    Raises :class:`UserError` for anything that is not one of ours.
    """
    try:
        # Always explicit: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD switches the default off, not a given True.
        document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; a run's checkpoints lie in runs/NAME/checkpoints") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name a checkpoint file in it, such as checkpoints/best.pt") from None
    except Exception as error:  # any kind of file may be named here, and unpickling fails in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a checkpoint that can be loaded safely: {reason}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of fastseg; it may go to --model.weights if it holds weights")
    if document.get("version") != VERSION:
        raise UserError(f"{path} has format version {document.get('version')}, this fastseg reads {VERSION}")
    if missing := [name for name in REQUIRED if name not in document]:
        raise UserError(f"{path} lacks {', '.join(missing)}; it is damaged, use another")
    return document


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """The network's state dict on the CPU, contiguous N×C×H×W whatever the memory order in training.

    Its names are torchvision's: ``get_model(arch, …).load_state_dict(checkpoint["model"])`` takes it.
    """
    return {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}


def pack_classes(classes: tuple[SegmentationClass, ...]) -> list[dict[str, Any]]:
    """The class table as plain values."""
    return [{**asdict(c), "color": list(c.color)} for c in classes]


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed while saving left in ``folder``."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
