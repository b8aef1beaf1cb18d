"""YOLO segmentation sets in Ultralytics' format: a data.yaml, images, and a text file of outlines for each image."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.errors import UserError, one_line, shown
from fastseg.labels import LabelTable
from fastseg.packing.masks import DecodedMask
from fastseg.packing.sources.annotations import (
    class_names,
    class_table,
    find_member,
    is_absolute,
    join,
    number_classes,
    path_tails,
    stem_of,
    upright_size,
)
from fastseg.packing.sources.samples import Files, Labeled
from fastseg.packing.sources.tree import Found, Member, Tree
from fastseg.packing.sources.words import SPLIT_WORDS, any_mask

MAX_YAML = 1 << 20
"""Maximum size of a data.yaml in bytes; a thousand class names take 20 kB."""
CLASSES = ("classes.txt", "labels/classes.txt")
"""Lists of the class names in place of a YAML."""
_LINE = re.compile(rb"(?m)^\s*\d+(?:\s+[\d.eE+-]+){6}")
"""Beginning of a line with an outline."""
SNIFFED = 50
"""Number of text files that are read to recognize a set without a YAML or with masks."""
MAX_OFF = 0.01
"""Largest distance of a coordinate from 0…1 that is accepted, as in Ultralytics."""


@dataclass(frozen=True)
class YoloMask:
    """The outlines of one text file, smaller ones over larger ones; all other pixels are background, value 0."""

    file: Member | None
    """The text file; None for background only."""
    image: Member
    values: tuple[int, ...]
    """Value of each class of the set."""

    def __str__(self) -> str:
        return str(self.file or f"{self.image} (without a text file)")

    @property
    def filename(self) -> str:
        """Name of the text file; empty without one."""
        return self.file.filename if self.file else ""

    @property
    def size(self) -> int:
        """Size of the text file in bytes."""
        return self.file.size if self.file else 0

    @property
    def stamp(self) -> int:
        """Stamp of the text file."""
        return self.file.stamp if self.file else 0

    def decode(self, lossy: bool = False) -> DecodedMask:  # noqa: ARG002 - nothing drawn is lossy
        """Draw the mask. Raises :class:`UserError` with file and line for invalid outlines."""
        height, width = upright_size(self.image)
        drawn = [(value, points * np.array((width, height), np.float32)) for value, points in self._outlines()]
        return DecodedMask(fill_outlines(drawn, height, width))

    def _outlines(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Return value and points of each object, relative to width and height."""
        lines = self.file.read().decode("utf-8-sig", "replace").splitlines() if self.file else []
        rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
        if boxes := [number for number, row in rows if len(row) == 5]:
            raise UserError(
                f"{self} has {len(boxes)} boxes, such as in line {boxes[0]}; a box is no mask: export the set as YOLO "
                "segmentation, with outlines"
            )
        return [self._parse(row, f"{self}, line {number}") for number, row in rows]

    def _parse(self, row: list[str], where: str) -> tuple[int, NDArray[np.float32]]:
        try:
            number, points = float(row[0]), np.array(row[1:], np.float32)
        except ValueError:
            raise UserError(f"{where} has {shown(' '.join(row))}, which are no numbers; export the set again") from None
        if number not in range(len(self.values)):
            raise UserError(
                f"{where} has the class {shown(row[0])}, but data.yaml names {len(self.values)}; add it there, or "
                "remove the line"
            )
        if points.size < 6 or points.size % 2:
            raise UserError(
                f"{where} has {points.size} coordinates; an outline has at least 3 pairs: draw it again, or remove the "
                "line"
            )
        inside = (points >= -MAX_OFF) & (points <= 1 + MAX_OFF)  # False for NaN
        if not inside.all():
            raise UserError(
                f"{where} has coordinates that are not from 0 to 1, such as {row[1 + int(np.argmin(inside))][:20]}; "
                "they are shares of width and height: export the set again"
            )
        return self.values[int(number)], points.reshape(-1, 2)


def fill_outlines(drawn: Sequence[tuple[int, NDArray[np.float32]]], height: int, width: int) -> Image.Image:
    """Fill outlines, given in pixels, with values as Ultralytics does, smaller ones on top.

    Points are truncated to whole pixels; OpenCV fills the polygons.
    """
    import cv2  # lazily, as other layouts need it not

    parts = []
    for value, points in drawn:
        part = np.zeros((height, width), np.uint8)
        parts.append((int(cv2.countNonZero(cv2.fillPoly(part, [points.astype(np.int32)], 1))), value, points))
    canvas = np.zeros((height, width), np.uint8)
    for _, value, points in sorted(parts, key=lambda part: -part[0]):
        cv2.fillPoly(canvas, [points.astype(np.int32)], value)
    return Image.fromarray(canvas)


