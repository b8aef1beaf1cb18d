"""Images and masks in separate folders, paired by patterns of their names."""

import re
from dataclasses import dataclass
from pathlib import Path

from fastseg.errors import UserError
from fastseg.labels import LabelTable
from fastseg.packing.classes_json import read_classes
from fastseg.packing.presets import preset_path
from fastseg.packing.sources.class_lists import listed_classes, yaml_classes
from fastseg.packing.sources.merged import merge
from fastseg.packing.sources.samples import Files
from fastseg.packing.sources.tree import Found, Tree


@dataclass(frozen=True)
class PairedFolders:
    """The source: an image and its mask have the same ``{split}`` and ``{stem}``."""

    name: str
    images: str
    """Pattern of the images' names; see :meth:`Tree.names`."""
    masks: str
    """Pattern of the masks' names."""
    archives: tuple[str, ...] = ()
    preset: str | None = None
    """Name of the set's class table in the presets; None if it has none."""
    stems: str = ".+"
    """Regular expression of all stems, for sets that the folder names alone do not identify."""

    def recognize(self, tree: Tree) -> bool:
        """Return whether there are images and masks with such stems."""
        images, masks = tree.stems(self.images), tree.stems(self.masks)
        return bool(images and masks) and all(re.fullmatch(self.stems, stem) for stem in (*images, *masks))

    def find(self, tree: Tree) -> Files:
        """Return images and masks."""
        return Files(tree.find(self.images), tree.find(self.masks))

    def classes(self, tree: Tree) -> LabelTable | None:
        """Return the preset, or the classes of a list or data.yaml beside the masks; None if there is none of them."""
        if self.preset:
            return read_classes(preset_path(self.preset))
        return listed_classes(tree, lambda: tree.find(self.masks)) or yaml_classes(tree, lambda: tree.find(self.masks))


def by_hand(images: str, masks: str, root: Path) -> PairedFolders:
    """Return the source of ``--images`` and ``--masks``; raise :class:`UserError` for patterns that pair nothing."""
    return _ByHand("by hand", _pattern(images, "images", root), _pattern(masks, "masks", root))


class _ByHand(PairedFolders):
    def find(self, tree: Tree) -> Files:
        """Return images and masks; folders of ``**/`` count if both have them, and splits of one hold for both.

        Several masks of one image are parts of one.
        """
        images, masks = tree.find(self.images), tree.find(self.masks)
        for flag, pattern, found in (("images", self.images, images), ("masks", self.masks, masks)):
            if not found:
                raise UserError(f"--{flag} is {pattern!r}, which no image file below {tree.root} fits")
        if self.images.count("**/") != self.masks.count("**/"):
            images, masks = _without_folders(images), _without_folders(masks)
        if ("{split}" in self.images) != ("{split}" in self.masks):
            split_of = {file.stem: file.split for file in (*images, *masks) if file.split}
            images, masks = (
                [file._replace(split=split_of.get(file.stem, file.split)) for file in files]
                for files in (images, masks)
            )
        return Files(images, merge(masks))


def _without_folders(files: list[Found]) -> list[Found]:
    return [file._replace(stem=file.stem.rpartition("/")[2]) for file in files]


def _pattern(text: str, flag: str, root: Path) -> str:
    """Convert a glob that a user wrote to a pattern for :meth:`Tree.names`."""
    text = text.removeprefix("./").removeprefix(f"{root}/").removeprefix(f"{root.absolute()}/")
    if text.startswith("/"):
        raise UserError(f"--{flag} is {text!r}, outside of {root}; give a pattern relative to it")
    if unknown := [field for field in re.findall(r"\{[^}]*\}", text) if field not in ("{stem}", "{split}")]:
        raise UserError(f"--{flag} has {unknown[0]}; it takes {{stem}}, {{split}}, *, ** and ?")
    folder, slash, file = re.sub(r"\*\*+(?!/)", "**/*", text).rpartition("/")
    if "{stem}" not in text:
        base, ending = (file[:-2], ".*") if file.endswith(".*") else (file, "")
        head, star, tail = base.rpartition("*")
        if not star:
            raise UserError(f"--{flag} is {text!r}; it needs {{stem}}, what an image and its mask share, or a *")
        file = f"{head}{{stem}}{tail}{ending}"
    return folder + slash + file
