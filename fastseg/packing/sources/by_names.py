"""Images and masks of any layout, distinguished by words in the names of folders and files.

Folder names are tried first (``train/images``, ``img_dir/val``, ``trainannot``), then file names (``a_mask.png`` beside
``a.jpg``), then file endings (``a.png`` beside ``a.jpg``). An image and its mask share the path that remains without
these words.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from fastseg.errors import UserError
from fastseg.labels import LabelTable
from fastseg.packing.sources.class_lists import listed_classes
from fastseg.packing.sources.samples import Files, suggest_pattern
from fastseg.packing.sources.tree import Found, Tree, is_image
from fastseg.packing.sources.words import Role, read_path, strip_affix

PHOTOS = (".jpg", ".jpeg", ".jfif")
"""Endings of files that are images if others of the same names lie beside them: masks are never JPEGs."""
NO_PICTURES = re.compile(
    r"\.(txt|jsonl?|xml|[ct]sv|md|rst|html?|ya?ml|toml|cfg|ini|names|data|lst|db|pdf|docx?|xlsx?|py|ipynb|m|sh|bat|log|zip"
    r"|tar|t?gz|bz2|xz|7z|rar|idx|md5|sha256|url|lnk|[tjp]gw|wld|prj|dbf|shp|shx|cpg|pkl|pickle|pth?|onnx|mp4|avi|mov"
    r"|cache|lock|bak|tmp)?"
)
"""Endings of files that lie beside pictures and are not pictures."""


class _File(NamedTuple):
    name: str
    split: str
    stem: str


class _Reading(NamedTuple):
    images: list[_File]
    masks: list[_File]
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
        reading = self._read(tree)
        return bool(reading.masks) or {read_path(file.name).role for file in reading.images} == {"image"}

    def find(self, tree: Tree) -> Files:
        """Return images and masks, and the files among them that cannot be read."""
        reading = self._read(tree)
        masks = _join(reading.images, reading.masks)
        images = [Found(file.split, file.stem, tree[file.name], file.name) for file in reading.images]
        found = [Found(file.split, file.stem, tree[file.name], file.name) for file in masks]
        return Files(images, found, _unread(tree, [*reading.images, *reading.masks]), reading.strays)

    def classes(self, tree: Tree) -> LabelTable | None:
        """Return the classes of a list beside the masks; None if there is none."""
        return listed_classes(tree, lambda: self.find(tree).masks)

    def _read(self, tree: Tree) -> _Reading:
        names = tree.images
        if self.mask_suffix is not None:
            return _by_suffix(names, self.mask_suffix)
        roles = {read_path(name).role for name in names}
        if "mask" in roles and len(roles) > 1:
            return _by_folder(names)
        if found := _by_affix(names) or _by_ending(names):
            return found
        return _Reading([], _files(names), []) if roles == {"mask"} else _Reading(_files(names), [], [])


def layout_of(name: str) -> str:
    """Return the name of the layout, by the name of one of its images."""
    if "img_dir" in PurePosixPath(name).parts:
        return "mmsegmentation (img_dir, ann_dir)"
    return ByNames.name


def _files(names: Iterable[str]) -> list[_File]:
    paths = ((name, read_path(name)) for name in names)
    return [_File(name, path.split or "", path.stem) for name, path in paths]


def _by_folder(names: Sequence[str]) -> _Reading:
    """Read a tree with folders of masks; images lie in folders of images, or in all others if there are none."""
    names_of = defaultdict(list)
    for name in names:
        names_of[read_path(name).role].append(name)
    if not names_of["image"]:
        return _Reading(_files(names_of[None]), _files(names_of["mask"]), [])
    strays = [(name, "lies in no folder of images or masks, as others do") for name in names_of[None]]
    return _Reading(_files(names_of["image"]), _files(names_of["mask"]), strays)


def _by_suffix(names: Sequence[str], suffix: str) -> _Reading:
    """Take files that end with ``suffix`` as masks, and files outside folders of masks as images."""
    masks, others = list[_File](), list[str]()
    for name, file in zip(names, _files(names), strict=True):
        if file.stem.endswith(suffix):
            masks.append(file._replace(stem=file.stem.removesuffix(suffix)))
        else:
            others.append(name)
    folders = {name.rpartition("/")[0] for name in others if read_path(name).role != "mask"}
    images = [name for name in others if name.rpartition("/")[0] in folders]
    strays = [(name, f"does not end with {suffix}") for name in others if name.rpartition("/")[0] not in folders]
    return _Reading(_files(images), masks, strays)


def _by_affix(names: Sequence[str]) -> _Reading | None:
    """Take files with a mask affix as masks if at least one of them has an image."""
    files = _files(names)
    marked = [file for file in files if strip_affix(file.stem, "mask")]
    plain = [file for file in files if not strip_affix(file.stem, "mask")]
    known = _stems(plain)
    if any(_partners(file, known) for file in marked):
        return _Reading(plain, marked, [])
    return None


def _by_ending(names: Sequence[str]) -> _Reading | None:
    """Take JPEGs as images and all other files as masks if at least one stem occurs in both."""
    photos = [name for name in names if name.lower().endswith(PHOTOS)]
    images, masks = _files(photos), _files(name for name in names if not name.lower().endswith(PHOTOS))
    stems = {(file.split, file.stem) for file in images}
    return _Reading(images, masks, []) if any((mask.split, mask.stem) in stems for mask in masks) else None


Stems = dict[tuple[object, ...], list[_File]]
"""Images by split, by whether an affix was removed, by whether case was folded, and by stem."""


def _forms(stem: str, role: Role) -> list[tuple[bool, str]]:
    """Return a stem as it is, and without the affix of its kind."""
    bare = strip_affix(stem, role)
    return [(False, stem)] if bare is None else [(False, stem), (True, bare)]


def _in_case(stem: str, any_case: bool) -> str:
    return unicodedata.normalize("NFC", stem).casefold() if any_case else stem


def _stems(images: Iterable[_File]) -> Stems:
    known: Stems = defaultdict(list)
    for file in images:
        for bare, stem in _forms(file.stem, "image"):
            for any_case in (False, True):
                known[file.split, bare, any_case, _in_case(stem, any_case)].append(file)
    return dict(known)


def _partners(mask: _File, known: Stems) -> list[_File]:
    """Return the images of a mask: of the same stem, or else of the same stem without affixes."""
    for any_case in (False, True):
        for _, stem in _forms(mask.stem, "mask"):
            for bare in (False, True):
                if found := known.get((mask.split, bare, any_case, _in_case(stem, any_case))):
                    return found
    return []


def _join(images: Sequence[_File], masks: Sequence[_File]) -> list[_File]:
    """Give each mask the stem of its image, by whole paths, or by file names if no whole path matches.

    Raises :class:`UserError` for a mask that matches two images.
    """
    known = _stems(images)
    pairs = [(mask, _partners(mask, known)) for mask in masks]
    if not any(partners for _, partners in pairs):
        bare = {file._replace(stem=file.stem.rpartition("/")[2]): file for file in images}
        known = _stems(bare)
        found = [_partners(mask._replace(stem=mask.stem.rpartition("/")[2]), known) for mask in masks]
        pairs = [(mask, [bare[file] for file in files]) for mask, files in zip(masks, found, strict=True)]
    for mask, partners in pairs:
        if len(partners) > 1:
            one, other = partners[:2]
            raise UserError(
                f"the mask {mask.name} could be of {one.name} and of {other.name}; say which images are meant, such as "
                f"--images '{suggest_pattern(one.name)}' --masks '{suggest_pattern(mask.name)}'"
            )
    return [mask._replace(stem=partners[0].stem) if partners else mask for mask, partners in pairs]


def _unread(tree: Tree, files: Sequence[_File]) -> list[tuple[str, str]]:
    """Return the unread files beside images or masks that look like more of them."""
    folders = {file.name.rpartition("/")[0] for file in files}
    names = (name for name in tree.files if not is_image(name) and name.rpartition("/")[0] in folders)
    endings = ((name, PurePosixPath(name).suffix.lower()) for name in names)
    return [
        (str(tree[name]), f"no image or mask can be read from {ending}, save it as PNG")
        for name, ending in endings
        if not NO_PICTURES.fullmatch(ending)
    ]
