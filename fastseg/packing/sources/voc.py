"""PASCAL VOC's segmentation sets, and other sets that annotation tools write in its layout."""

import re
from pathlib import PurePosixPath

from fastseg.errors import UserError
from fastseg.labels import LabelTable
from fastseg.packing.classes_json import read_classes
from fastseg.packing.presets import preset_path
from fastseg.packing.sources.samples import Files
from fastseg.packing.sources.splits import parse_list
from fastseg.packing.sources.tree import Found, Tree
from fastseg.shards.tar import SPLITS

MASKS = ("SegmentationClass", "SegmentationClassPNG", "SegmentationClassAug")
LISTS = "ImageSets/Segmentation"
YEARS = re.compile(r"20\d\d_\d{6}")
"""Names of VOC's own images."""


class Voc:
    """The source: images in ``JPEGImages``; lists in ``ImageSets/Segmentation`` name those with a mask."""

    name = "PASCAL VOC"
    archives = ("VOCtrainval*.tar", "VOCtest*.tar", "VOC*.zip")

    def recognize(self, tree: Tree) -> bool:
        """Return whether both folders exist; raise :class:`UserError` if there are several such sets."""
        roots = {name.partition("JPEGImages/")[0] for name in tree.images if "JPEGImages/" in name}
        sets = [root for root in sorted(roots) if any(tree.has(f"{root}{folder}") for folder in MASKS)]
        if len(sets) > 1:
            raise UserError(f"{tree.root} holds several sets, {' and '.join(sets)}; name the folder of one of them")
        return sets == [""]

    def find(self, tree: Tree) -> Files:
        """Return the listed images and masks of train, val and test; all images with a mask if there are no lists.

        If train.txt is missing, trainval.txt is used for train. Images of a test list may lack masks.
        """
        images = {file.stem: file for file in tree.find("JPEGImages/{stem}.*")}
        masks = {file.stem: file for file in _masks(tree)}
        listed = _read_lists(tree)
        if not listed:
            bare = [(file.name, "has no mask") for stem, file in images.items() if stem not in masks]
            return Files([file for stem, file in images.items() if stem in masks], list(masks.values()), strays=bare)
        named = {stem for stems in listed.values() for stem in stems}
        others = [(file.name, f"no list in {LISTS} names it") for stem, file in images.items() if stem not in named]
        missing = [
            (f"JPEGImages/{stem}", f"a list in {LISTS} names it, but it is not there") for stem in named - {*images}
        ]
        return Files(_of_splits(listed, images), _of_splits(listed, masks), sorted(missing), others)

    def classes(self, tree: Tree) -> LabelTable | None:
        """Return VOC's 21 classes for its own images; None for other sets in its layout."""
        own = all(YEARS.fullmatch(file.stem) for file in _masks(tree))
        return read_classes(preset_path("voc")) if own else None


def _masks(tree: Tree) -> list[Found]:
    """Return the masks of the first folder that holds any."""
    return next((masks for folder in MASKS if (masks := tree.find(f"{folder}/{{stem}}.*"))), [])


def _read_lists(tree: Tree) -> dict[str, list[str]]:
    """Return the stems of each split."""
    names = {PurePosixPath(name).stem: name for name in tree.files if re.fullmatch(rf"{LISTS}/\w+\.txt", name)}
    if "train" not in names and "trainval" in names and "val" not in names:
        names["train"] = names["trainval"]
    return {
        split: [line.split()[0] for line in parse_list(tree[names[split]].read())] for split in SPLITS if split in names
    }


def _of_splits(listed: dict[str, list[str]], files: dict[str, Found]) -> list[Found]:
    return [files[stem]._replace(split=split) for split, stems in listed.items() for stem in stems if stem in files]