class YoloSegmentation:
    """The source: a data.yaml (or any .yaml with names and splits), images, and labels/…/STEM.txt.

    Label Studio writes a classes.txt instead of the YAML: a name per line. An image without a text file is background
    only.
    """

    name = "YOLO segmentation"
    archives: tuple[str, ...] = ()

    def recognize(self, tree: Tree) -> bool:
        """Return whether there is such a YAML, or a text file of outlines; if there are masks, both are needed."""
        if any_mask(tree.images):
            return self._config(tree) is not None and _has_outlines(tree)
        return self._config(tree) is not None or _has_outlines(tree)

    def find(self, tree: Tree) -> Files:
        """Return images and masks; a split of the YAML that is not there is listed as a stray.

        Raises :class:`UserError` if none is there, or if all images of a split other than test lack text files.
        """
        file, config = self._require_config(tree)
        names = _names(config, file)
        numbers = number_classes(names)
        values = tuple(numbers[name] for name in names)
        images, masks, absent = list[Found](), list[Labeled](), list[tuple[str, str]]()
        for word, split in SPLIT_WORDS.items():
            entries = _as_list(config[word] if config.get(word) else [])
            listed = [(entry, _list_images(tree, config, entry)) for entry in entries]
            absent += [
                (f"{shown(entry)} ({split})", f"{file} names it, but it is not there")
                for entry, names in listed
                if not names
            ]
            found = [Found(split, stem, tree[name], name) for _, names in listed for stem, name in names]
            images += found
            masks += _masks_of(tree, found, values, split, file)
        if not images:
            entry = next((config[word] for word in SPLIT_WORDS if config.get(word)), None)
            raise UserError(
                f"{file} names the images {shown(entry)}, which are not inside {tree.root}; write a path relative to "
                "data.yaml"
            )
        return Files(images, masks, strays=[*absent, *_without_image(tree, images)])

    def classes(self, tree: Tree) -> LabelTable:
        """Return the background, value 0, and the names of the YAML; class n has the value n + 1."""
        file, config = self._require_config(tree)
        return class_table(tree, class_names(number_classes(_names(config, file))), str(file))

    def _require_config(self, tree: Tree) -> tuple[Member, dict[str, Any]]:
        if (found := self._config(tree)) is None:
            raise UserError(
                f"{tree.root} has text files of YOLO, but no data.yaml that names classes and splits; write one: "
                "train: images/train, val: images/val, names: [road, car]"
            )
        return found

    def _config(self, tree: Tree) -> tuple[Member, dict[str, Any]] | None:
        names = [name for name in tree.ending(".yaml", ".yml") if "/" not in name]
        for file in map(tree.__getitem__, sorted(names, key=lambda name: PurePosixPath(name).stem != "data")):
            config = _load_yaml(file)
            if isinstance(config, dict) and {"names", "nc"} & config.keys() and {"train", "val"} & config.keys():
                return file, config
        listed = next((found for name in CLASSES if (found := find_member(tree, name))), None)
        return (listed, _without_yaml(tree, listed)) if listed and _has_outlines(tree) else None


def _masks_of(tree: Tree, images: Sequence[Found], values: tuple[int, ...], split: str, file: Member) -> list[Labeled]:
    labels = [find_member(tree, label_name(image.name)) for image in images]
    if any(labels):
        return [
            Labeled(split, image.stem, YoloMask(label, image.member, values), image.name)
            for image, label in zip(images, labels, strict=True)
        ]
    if images and split != "test":
        raise UserError(
            f"the images of {split} in {file} have no text files, such as {tree.root / label_name(images[0].name)}; "
            "put the folder labels beside images"
        )
    return []


def _without_image(tree: Tree, images: Sequence[Found]) -> list[tuple[str, str]]:
    """Return the text files of outlines that lie beside those of ``images``, but belong to none."""
    known = {label_name(image.name) for image in images}
    folders = {name.rpartition("/")[0] for name in known}
    others = (name for name in tree.ending(".txt") if name not in known and name.rpartition("/")[0] in folders)
    return [(name, "the text file has no image") for name in others if _LINE.search(tree[name].head(4096))]


def _has_outlines(tree: Tree) -> bool:
    """Return whether one of the first text files beside images has an outline, and not only boxes."""
    if not tree.ending(".txt"):
        return False
    labels = (find_member(tree, label_name(name)) for name in tree.images if "images/" in name)
    return any(_LINE.search(label.head(4096)) for label in islice(filter(None, labels), SNIFFED))


