"""Save frames of an evaluation as aligned pictures: image, truth, prediction, errors."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.evaluation.scores import iou
from fastseg.files import write_atomic
from fastseg.labels import IGNORE, SegmentationClass
from fastseg.report.pictures import IGNORED, RIGHT, WRONG, Mask, Picture

FOLDER = "overlays"
"""Folder of the pictures in a run folder."""
INDEX = "gallery.json"
LAYERS = {"image": "jpg", "truth": "truth.png", "prediction": "prediction.png", "errors": "errors.png"}
"""Pictures of each frame, and the suffixes of their files."""
MAX_SIDE = 1024
"""Pixels of the longer side at most: a screen shows no more, and a report of eight frames stays below 2 MB."""
LEVELS = 8
"""Shades between right and wrong; one more value marks ignored pixels."""
WORST_CLASSES = 3


class Frame(Protocol):
    """An evaluated frame for the gallery; :class:`fastseg.evaluation.metrics.Sample` is one."""

    @property
    def kind(self) -> str:
        """Return why it is shown: worst, random or best."""

    @property
    def iou(self) -> float:
        """Return the mean IoU over the classes in the frame, 0…1."""

    @property
    def image(self) -> Picture:
        """Return the image, H×W×3."""

    @property
    def label(self) -> Mask:
        """Return train ids H×W, 255 = ignored."""

    @property
    def prediction(self) -> Mask:
        """Return train ids H×W."""


def write_gallery(
    folder: Path, frames: Sequence[Frame], keys: Sequence[str], classes: Sequence[SegmentationClass]
) -> None:
    """Write these frames, in this order, to ``folder`` (``RUN/overlays``) in place of an earlier gallery.

    ``keys`` names each frame; masks hold train ids of ``classes``. Each frame becomes four files of one size, at most
    :data:`MAX_SIDE` pixels: a JPEG and three palette PNGs. The index is written last: no index, no gallery.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_gallery(folder)
    entries = []
    for i, (frame, key) in enumerate(zip(frames, keys, strict=True)):
        stem = f"{i:02d}_{key}"
        size = shown_size(frame.label.shape[1], frame.label.shape[0])
        image = Image.fromarray(frame.image).resize(size, Image.Resampling.LANCZOS)
        _save(image, folder / f"{stem}.{LAYERS['image']}", "JPEG", quality=85)
        masks = {
            "truth": mask_picture(frame.label, classes, size),
            "prediction": mask_picture(frame.prediction, classes, size),
            "errors": error_picture(frame.label, frame.prediction, size),
        }
        for name, picture in masks.items():
            _save(picture, folder / f"{stem}.{LAYERS[name]}", "PNG")
        worst = worst_classes(frame.label, frame.prediction, classes)
        about = {"key": key, "kind": frame.kind, "iou": frame.iou, "worst_classes": worst}
        entries.append({**about, "stem": stem, "size": size})
    write_atomic(folder / INDEX, json.dumps(entries, indent=1) + "\n")


def _save(picture: Image.Image, path: Path, format: str, **options: int) -> None:
    buffer = BytesIO()
    picture.save(buffer, format, optimize=True, **options)
    write_atomic(path, buffer.getvalue(), flush=False)


def remove_gallery(folder: Path) -> None:
    """Remove an index and the pictures that it lists, if there are any; others stay, such as fastseg-predict's."""
    try:
        stems = [Path(entry["stem"]).name for entry in json.loads((folder / INDEX).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError):  # missing or unreadable
        stems = []
    for path in (*(folder / f"{stem}.{ending}" for stem in stems for ending in LAYERS.values()), folder / INDEX):
        path.unlink(missing_ok=True)


def shown_size(width: int, height: int) -> tuple[int, int]:
    """Return width and height in the gallery, pixels: the frame's, scaled down to :data:`MAX_SIDE` if larger."""
    ratio = min(1, MAX_SIDE / max(width, height))
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def mask_picture(mask: Mask, classes: Sequence[SegmentationClass], size: tuple[int, int]) -> Image.Image:
    """Return a palette picture of train ids in the classes' colors, ignored pixels black; ``size``: width, height."""
    picture = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
    picture.putpalette([channel for c in classes for channel in c.color] + [0, 0, 0] * (256 - len(classes)))
    return picture


def error_picture(label: Mask, prediction: Mask, size: tuple[int, int]) -> Image.Image:
    """Return a palette picture from right (light gray) to wrong (red) by share of wrong pixels; ignored ones black."""
    counted = label != IGNORE
    # Averaging keeps thin errors visible, as a paler red; nearest would drop them.
    wrong, seen = (_shares(mask, size) for mask in (counted & (label != prediction), counted))
    levels = np.ceil((LEVELS - 1) * wrong / np.maximum(seen, 1e-6)).clip(0, LEVELS - 1)
    picture = Image.fromarray(np.where(seen < 0.5, LEVELS, levels).astype(np.uint8))
    shades = np.linspace(RIGHT, WRONG, LEVELS).round().astype(int).tolist()
    picture.putpalette([channel for shade in (*shades, IGNORED) for channel in shade])
    return picture


def worst_classes(label: Mask, prediction: Mask, classes: Sequence[SegmentationClass]) -> list[dict[str, str | float]]:
    """Return the classes with the most wrong pixels, by truth or by prediction, each with its IoU in the frame."""
    counted = label != IGNORE
    truth, guess = label[counted].astype(np.int64), prediction[counted].astype(np.int64)
    matrix = np.bincount(256 * truth + guess, minlength=256 * 256).reshape(256, 256)
    found, true, guessed = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    scores, wrong = iou(found, true, guessed), true + guessed - 2 * found
    order = [i for i in np.argsort(-wrong, kind="stable").tolist() if wrong[i] and i < len(classes)]
    return [{"class": classes[i].name, "iou": float(scores[i])} for i in order[:WORST_CLASSES]]


def _shares(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a picture of ``size`` with the share of True pixels under each of its pixels."""
    return np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX))
