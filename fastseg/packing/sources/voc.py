"""PASCAL VOC's segmentation sets, and other sets that annotation tools write in its layout."""

import re
from collections.abc import Container
from pathlib import PurePosixPath

from fastseg.errors import UserError
from fastseg.labels import LabelTable
from fastseg.packing.classes_json import read_classes
from fastseg.packing.presets import preset_path
from fastseg.packing.sources.class_lists import listed_classes
from fastseg.packing.sources.samples import Files, by_stem
from fastseg.packing.sources.splits import parse_list
from fastseg.packing.sources.tree import Found, Tree
from fastseg.packing.sources.words import SPLIT_WORDS
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
        images = {file.stem: file for file in by_stem(tree.find("JPEGImages/**/{stem}.*"), "images").values()}
        masks = {file.stem: file for file in by_stem(_masks(tree), "masks").values()}
        listed = _read_lists(tree, images)
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
        """Return the classes of a list that a tool has written, or VOC's 21 for its own images; else None."""
        masks = _masks(tree)
        if listed := listed_classes(tree, lambda: masks):
            return listed
        return read_classes(preset_path("voc")) if all(YEARS.fullmatch(file.stem) for file in masks) else None


def _masks(tree: Tree) -> list[Found]:
    """Return the masks of the first folder that holds any."""
    return next((masks for folder in MASKS if (masks := tree.find(f"{folder}/**/{{stem}}.*"))), [])


def _read_lists(tree: Tree, images: Container[str]) -> dict[str, list[str]]:
    """Return the stems of each split; CVAT calls its lists Train.txt, Validation.txt, Test.txt and default.txt."""
    files = [name for name in tree.files if re.fullmatch(rf"{LISTS}/\w+\.txt", name)]
    names = {PurePosixPath(name).stem.lower(): name for name in files}
    both = names.pop("trainval", None)
    found = {SPLIT_WORDS[word]: name for word, name in names.items() if word in SPLIT_WORDS}
    if both and not {"train", "val"} & found.keys():
        found["train"] = both
    elif found and "train" not in found and "default" in names:  # tasks that were given no subset
        found["train"] = names["default"]
    lines = {split: parse_list(tree[found[split]].read()) for split in SPLITS if split in found}
    return {split: [*dict.fromkeys(_listed_stem(line, images) for line in stems)] for split, stems in lines.items()}


def _listed_stem(line: str, images: Container[str]) -> str:
    """Return the first column of a line, or the whole line if that is the stem of an image with spaces."""
    whole = line.strip('"')  # as Datumaro and CVAT write names with spaces
    return whole if whole in images else line.split()[0]


def _of_splits(listed: dict[str, list[str]], files: dict[str, Found]) -> list[Found]:
    return [files[stem]._replace(split=split) for split, stems in listed.items() for stem in stems if stem in files]
