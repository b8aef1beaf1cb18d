"""CamVid in all layouts in which it is distributed, recognized by the names of its images."""

import re

from fastseg.errors import UserError
from fastseg.labels import LabelTable
from fastseg.packing.classes_json import read_classes
from fastseg.packing.presets import preset_path
from fastseg.packing.sources.by_names import ByNames
from fastseg.packing.sources.class_lists import listed_classes
from fastseg.packing.sources.samples import Files
from fastseg.packing.sources.splits import parse_list
from fastseg.packing.sources.tree import Tree
from fastseg.packing.sources.words import without_ending

FRAMES = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?\d+(_L|_P)?", re.IGNORECASE)
"""Names of the frames, by video, and of their masks."""
MIN_FRAMES = 0.9
"""Share of the images that must have such names; a repository may hold pictures of its own."""
LIST = "valid.txt"
"""List of the images of the val split in fast.ai's copy."""
SAMPLED_MASKS = 5
"""Number of masks whose values distinguish 11 classes from 32; each frame shows many."""


class CamVid:
    """The source: SegNet's {train,trainannot,…}, 701_StillsRaw_full and LabeledApproved_full, fast.ai's and others."""

    name = "CamVid"
    archives = ("*CamVid*.zip", "*camvid*.zip", "701_StillsRaw_full.zip", "LabeledApproved_full.zip", "*camvid*.tar")

    def recognize(self, tree: Tree) -> bool:
        """Return whether the images are frames of CamVid, up to a few beside them."""
        stems = [without_ending(name.rpartition("/")[2]) for name in tree.images]
        frames = [stem for stem in stems if FRAMES.fullmatch(stem)]
        return len(frames) > MIN_FRAMES * len(stems) and ByNames().recognize(tree)

    def find(self, tree: Tree) -> Files:
        """Return images and masks; fast.ai's list gives the val split if the folders give none."""
        files = ByNames().find(tree)
        if not tree.has(LIST):
            return files
        val = {without_ending(line) for line in parse_list(tree[LIST].read())}
        split_of = {file.stem: file.split or ("val" if file.stem in val else "train") for file in files.images}
        return files._replace(
            images=[file._replace(split=split_of[file.stem]) for file in files.images],
            masks=[file._replace(split=split_of.get(file.stem, file.split)) for file in files.masks],
        )

    def classes(self, tree: Tree) -> LabelTable | None:
        """Return the table of 11 or 32 classes, depending on the values of the first masks.

        Masks of colors can be read by either: returns the classes of a list beside them, as in Kaggle's copy, or raises
        :class:`UserError`.
        """
        masks = ByNames().find(tree).masks
        decoded = [mask.member.decode() for mask in masks[:SAMPLED_MASKS]]
        if any(mask.image.mode == "RGB" for mask in decoded):
            if listed := listed_classes(tree, lambda: masks):
                return listed
            raise UserError(
                f"{tree.root} is CamVid with masks of colors, which can be read as its 11 usual classes or as all 32; "
                "say which: --classes camvid or --classes camvid32"
            )
        most = max((mask.image.getextrema()[1] for mask in decoded), default=0)
        return read_classes(preset_path("camvid" if most <= 11 else "camvid32"))  # type: ignore[operator]
