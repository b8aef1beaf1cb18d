"""Images and masks in folders of their own, paired by what their names have in common."""

from dataclasses import dataclass

from fastseg.packing.sources.tree import Found, Tree


@dataclass(frozen=True)
class PairedFolders:
    """The source: an image and its mask have the same ``{split}`` and ``{stem}``."""

    name: str
    images: str
    """Pattern of the images' names, as :meth:`Tree.names` takes it."""
    masks: str
    """The same of the masks."""
    archives: tuple[str, ...] = ()

    def recognize(self, tree: Tree) -> bool:
        """Return whether there is an image or a mask."""
        return bool(tree.names(self.images) or tree.names(self.masks))

    def find(self, tree: Tree) -> tuple[list[Found], list[Found]]:
        """Return images and masks."""
        return tree.find(self.images), tree.find(self.masks)

    def classes(self, tree: Tree) -> None:
        """Return nothing: a classes.json says what the masks mean."""
