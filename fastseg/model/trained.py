"""A trained network from any source, to be scored: a checkpoint, exported weights, or an exported program."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastseg.errors import UserError
from fastseg.labels import IGNORE, parse_class
from fastseg.model import checkpoint
from fastseg.model.checkpoint_file import resolve_network
from fastseg.model.exported import READERS, Exported, read_onnx
from fastseg.model.inference import ONCE, TtaViews, predict
from fastseg.model.network import Logits, restore_model
from fastseg.model.safetensors_file import EXPORT

Infer = Callable[[Tensor], Tensor]
"""uint8 N×H×W×3 → train ids N×H×W, on the device."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A network, and what its file says of it."""

    name: str
    """As the user named it."""
    open: Callable[[torch.device, TtaViews], Infer]
    """Return the function that predicts on a device, averaging over views."""
    classes: tuple[str, ...] | None
    """Names of the classes; None if the file does not say."""
    arch: str = ""
    """Name in :data:`fastseg.model.architectures.ARCHITECTURES`; empty if unknown."""
    shards: str = ""
    """The packed set that it was trained on; empty if unknown."""
    step: int | None = None
    """Steps of its training; None if unknown."""
    weights: str = "model"
    """``ema`` for averaged weights, else ``model``, as in a run's metrics.jsonl."""
    config: dict[str, Any] = field(default_factory=dict)
    """Settings of its training, as far as they are known."""
    stretch_to: Any = None
    """Height and width to which it resizes frames, or None."""
    program: Exported | None = None
    """The exported program, if it is one."""

    def __str__(self) -> str:
        return self.name if self.step is None else f"{self.name}, step {self.step}"

    def check_frames(self, batch: int, sizes: Sequence[tuple[int, int]], classes: int) -> None:
        """Refuse frames that it does not take: their number, their size (height, width), the number of their classes.

        Raises :class:`UserError`.
        """
        if self.program:
            self.program.check_frames(batch, sizes, classes)


def open_network(source: str | os.PathLike[str]) -> TrainedNetwork:
    """Open whatever :func:`.checkpoint_file.resolve_network` finds. Raises :class:`UserError` for anything else."""
    path, name = resolve_network(source), os.fspath(source)
    if path.suffix in READERS:
        return _program(name, READERS[path.suffix](path))
    saved = checkpoint.load(path)
    return TrainedNetwork(
        name=name,
        open=partial(_open_checkpoint, saved),
        classes=tuple(entry["name"] for entry in saved["classes"]),
        arch=saved["arch"],
        shards=saved["shards"],
        step=saved["step"],
        weights="ema" if saved["ema"] else "model",
        config=saved["config"],
        stretch_to=saved["stretch_to"],
    )


def _open_checkpoint(saved: dict[str, Any], device: torch.device, views: TtaViews) -> Infer:
    return partial(predict, restore_model(saved).to(device), views=views)


def _program(name: str, program: Exported) -> TrainedNetwork:
    said, step = program.metadata, program.metadata.get("step", "")
    return TrainedNetwork(
        name=name,
        open=partial(_open_program, program),
        classes=_classes(name, said["classes"]) if said.get("format") == EXPORT and "classes" in said else None,
        arch=said.get("arch", ""),
        step=int(step) if step.isdecimal() and len(step) < 12 else None,
        weights="ema" if said.get("weights") == "ema" else "model",
        program=program,
    )


def _classes(name: str, text: str) -> tuple[str, ...]:
    """Return the names in an exported program's metadata. Raises :class:`UserError` for anything but a list of them."""
    try:
        return tuple(parse_class(entry, f"{name}, class {i}").name for i, entry in enumerate(json.loads(text)))
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"{name} has damaged metadata (classes); export it again") from None


def _open_program(program: Exported, device: torch.device, views: TtaViews) -> Infer:
    if program.path.suffix == ".onnx" and device.type == "cuda":
        program = read_onnx(program.path, device)
    return partial(_run_program, program, views=views)


@torch.inference_mode()
def _run_program(program: Exported, image: Tensor, views: TtaViews = ONCE) -> Tensor:
    """Return the train ids that the program gives, uint8 N×H×W; those of its averaged logits if there are ``views``."""

    def network(view: Tensor) -> Logits:
        logits = program.run(view.cpu().numpy()).logits
        if logits is None:
            raise UserError(
                f"{program.path} gives class ids without logits, which cannot be averaged; leave out --tta and --window"
            )
        return Logits(torch.from_numpy(logits).to(view.device), None)

    if views != ONCE or not program.gives_ids:
        return predict(network, image, views)
    ids = program.run(image.cpu().numpy()).classes
    if ids is None or ids.shape != image.shape[:3]:
        raise UserError(f"{program.path} gives other class ids than one for each pixel; export it with all of them")
    # What does not fit into a byte is no class either.
    return torch.from_numpy(np.where((ids < 0) | (ids > IGNORE), IGNORE, ids).astype(np.uint8)).to(image.device)
