"""Label Studio's "brush labels to PNG": a mask for each stroke, and an export as JSON that tells their images."""

import pickle
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fastseg.errors import UserError
from fastseg.labels import LabelTable
from fastseg.packing.masks import DecodedMask
from fastseg.packing.sources.annotations import class_names, class_table, number_classes, read_json
from fastseg.packing.sources.samples import Files
from fastseg.packing.sources.shape_masks import Listed, ShapeMask, find_image, find_listed
from fastseg.packing.sources.tree import Member, Tree
from fastseg.shards.images import load_image

MAX_DEPTH = 1
"""Maximum number of folders above the JSON of the tasks."""
_NAME = re.compile(r"task-(\d+)-annotation-(\d+)-by-[^-]*-[^-]+-(.+)-\d+\.png")
_TASKS = re.compile(rb"\s*\[\s*\{")
_PREFIX = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio writes before the names of uploaded files."""


class Stroke(NamedTuple):
    """A PNG of one stroke or of several."""

    name: str
    task: int
    annotation: int
    label: str


class BrushMask(ShapeMask):
    """The strokes of one image, smaller ones over larger ones; other pixels are background, value 0."""

    listed_in = "the names of the PNGs"

    def __str__(self) -> str:
        return f"{self._strokes()[0][1]}"

    @property
    def size(self) -> int:
        """Size of the PNGs in bytes."""
        return sum(file.size for _, file in self._strokes())

    @property
    def stamp(self) -> int:
        """Stamp that changes with any PNG."""
        return sum(file.stamp for _, file in self._strokes())

    def _strokes(self) -> list[tuple[str, Member]]:
        return pickle.loads(self.shapes)

    def decode(self, lossy: bool = False) -> DecodedMask:  # noqa: ARG002 - PNG is not lossy
        """Draw the mask. Raises :class:`UserError` for PNGs that are damaged or of different sizes."""
        parts = []
        for label, file in self._strokes():
            picture = load_image(file.read(), str(file), ("PNG",)).convert("L")
            parts.append((self.value(label, str(file)), np.asarray(picture) > 127, str(file)))
        canvas = np.zeros(parts[0][1].shape, np.uint8)
        for value, inside, where in sorted(parts, key=lambda part: -int(part[1].sum())):
            if inside.shape != canvas.shape:
                raise UserError(f"{where} and {self} are of one image, but of different sizes; export them again")
            canvas[inside] = value
        return DecodedMask(Image.fromarray(canvas))


class LabelStudioBrush:
    """The source: PNGs such as ``task-1-annotation-2-by-3-tag-road-0.png``, and a JSON of the tasks.

    Of several annotations of a task the latest counts.
    """

    name = "Label Studio (brush)"
    archives: tuple[str, ...] = ()

    def recognize(self, tree: Tree) -> bool:
        """Return whether there is such a PNG."""
        return next(_strokes(tree), None) is not None

    def find(self, tree: Tree) -> Files:
        """Return the images of the tasks that have strokes; raise :class:`UserError` if no JSON lists the tasks."""
        images = _images(tree)
        latest = dict[int, int]()
        for stroke in _strokes(tree):
            latest[stroke.task] = max(stroke.annotation, latest.get(stroke.task, 0))
        kept, strays = dict[int, list[tuple[str, Member]]](), list[tuple[str, str]]()
        for stroke in _strokes(tree):
            if stroke.annotation == latest[stroke.task]:
                kept.setdefault(stroke.task, []).append((stroke.label, tree[stroke.name]))
            else:
                strays.append((stroke.name, "its task has a later annotation"))
        listed = []
        for task, strokes in kept.items():
            file, image = images.get(task) or ("", "")
            if not file:
                raise UserError(
                    f"{strokes[0][1]} is of the task {task}, but nothing tells its image; export the project as JSON, "
                    "too, and put that file beside the PNGs"
                )
            listed.append(Listed(file, image, "", pickle.dumps(strokes)))
        strays += [(image, "its task has no strokes") for task, (_, image) in images.items() if task not in kept]
        return find_listed(tree, listed, BrushMask, number_classes(_labels(tree)))._replace(strays=strays)

    def classes(self, tree: Tree) -> LabelTable:
        """Return the background, value 0, and the labels in the names of the PNGs, alphabetically."""
        return class_table(tree, class_names(number_classes(_labels(tree))), str(tree.root))


def _strokes(tree: Tree) -> Iterator[Stroke]:
    for name in tree.images:
        if match := _NAME.fullmatch(PurePosixPath(name).name):
            yield Stroke(name, int(match[1]), int(match[2]), match[3].strip())


def _labels(tree: Tree) -> list[str]:
    return sorted({stroke.label for stroke in _strokes(tree)})


def _images(tree: Tree) -> dict[int, tuple[str, str]]:
    """Return for each task the JSON that lists it, and its image: the one that exists, if any."""
    names = [name for name in tree.ending(".json") if name.count("/") <= MAX_DEPTH]
    found = dict[int, tuple[str, str]]()
    for name in names:
        tasks = read_json(tree[name]) if _TASKS.match(tree[name].head(64)) else []
        for task in tasks:
            if isinstance(task, dict) and type(task.get("id")) is int:
                texts = [text for value in _texts(task) for text in (value, _without_prefix(value))]
                there = [text for text in texts if find_image(tree, name, text)]
                found[task["id"]] = (name, (there or texts or [""])[0])
    return found


def _texts(task: dict[str, Any]) -> list[str]:
    """Return the texts of a task that may name its image."""
    data = task.get("data")
    values = (*(data if isinstance(data, dict) else task).values(), task.get("file_upload"))
    return [value for value in values if isinstance(value, str) and value.strip()]


def _without_prefix(path: str) -> str:
    return _PREFIX.sub("", PurePosixPath(path.replace("\\", "/")).name, count=1)
