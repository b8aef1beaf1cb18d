"""Cityscapes, as its two zips or extracted, and other sets in its layout."""

from dataclasses import replace

from fastseg.errors import UserError
from fastseg.labels import MAX_NAME, LabelTable, cityscapes, parse_name
from fastseg.packing.sources.samples import Files
from fastseg.packing.sources.tree import Tree

PACKAGES = ("leftImg8bit", "gtFine")
MASKS = "gtFine/{split}/*/{stem}_gtFine_labelIds.png"
NAME_FILE = "leftImg8bit/name.txt"
"""File beside the images that names another set in the layout of Cityscapes."""
DOWNLOAD = (
    "download it with: csDownload -d data leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip "
    "(a free account of cityscapes-dataset.com is needed; leave the zips as they are)"
)


class Cityscapes:
    """The source: images in ``leftImg8bit`` and masks in ``gtFine``, each a folder or its official zip."""

    name = "Cityscapes"
    archives = tuple(f"{package}_trainvaltest.zip" for package in PACKAGES)

    def recognize(self, tree: Tree) -> bool:
        """Return whether both packages exist, with masks of labelIds, or one of them and no other images."""
        present = [package for package in PACKAGES if tree.has(package)]
        if len(present) == 1:
            return all(name.startswith(f"{present[0]}/") for name in tree.images)
        return bool(present) and bool(tree.names(MASKS) or not tree.names("gtFine/**/*"))

    def find(self, tree: Tree) -> Files:
        """Return images and masks; raise :class:`UserError` if one of the two packages is missing."""
        if missing := [package for package in PACKAGES if not tree.has(package)]:
            here = f"neither the folder nor {missing[0]}_trainvaltest.zip"
            raise UserError(f"{tree.root} has no {missing[0]} ({here}); {DOWNLOAD}")
        images = tree.find("leftImg8bit/{split}/*/{stem}_leftImg8bit.png")
        masks = tree.find(MASKS)
        # The masks of Cityscapes' test split are placeholders: its labels are not published.
        return Files(images, [mask for mask in masks if mask.split != "test"])

    def classes(self, tree: Tree) -> LabelTable:
        """Return the classes of Cityscapes, under the set's own name if it has one."""
        path = tree.root / NAME_FILE
        if not path.is_file():
            return cityscapes()
        try:
            with path.open(encoding="utf-8") as file:
                return replace(cityscapes(), name=parse_name(file.readline(MAX_NAME + 2).strip(), str(path)))
        except (OSError, UnicodeDecodeError) as error:
            hint = "write the name of the set into it, or remove it"
            raise UserError(f"{path} cannot be read ({error}); {hint}") from None
