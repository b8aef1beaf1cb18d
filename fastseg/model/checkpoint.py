"""Checkpoints: one file, written atomically and loaded without running code from it."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastseg.errors import UserError, shown
from fastseg.files import atomic_path
from fastseg.labels import MAX_CLASSES, SegmentationClass, parse_class
from fastseg.model.architectures import ARCHITECTURES
from fastseg.model.checkpoint_file import SAFETENSORS, resolve_checkpoint
from fastseg.model.safetensors_file import read_safetensors
from fastseg.model.weights import check_weights, fitting, not_finite, parse_normalization, read_tensors
from fastseg.shards.manifest import whole

FORMAT = "fastseg-checkpoint"
VERSION = 4
"""Version of the format; raised whenever older and newer code cannot read each other's files."""
REQUIRED = (
    *("step", "epoch", "arch", "model", "ema", "mean", "std", "stretch_to", "classes", "shards"),
    *("config", "dataset", "versions"),
)
"""Fields for evaluation and export; resuming needs more (:class:`fastseg.training.state.RunState`)."""


def save(path: Path, document: dict[str, Any]) -> None:
    """Write ``document`` (tensors, numbers, strings, lists, dicts, None) to ``path``, whole or not at all.

    Its weights, ``model`` and ``ema``, are written contiguous, N×C×H×W, whatever their memory order in training.
    torchvision loads its own networks' by ``get_model(arch, …).load_state_dict(checkpoint["model"])``.
    """
    document = document | {part: _contiguous(document[part]) for part in ("model", "ema") if document.get(part)}
    # To a file that we opened: torch's own does not report a full disk, only positions that do not match.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save({"format": FORMAT, "version": VERSION, **document}, file)
        except RuntimeError as error:
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def keep(path: Path, name: Path) -> None:
    """Also keep the checkpoint at ``path`` under another name: as a hard link, or else as a copy."""
    with atomic_path(name) as temporary:
        try:
            temporary.hardlink_to(path)
        except OSError:  # not every file system has hard links
            shutil.copyfile(path, temporary)


def load(source: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, its tensors lazily, and check :data:`REQUIRED`.

    ``source``: whatever :func:`.checkpoint_file.resolve_checkpoint` takes. Raises :class:`UserError` for anything else.
    """
    path = resolve_checkpoint(source)
    if path.suffix == SAFETENSORS:
        document = {"format": FORMAT, "version": VERSION, **read_safetensors(path)}
    else:
        document = read_tensors(path, "checkpoint", sums=True)
    check(document, path)
    return dict(document)


def check(document: Any, path: Path) -> None:
    """Refuse a document that is no fastseg checkpoint; ``path`` starts the :class:`UserError`."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of fastseg; if it holds weights, use it as --model.weights")
    if document.get("version") != VERSION:
        found = shown(document.get("version"))
        raise UserError(
            f"{path} has format version {found}, this fastseg reads {VERSION}; train anew, with --resume never"
        )
    if missing := [name for name in REQUIRED if name not in document]:
        raise UserError(f"{path} lacks {', '.join(missing)}; it is damaged, use another")
    step, epoch, arch, classes = (document[name] for name in ("step", "epoch", "arch", "classes"))
    if not _is_count(step):
        raise UserError(f"{path} has the step {shown(step)}; it is damaged, use another")
    if not isinstance(epoch, float) or not 0 <= epoch < 1 << 40:
        raise UserError(f"{path} has the epoch {shown(epoch)}; it is damaged, use another")
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        raise UserError(
            f"{path} is of the network {shown(arch)}; fastseg knows {', '.join(ARCHITECTURES)}; one of your own has to "
            "be registered before its checkpoint is loaded: fastseg.register_network(NAME, BUILDER)"
        )
    if not isinstance(document["shards"], str):
        raise UserError(f"{path} has the shards {shown(document['shards'])}; it is damaged, use another")
    if not isinstance(classes, list) or not 1 <= len(classes) <= MAX_CLASSES:
        number = len(classes) if isinstance(classes, list) else shown(classes)
        raise UserError(f"{path} has {number} classes; a mask holds 1 to {MAX_CLASSES}")
    for i, entry in enumerate(classes):
        parse_class(entry, f"{path}, class {i}")
    parse_normalization(document, path)
    _check_stretch(document, path)
    check_weights(document["model"], path)
    if document["ema"] is not None:
        check_weights(document["ema"], path)


def check_progress(saved: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint without the numbers that resuming needs. Raises :class:`UserError`."""
    if where := not_finite({part: saved.get(part) for part in ("optimizer", "ranks")}):
        raise UserError(f"{path} has values in {where} that are not finite; use another")
    with fitting(path):
        steps, best, owed = saved["steps_per_epoch"], saved["best"], saved["eval_pending"]
        if not _is_count(steps) or not steps or not isinstance(best, float) or not isinstance(owed, bool):
            raise ValueError(f"steps_per_epoch {shown(steps)}, best {shown(best)}, eval_pending {shown(owed)}")
        for name in ("since_best", "images_seen"):
            if not _is_count(saved[name]):
                raise ValueError(f"{name} {shown(saved[name])}")
        for name in ("origin", "best_split"):
            if not isinstance(saved[name], str | None):
                raise ValueError(f"{name} {shown(saved[name])}")
        for loader in (rank["loader"] for rank in saved["ranks"]):
            epoch, step, rank_local = loader["epoch"], loader["step"], loader["rank_local"]
            if not _is_count(epoch) or not _is_count(step) or step > steps or not isinstance(rank_local, bool):
                raise ValueError(
                    f"a loader in epoch {shown(epoch)} at step {shown(step)} of {steps}, {shown(rank_local)}"
                )


def white_of(saved: dict[str, Any], path: Path) -> int | None:
    """Return the white of 16-bit images by which a checked checkpoint's set was packed; None if the set had none.

    Raises :class:`UserError` for anything but a number of 16 bits.
    """
    with fitting(path):
        white = saved["dataset"].get("white")
        return None if white is None else whole(white, 1, 65535)


def _check_stretch(document: dict[str, Any], path: Path) -> None:
    """Refuse sizes of stretched frames that no setting allows. Raises :class:`UserError`."""
    size = document["stretch_to"]
    two = isinstance(size, (list, tuple)) and len(size) == 2
    if size is not None and not (two and all(isinstance(n, int) and 16 <= n <= 8192 for n in size)):
        raise UserError(f"{path} has frames stretched to {shown(size)}; it must be a height and a width, 16 to 8192")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 40


def _contiguous(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in weights.items()}


def pack_classes(classes: tuple[SegmentationClass, ...]) -> list[dict[str, Any]]:
    """Return the class table as plain values."""
    return [{**asdict(c), "color": list(c.color)} for c in classes]
