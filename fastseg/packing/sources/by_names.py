"""Images and masks of any layout, distinguished by words in the names of folders and files.

Folder names are tried first (``train/images``, ``img_dir/val``, ``trainannot``), then file names (``a_mask.png`` beside
``a.jpg``), then file endings (``a.png`` beside ``a.jpg``). An image and its mask share the path that remains without
these words.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import NamedTuple

from fastseg.labels import LabelTable
from fastseg.packing.sources.class_lists import listed_classes, yaml_classes
from fastseg.packing.sources.matching import Match, NamedFile, choose, is_known_word, match, match_equal, two_masks
from fastseg.packing.sources.merged import merge
from fastseg.packing.sources.samples import Files
from fastseg.packing.sources.tree import Found, Tree, is_image
from fastseg.packing.sources.words import (
    COPIES,
    FORMATS,
    file_words,
    folder_words,
    has_word,
    read_folder,
    read_path,
    without_ending,
)

PHOTOS = (".jpg", ".jpeg", ".jfif")
"""Endings of files that are images if others of the same names lie beside them: masks are never JPEGs."""
MIN_SHARE = 0.5
"""Share of masks with an image above which a way to tell masks from images is taken at once."""
MANY_INSIDE = 10
"""Number of pairs in folders for each pair beside them from which on the latter are left out."""
NO_PICTURES = re.compile(
    r"\.(txt|jsonl?|xml|[ct]sv|md|rst|html?|ya?ml|toml|cfg|ini|names|data|lst|db|pdf|docx?|xlsx?|py|ipynb|m|sh|bat|log|zip"
    r"|tar|t?gz|bz2|xz|7z|rar|idx|md5|sha256|url|lnk|[a-z]{1,3}w|wld|prj|dbf|shp|shx|cpg|pkl|pickle|pth?|onnx|mp4|avi|mov"
    r"|cache|lock|bak|tmp)?"
)
"""Endings of files that lie beside pictures and are not pictures."""


Rule = Callable[[Sequence[NamedFile], Sequence[NamedFile]], list[Match]]
"""Function that matches images and masks."""


class _Reading(NamedTuple):
    """One way to tell images from masks, and what it leaves out."""

    images: list[NamedFile]
    masks: list[NamedFile]
    strays: list[tuple[str, str]]


@dataclass(frozen=True)
class ByNames:
    """The source for sets that no other source recognizes."""

    mask_suffix: str | None = None
    """Common suffix of the names of all masks, before the ending; None if unknown."""
    archives: tuple[str, ...] = ("*.zip", "*.tar")

    name = "images and masks by their names"

    def recognize(self, tree: Tree) -> bool:
        """Return whether the names distinguish images from masks, or show that all files are of one kind."""
        reading, _ = self._read(tree)
        return bool(reading.masks) or {read_path(file.name).role for file in reading.images} == {"image"}

    def find(self, tree: Tree) -> Files:
        """Return images and masks, and the files among them that cannot be read."""
        reading, candidates = self._read(tree)
        matches, others = choose(_without_root(candidates))
        _refuse_twins(matches)
        image_of = {one.mask.name: one.image for one in matches}
        split_of = {one.image.name: one.image.split or one.mask.split for one in matches}
        split_of = _splits_in_names(split_of) or split_of
        left_out = dict([*reading.strays, *others])
        left_out |= dict(_strays(reading, {*image_of, *split_of}, {*left_out}))
        images = [file._replace(split=split_of.get(file.name, file.split)) for file in reading.images]
        masks = [
            file._replace(split=split_of[image.name], stem=image.stem) if (image := image_of.get(file.name)) else file
            for file in reading.masks
        ]
        found = (
            [Found(f.split, f.stem, tree[f.name], f.name) for f in files if f.name not in left_out]
            for files in (images, masks)
        )
        return Files(next(found), merge(next(found)), _unread(tree, reading), [*left_out.items()])

    def count_masks(self, tree: Tree) -> int:
        """Return the number of files that are masks of an image."""
        return _count_matched(self._read(tree)[1])

    def classes(self, tree: Tree) -> LabelTable | None:
        """Return the classes of a list or data.yaml beside the masks; None if there is none."""
        return listed_classes(tree, lambda: self.find(tree).masks) or yaml_classes(tree, lambda: self.find(tree).masks)

    def _read(self, tree: Tree) -> tuple[_Reading, tuple[Match, ...]]:
        return _read(tuple(tree.images), self.mask_suffix)


@lru_cache(maxsize=2)  # recognizing, guessing and packing read the same names
def _read(names: Sequence[str], mask_suffix: str | None) -> tuple[_Reading, tuple[Match, ...]]:
    """Return the reading that finds an image for the most masks, and what may belong together by it."""
    names, copies = _one_format(names)
    found = []
    for reading, rule in _readings(names, mask_suffix):
        found.append((reading, rule(reading.images, reading.masks)))
        if _count_matched(found[-1][1]) > MIN_SHARE * len(reading.masks):
            break
    reading, matches = max(found, key=lambda one: _count_matched(one[1]))
    if not (matches or mask_suffix):
        roles = {read_path(name).role for name in names}
        reading = _by_folder(names) if {"mask"} < roles else _of_one_kind(names, roles == {"mask"})
    return reading._replace(strays=[*reading.strays, *copies]), tuple(matches)


def _readings(names: Sequence[str], mask_suffix: str | None) -> Iterator[tuple[_Reading, Rule]]:
    """Yield the ways to tell masks from images, each with the rule that pairs them."""
    if mask_suffix is not None:
        yield _by_suffix(names, mask_suffix), match
        return
    yield _by_folder(names), match
    yield _by_affix(names), match
    yield _by_ending(names), match_equal


def layout_of(name: str) -> str:
    """Return the name of the layout, by the name of one of its images."""
    if "img_dir" in PurePosixPath(name).parts:
        return "mmsegmentation (img_dir, ann_dir)"
    return ByNames.name


def _files(names: Iterable[str]) -> list[NamedFile]:
    paths = ((name, read_path(name)) for name in names)
    return [NamedFile(name, path.split or "", path.stem) for name, path in paths]


def _one_format(names: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return one name of each file that lies in several formats in folders that name these, and the other names."""
    best: dict[str, str] = {}
    for name in names:
        folders = folder_words(name)
        key = re.sub(rf"(?i)(?<![a-z])({'|'.join(FORMATS)})(?![a-z])", "", name) if folders & FORMATS else name
        if _format_rank(name) < _format_rank(best.setdefault(key, name)):
            best[key] = name
    kept = {*best.values()}
    return [name for name in names if name in kept], [
        (name, "the same samples lie there in another format") for name in names if name not in kept
    ]


