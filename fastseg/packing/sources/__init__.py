"""Sources: the layouts of data sets that are recognized, and the samples and classes of whatever lies in a folder."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fastseg.errors import UserError
from fastseg.labels import LabelTable
from fastseg.packing.classes_json import parse_classes, read_classes
from fastseg.packing.sources.cityscapes import DOWNLOAD, Cityscapes
from fastseg.packing.sources.paired_folders import PairedFolders
from fastseg.packing.sources.samples import Labeled, Mask, Sample, pair
from fastseg.packing.sources.tree import Found, Tree, is_archive
from fastseg.shards.manifest import NAME as MANIFEST
from fastseg.shards.tar import SPLITS

CLASSES = "classes.json"
"""Beside the splits of one's own data: what their masks' pixels mean."""


class Source(Protocol):
    """One layout of data sets; an object of this kind in :data:`SOURCES` is all that a new one takes."""

    @property
    def name(self) -> str:
        """What a message calls it."""

    @property
    def archives(self) -> tuple[str, ...]:
        """Glob patterns of its zips and tars, which may lie in the folder in place of what they hold."""

    def recognize(self, tree: Tree) -> bool:
        """Return whether the files are laid out so; no image is read."""

    def find(self, tree: Tree) -> tuple[Sequence[Found], Sequence[Labeled]]:
        """Return all images and all masks; those of one split and one stem belong together (:func:`pair`)."""

    def classes(self, tree: Tree) -> LabelTable | None:
        """Return what the masks mean, or None where the set does not say so: then its classes.json does."""


SOURCES: tuple[Source, ...] = (
    Cityscapes(),
    PairedFolders("{train,val}/{images,masks}", "{split}/images/{stem}.*", "{split}/masks/{stem}.*"),
)
"""The first that recognizes a folder is taken."""


@dataclass(frozen=True)
class DataSet:
    """A data set's samples, ordered by split and key, and what its masks mean."""

    table: LabelTable
    samples: tuple[Sample, ...]
    layout: str = ""
    """Name of the source that recognized it."""

    def summary(self) -> str:
        """Return one line: ``Cityscapes, zip: 2,975 train, 500 val``."""
        counts = Counter(sample.split for sample in self.samples)
        kinds = sorted({sample.image.path.suffix[1:] for sample in self.samples if sample.image.name})
        splits = ", ".join(f"{count:,} {split}" for split, count in counts.items())
        return f"{', '.join([self.layout, *kinds])}: {splits}"


def open_source(
    path: Path | None = None, classes: Path | None = None, splits: tuple[str, ...] | None = None
) -> DataSet:
    """Find the samples of whatever data set lies in the folder, zip or tar ``path``; nothing is decoded yet.

    Recognized are the layouts of :data:`SOURCES`. Without ``path``: ``$CITYSCAPES_DATASET``, then ``data/``.
    ``classes`` is a file that replaces the set's own classes; ``splits`` keeps only these of train, val, test.

    Raises :class:`UserError` where there is no data set, or an image without its mask or the reverse.
    """
    defaults = (Path(os.environ.get("CITYSCAPES_DATASET") or "data"), Path("data"))
    paths = list(dict.fromkeys(defaults)) if path is None else [path]
    found = next((found for place in paths if (found := recognize(place))), None)
    if found is None:
        raise UserError(_describe_unknown(path) if path is not None else _nothing_at_defaults(paths))
    source, tree = found
    table = read_classes(classes) if classes else source.classes(tree) or _own_classes(tree)
    images, masks = source.find(tree)
    return DataSet(table, _select(pair(images, masks), splits, tree.root), source.name)


def recognize(path: Path) -> tuple[Source, Tree] | None:
    """Return the source that a folder, zip or tar is laid out as, and its files; None for none.

    One of a source's archives stands for the folder that it lies in, and the others with it.
    """
    for source in SOURCES:
        named = path.is_file() and any(path.match(pattern) for pattern in source.archives)
        tree = Tree(path.parent if named else path, source.archives)
        if source.recognize(tree):
            return source, tree
    return None


def has_classes(path: Path) -> bool:
    """Return whether a data set says what its masks mean: by its layout, or by a classes.json."""
    if (found := recognize(path)) is None:
        raise UserError(_describe_unknown(path))
    source, tree = found
    return source.classes(tree) is not None or tree.has(CLASSES)


def find_masks(path: Path) -> list[Mask]:
    """Return the masks of a data set whose classes are not known, in order.

    Raises :class:`UserError` where there are none.
    """
    if (found := recognize(path)) is None:
        raise UserError(_describe_unknown(path))
    source, tree = found
    if source.classes(tree):
        raise UserError(f"{path} is {source.name}, whose classes are known; pack it without --guess-classes")
    masks = source.find(tree)[1]
    if masks:
        return [mask for _, _, mask in masks]
    raise UserError(f"{path} holds no masks, from which --guess-classes could guess")


def _own_classes(tree: Tree) -> LabelTable:
    where = tree.root / CLASSES
    if not tree.has(CLASSES):
        raise UserError(
            f"{where} does not exist; fastseg-pack --guess-classes makes one from the masks, "
            "in which you then write the names"
        )
    return read_classes(where) if where.is_file() else parse_classes(tree[CLASSES].read(), str(tree[CLASSES]))


def _select(samples: tuple[Sample, ...], splits: tuple[str, ...] | None, root: Path) -> tuple[Sample, ...]:
    wanted = splits or SPLITS
    if unknown := [split for split in wanted if split not in SPLITS]:
        raise UserError(f"--splits has {unknown[0]!r}; it takes {', '.join(SPLITS)}")
    found = {sample.split for sample in samples}
    if missing := [split for split in wanted if split not in found and (splits or not found)]:
        raise UserError(f"{root} holds no image of the split {missing[0]}, only of: {', '.join(sorted(found)) or '-'}")
    return tuple(sample for sample in samples if sample.split in wanted)


def _nothing_at_defaults(paths: list[Path]) -> str:
    looked = " nor in ".join(str(path.absolute()) for path in paths)
    return f"no {' and no '.join(source.name for source in SOURCES)} in {looked}; {DOWNLOAD}"


def _describe_unknown(path: Path) -> str:
    """Say what is in a place that holds no data set, and what should be."""
    if not path.exists():
        return f"{path} does not exist; name the folder of the data set"
    known = ", ".join(source.name for source in SOURCES)
    if is_archive(path):
        return f"{path} holds none of {known}; name the folder of the data set"
    if not path.is_dir():
        return f"{path} is neither a folder nor a .zip or .tar; name the folder of the data set"
    if (path / MANIFEST).exists():
        return f"{path} is a packed set already; train on it with --shards {path}, or name the folder it came from"
    if (path / "images").is_dir():
        found = "holds images but no splits"
    elif names := _visible_names(path):
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        found = f"holds {', '.join(names[:4])}{more}, but none of {known}"
    else:
        found = "is empty"
    return (
        f"{path} {found}; put images into {path}/train/images and {path}/val/images, "
        "and the masks into …/masks beside them (docs/data.md)"
    )


def _visible_names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None