def _without_yaml(tree: Tree, classes: Member) -> dict[str, Any]:
    """Return what a YAML would say: the names of a list, and the folders of splits, or else all images as train."""
    names = [line.strip() for line in classes.read().decode("utf-8-sig", "replace").splitlines() if line.strip()]
    folders = {folder for name in tree.images for folder in map(str, PurePosixPath(name).parents)}
    forms = ("images/{}", "{}/images")
    splits = {w: place for w in SPLIT_WORDS for form in forms if (place := form.format(w)) in folders}
    return {"names": names, **(splits or {"train": "images"})}


@lru_cache(maxsize=8)
def _load_yaml(file: Member) -> Any:
    """Return the content of a YAML with every scalar as text ("no" can be a class).

    Raises :class:`UserError` for a damaged data.yaml; other damaged files return None.
    """
    import yaml

    try:
        return yaml.load(file.read(), yaml.BaseLoader) if file.size <= MAX_YAML else None
    except Exception as error:  # PyYAML also raises TypeError, ValueError, RecursionError …
        if PurePosixPath(file.filename).stem != "data":
            return None
        raise UserError(f"{file} is not a readable YAML file ({one_line(str(error))}); mend it") from None


def _names(config: dict[str, Any], file: Member) -> list[str]:
    names = config.get("names")
    if isinstance(names, dict) and all(isinstance(key, str) and key.strip().isdecimal() for key in names):
        numbered = {int(key): name for key, name in names.items()}
        names = [numbered.get(number) for number in range(len(numbered))]
    if names is None and (count := str(config.get("nc")).strip()).isdecimal() and len(count) < 4:
        names = [f"class {number}" for number in range(int(count))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(
            f"{file} has the names {shown(config.get('names'))}; write a list of them, or numbers from 0 with a name "
            "each"
        )
    return [name.strip() for name in names]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _list_images(tree: Tree, config: dict[str, Any], entry: Any) -> list[tuple[str, str]]:
    """Return stem and name of each image in a folder, or in a text file of names; nothing if there is neither."""
    for place in _places(config.get("path"), entry):
        if place.endswith(".txt") and (listed := find_member(tree, place)):
            return [(stem_of(PurePosixPath(name).name), name) for name in _read_list(tree, listed, place, config)]
        below = "" if place == "." else f"{place}/"
        if images := [name for name in tree.images if name.startswith(below)]:
            return [(stem_of(name.removeprefix(below)), name) for name in images]
    return []


def _places(path: Any, entry: Any) -> list[str]:
    """Return the candidates for a path of the YAML in the tree; of an absolute path, its last parts."""
    if not isinstance(entry, str) or "\0" in entry:
        return []
    slashes = entry.strip().replace("\\", "/")
    if is_absolute(slashes):
        parts = [part for part in slashes.split("/") if part][1:]
        return ["/".join(parts[start:]) for start in range(len(parts)) if ".." not in parts]
    base = path.strip() if isinstance(path, str) and not is_absolute(path.strip()) else ""
    inside = normpath(slashes)
    while inside.startswith("../"):  # Roboflow writes ../train/images for train/images
        inside = inside[3:]
    return list(dict.fromkeys(place for place in (join(base, slashes), join("", slashes), join("", inside)) if place))


def _read_list(tree: Tree, listed: Member, place: str, config: dict[str, Any]) -> list[str]:
    """Return the images that a text file lists, relative to itself (./) or to the data set."""
    names, missing = list[str](), list[str]()
    folder = str(PurePosixPath(place).parent).removeprefix(".")
    for line in listed.read().decode("utf-8-sig", "replace").splitlines():
        if line.strip():
            candidates = [*_places(config.get("path"), line), *_places(folder, line), *path_tails(line.strip())]
            found = next((name for name in candidates if find_member(tree, name)), None)
            (names if found else missing).append(found or line.strip())
    if missing:
        raise UserError(
            f"{listed} names {len(missing)} images that are not inside {tree.root}, such as {shown(missing[0])}; write "
            "paths relative to data.yaml, or remove them"
        )
    return [*dict.fromkeys(names)]


def label_name(image: str) -> str:
    """Return the text file of an image: the last folder ``images`` of its path is replaced by ``labels``."""
    head, images, tail = f"/{image}".rpartition("/images/")
    return (
        f"{head}/labels/{tail}".strip("/").rpartition(".")[0] + ".txt" if images else f"{image.rpartition('.')[0]}.txt"
    )