def _format_rank(name: str) -> int:
    """Return a smaller number for formats that lose nothing."""
    return 0 if name.lower().endswith(".png") else 2 if name.lower().endswith(PHOTOS) else 1


def _by_folder(names: Sequence[str]) -> _Reading:
    """Read a tree with folders of masks; images lie in folders of images, or in all others if there are none."""
    names_of = defaultdict(list)
    for name in names:
        names_of[read_path(name).role].append(name)
    if not names_of["image"]:
        return _Reading(_files(names_of[None]), _files(names_of["mask"]), [])
    strays = [(name, "lies in no folder of images or masks, as others do") for name in names_of[None]]
    return _Reading(_files(names_of["image"]), _files(names_of["mask"]), strays)


def _of_one_kind(names: Sequence[str], masks: bool) -> _Reading:
    return _Reading([], _files(names), []) if masks else _Reading(_files(names), [], [])


def _by_suffix(names: Sequence[str], suffix: str) -> _Reading:
    """Take files that end with ``suffix`` as masks, and files outside folders of masks as images."""
    masks, others = list[NamedFile](), list[str]()
    for name, file in zip(names, _files(names), strict=True):
        if file.stem.endswith(suffix):
            masks.append(file._replace(stem=file.stem.removesuffix(suffix)))
        else:
            others.append(name)
    folders = {name.rpartition("/")[0] for name in others if read_path(name).role != "mask"}
    images = [name for name in others if name.rpartition("/")[0] in folders]
    strays = [(name, f"does not end with {suffix}") for name in others if name.rpartition("/")[0] not in folders]
    return _Reading(_files(images), masks, strays)


def _by_affix(names: Sequence[str]) -> _Reading:
    """Take files whose names have a word for masks as masks."""
    plain, marked = list[NamedFile](), list[NamedFile]()
    for file in _files(names):
        (marked if has_word(file.stem, "mask") else plain).append(file)
    return _Reading(plain, marked, [])


def _by_ending(names: Sequence[str]) -> _Reading:
    """Take JPEGs as images and all other files as masks."""
    photos = [name for name in names if name.lower().endswith(PHOTOS)]
    return _Reading(_files(photos), _files(name for name in names if not name.lower().endswith(PHOTOS)), [])


def _splits_in_names(split_of: dict[str, str]) -> dict[str, str]:
    """Return the splits that the names of files tell (``testA_1.bmp``), if no folder does and all files tell one."""
    found = {name: read_folder(without_ending(name.rpartition("/")[2])).split or "" for name in split_of}
    return found if set(split_of.values()) == {""} and "" not in found.values() and len({*found.values()}) > 1 else {}


def _count_matched(matches: Sequence[Match]) -> int:
    return len({one.mask for one in matches})


def _without_root(matches: Sequence[Match]) -> list[Match]:
    """Leave out the pairs that lie beside the folders with nearly all others, such as the pictures of a README."""
    inside = [one for one in matches if "/" in one.image.name]
    return inside if len(inside) > MANY_INSIDE * (len(matches) - len(inside)) else [*matches]


def _refuse_twins(matches: Iterable[Match]) -> None:
    """Raise :class:`UserError` for two masks that differ only in their endings."""
    first: dict[str, Match] = {}
    for one in matches:
        if (known := first.setdefault(without_ending(one.mask.name), one)).mask != one.mask:
            raise two_masks(known, one)


def _strays(reading: _Reading, matched: set[str], left_out: set[str]) -> list[tuple[str, str]]:
    """Return the files of a kind of which none is in a pair, if others are; images of a test split need no mask."""
    explained = matched | left_out
    alone = [mask.name for mask in reading.masks if mask.name not in explained]
    if len(reading.masks) - len(alone) < len(alone) or not matched:
        return []  # most masks have no image: rather an unknown layout
    kinds = {_kind(name) for name in matched}
    paired = [file for file in reading.images if file.name in matched]
    labeled, copies = {file.split for file in paired}, {word for file in paired for word in _copy_words(file.name)}

    def may_lack_mask(image: NamedFile) -> bool:
        split_lacks = image.split == "test" and "test" not in labeled and labeled != {""}
        return split_lacks and _copy_words(image.name) <= copies

    needed = [image for image in reading.images if not may_lack_mask(image)]
    return [
        (file.name, reason)
        for files, reason in ((needed, "no such image has a mask"), (reading.masks, "no such mask has an image"))
        for file in files
        if _kind(file.name) not in kinds and file.name not in left_out
    ]


def _copy_words(name: str) -> frozenset[str]:
    return (folder_words(name) | file_words(name)) & COPIES


def _kind(name: str) -> tuple[str, frozenset[str]]:
    """Return the folder and the words in the name of a file that tell what it shows."""
    return name.rpartition("/")[0], frozenset(word for word in file_words(name) if is_known_word(word))


def _unread(tree: Tree, reading: _Reading) -> list[tuple[str, str]]:
    """Return the unread files beside images or masks that look like more of them, and not like notes on one."""
    read = {without_ending(file.name) for file in (*reading.images, *reading.masks)}
    folders = {name.rpartition("/")[0] for name in read}
    others = (name for name in tree.files if not is_image(name) and name.rpartition("/")[0] in folders)
    names = (name for name in others if without_ending(name) not in read)
    endings = ((name, PurePosixPath(name).suffix.lower()) for name in names)
    return [
        (str(tree[name]), f"no image or mask can be read from {ending}, save it as PNG")
        for name, ending in endings
        if not NO_PICTURES.fullmatch(ending)
    ]
