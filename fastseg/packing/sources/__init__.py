"""Sources of packing: the recognized layouts of data sets, and the samples and classes in a folder."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fastseg.errors import UserError
from fastseg.files import describe_missing
from fastseg.labels import LabelTable
from fastseg.packing.classes_json import parse_classes, read_classes, reduce_zero_label
from fastseg.packing.presets import PRESETS, preset_path
from fastseg.packing.sources.by_names import ByNames, layout_of
from fastseg.packing.sources.camvid import CamVid
from fastseg.packing.sources.cityscapes import DOWNLOAD, Cityscapes
from fastseg.packing.sources.coco import CocoInstances
from fastseg.packing.sources.coco_panoptic import CocoPanoptic
from fastseg.packing.sources.cvat import Cvat
from fastseg.packing.sources.label_studio import LabelStudioBrush
from fastseg.packing.sources.labelme import Labelme
from fastseg.packing.sources.merged import MergedMask
from fastseg.packing.sources.paired_folders import PairedFolders, by_hand
from fastseg.packing.sources.samples import Files, Mask, Sample, pair, suggest_pattern, with_strays
from fastseg.packing.sources.splits import FindOptions, find_lists, split_files
from fastseg.packing.sources.supervisely import Supervisely
from fastseg.packing.sources.tree import Member, Tree, is_archive
from fastseg.packing.sources.via import Via
from fastseg.packing.sources.voc import Voc
from fastseg.packing.sources.words import read_folder
from fastseg.packing.sources.yolo import YoloMask, YoloMasks, YoloSegmentation
from fastseg.shards.manifest import NAME as MANIFEST
from fastseg.shards.tar import SPLITS

RECOMMENDED_LAYOUT = (
    "images in train/images and val/images, masks of the same names in train/masks and val/masks: docs/data.md"
)
"""Layout that messages recommend."""
CLASSES = "classes.json"
"""File beside the splits of a user's own data that defines the classes of the masks."""


class Source(Protocol):
    """A layout of data sets; an entry in :data:`SOURCES` is all that a new layout needs."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def archives(self) -> tuple[str, ...]:
        """Glob patterns of zips and tars that may lie in the folder in place of their contents."""

    def recognize(self, tree: Tree) -> bool:
        """Return whether the files have this layout; no image is read."""

    def find(self, tree: Tree) -> Files:
        """Return all images and all masks; those with equal split and stem belong together (:func:`pair`)."""

    def classes(self, tree: Tree) -> LabelTable | None:
        """Return the classes of the masks; None if the set does not define them and needs a classes.json."""


SOURCES: tuple[Source, ...] = (
    Cityscapes(),
    Voc(),
    CamVid(),
    CocoPanoptic(),
    CocoInstances(),
    Labelme(),
    Supervisely(),
    Cvat(),
    Via(),
    LabelStudioBrush(),
    YoloMasks(),
    YoloSegmentation(),
    PairedFolders(
        "ADE20K",
        "images/{split}/{stem}.jpg",
        "annotations/{split}/{stem}.png",
        ("ADEChallengeData2016.zip",),
        "ade20k",
        r"ADE_(train|val)_\d{8}",
    ),
    PairedFolders(
        "Mapillary Vistas (labels)",
        "{split}/images/{stem}.jpg",
        "{split}/labels/{stem}.png",
        (),
        "mapillary",
        r"[\w-]{22}",
    ),
    PairedFolders(
        "Mapillary Vistas (v1.2/labels)", "{split}/images/{stem}.jpg", "{split}/v1.2/labels/{stem}.png", (), "mapillary"
    ),
    PairedFolders(
        "Mapillary Vistas (v2.0/labels)",
        "{split}/images/{stem}.jpg",
        "{split}/v2.0/labels/{stem}.png",
        (),
        "mapillary2",
    ),
    PairedFolders(
        "BDD100K",
        "images/10k/{split}/{stem}.jpg",
        "labels/sem_seg/masks/{split}/{stem}.png",
        ("bdd100k_images_10k*.zip", "10k_images*.zip", "bdd100k_sem_seg*.zip"),
        "bdd100k",
    ),
    PairedFolders(
        "BDD100K (seg)",
        "seg/images/{split}/{stem}.jpg",
        "seg/labels/{split}/{stem}_train_id.png",
        ("bdd100k_seg.zip",),
        "bdd100k",
    ),
    PairedFolders("iSAID", "{split}/images/{stem}.png", "{split}/Semantic_masks/images/{stem}_instance_color_RGB.png"),
    PairedFolders(
        "KITTI semantics",
        "{split}/image_2/{stem}.png",
        "{split}/semantic/{stem}.png",
        ("data_semantics.zip",),
        "kitti",
    ),
    ByNames(),
)
"""All layouts; the last one is tried only if no other recognizes a folder."""


DRAWN = (CocoInstances, Labelme, Supervisely, Cvat, Via, YoloSegmentation)
"""Sources of shapes; a set may hold masks that were drawn from the same or from more shapes."""


@dataclass(frozen=True)
class DataSet:
    """Samples of a data set, ordered by split and key, and the classes of its masks."""

    table: LabelTable
    samples: tuple[Sample, ...]
    layout: str = ""
    """Name of the source that recognized the set."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Files that are left out, each with the reason."""
    lists: tuple[tuple[str, Path], ...] = ()
    """Lists in the set that are not read, although there is no val split, with the split that their name tells."""

    def summary(self) -> str:
        """Return one line such as ``Cityscapes, zip: 2,975 train, 500 val``."""
        counts = Counter(sample.split for sample in self.samples)
        kinds = sorted({sample.image.path.suffix[1:] for sample in self.samples if sample.image.name})
        splits = ", ".join(f"{count:,} {split}" for split, count in counts.items())
        return f"{', '.join([self.layout, *kinds])}: {splits}"

    def example(self) -> str:
        """Return a line such as ``photos/1.jpg with masks/1.png``; empty if the masks are no files."""
        one = next((sample for sample in self.samples if sample.mask), None)
        return f"{one.name} with {one.mask}" if one and isinstance(one.mask, Member | MergedMask) else ""

    def warnings(self) -> list[str]:
        """Return sentences that name unread lists, and count merged masks and the files left out for each reason."""
        flags = " ".join(f"--split-file {split}={path}" for split, path in self.lists)
        merged = sum(isinstance(sample.mask, MergedMask) for sample in self.samples)
        several = "images have several masks, which are merged: an object in any of them is one in all"
        bare = [sample for sample in self.samples if isinstance(sample.mask, YoloMask) and sample.mask.file is None]
        found = [f"the set has lists that may tell its splits: {flags}"] if flags else []
        found += [f"{merged:,} {several}"] if merged else []
        if bare:
            found.append(f"{len(bare):,} images without a text file are background only, such as {bare[0].name}")
        return [*found, *self._left_out()]

    def _left_out(self) -> list[str]:
        if not self.skipped:
            return []
        reasons = Counter(reason for _, reason in self.skipped)
        first = {reason: name for name, reason in reversed(self.skipped)}
        counted = ((f"{count:,}: " if len(reasons) > 1 else "", reason) for reason, count in reasons.items())
        listed = "; ".join(f"{count}{reason} (such as {first[reason]})" for count, reason in counted)
        count = len(self.skipped)
        return [f"{count:,} file{'s are' if count > 1 else ' is'} left out: {listed}"]


def open_source(
    path: Path | None = None,
    classes: Path | LabelTable | None = None,
    splits: tuple[str, ...] | None = None,
    options: FindOptions | None = None,
    skip_bad: bool = False,
) -> DataSet:
    """Find the samples of the data set in the folder, zip or tar ``path`` without decoding any image.

    The layouts in :data:`SOURCES` are recognized. The default path is ``$CITYSCAPES_DATASET``, then ``data/``.
    ``classes`` is a file, the name of a preset or a table that replaces the set's own classes; ``splits`` selects from
    train, val and test.

    Raises :class:`UserError` if there is no data set or one that can be read in two ways, and, unless ``skip_bad``, for
    images without masks and masks without images.
    """
    options = options or FindOptions()
    table = _read_table(classes) if isinstance(classes, Path) else classes
    defaults = (Path(os.environ.get("CITYSCAPES_DATASET") or "data"), Path("data"))
    paths = list(dict.fromkeys(defaults)) if path is None else [path]
    found = next((found for place in paths if (found := recognize(place, options, table))), None)
    if found is None:
        raise UserError(_describe_unknown(path) if path is not None else _nothing_at_defaults(paths))
    source, tree = found
    named = isinstance(source, (*DRAWN, CocoPanoptic, YoloMasks))
    files = split_files(with_strays(tree, source.find(tree), named), options, skip_bad)
    table = table or _own_classes(source, tree, path or tree.root)
    if options.reduce_zero_label:
        table = reduce_zero_label(table)
    samples, skipped = pair(files, skip_bad)
    layout = layout_of(samples[0].name) if isinstance(source, ByNames) and samples else source.name
    has_val = "val" in {sample.split for sample in samples} or options.split_file
    lists = () if has_val else find_lists(tree)
    return DataSet(table, _select(samples, splits, tree.root), layout, skipped, lists)


def recognize(
    path: Path, options: FindOptions | None = None, table: LabelTable | None = None
) -> tuple[Source, Tree] | None:
    """Return the source that recognizes a folder, zip or tar, and its files; None if there is none.

    The set may be nested in a single inner folder. An archive that holds only a part of a set is read together with the
    other archives in its folder. Raises :class:`UserError` if the set can be read in two ways, unless only one of them
    has the classes ``table``.
    """
    options = options or FindOptions()
    if (path / MANIFEST).exists():
        return None
    if options.images and options.masks:
        return by_hand(options.images, options.masks, path), Tree(path, ByNames.archives)
    tree = Tree(path)
    if options.mask_suffix:
        return _recognize_by(ByNames(options.mask_suffix), tree)
    known = [found for source in SOURCES[:-1] if (found := _with_others(source, path) or _recognize_by(source, tree))]
    if len(known) > 1:
        known = [(source, inner) for source, inner in known if source.classes(inner) == table] or known
    if len(known) > 1:
        names = " and as ".join(source.name for source, _ in known)
        raise UserError(f"{path} can be read as {names}; say which by --classes, or by --images and --masks")
    return _with_more_masks(*known[0], tree) if known else _recognize_by(SOURCES[-1], tree)


def _with_more_masks(source: Source, inner: Tree, tree: Tree) -> tuple[Source, Tree]:
    """Return a source and its tree, or the files that are masks if shapes in JSON or text are those of fewer images."""
    by_names = _recognize_by(ByNames(), tree) if isinstance(source, DRAWN) else None
    masks = ByNames().count_masks(by_names[1]) if by_names else 0
    if not by_names or not masks:
        return source, inner
    try:
        files = source.find(inner)
    except UserError:
        files = Files((), ())
    drawn = {(image.split, image.stem) for image in files.images} & {(mask.split, mask.stem) for mask in files.masks}
    return by_names if masks > len(drawn) else (source, inner)


def _recognize_by(source: Source, tree: Tree) -> tuple[Source, Tree] | None:
    """Return the source and the innermost folder that it recognizes."""
    nested = [*_nested(tree.with_archives(source.archives))]
    return next(((source, inner) for inner in reversed(nested) if source.recognize(inner)), None)


def _with_others(source: Source, path: Path) -> tuple[Source, Tree] | None:
    """Return the source and all of its archives if ``path`` is one of them and holds only a part of the set."""
    if not path.is_file() or not any(path.match(pattern) for pattern in source.archives):
        return None
    alone = _recognize_by(source, Tree(path))
    try:
        files = alone[0].find(alone[1]) if alone else Files((), ())
    except UserError:
        files = Files((), ())
    if files.images and files.masks:
        return alone
    return _recognize_by(source, Tree(path.parent, archives_only=True))


def _nested(tree: Tree) -> Iterator[Tree]:
    """Yield the tree, then each single folder that holds all its images, down to a name that tells a split or kind."""
    yield tree
    while len(tops := {name.partition("/")[:2] for name in tree.images}) == 1:
        ((folder, slash),) = tops
        if not slash or read_folder(folder)[:2] != (None, None):
            return
        tree = tree.below(folder)
        yield tree


def has_classes(path: Path, options: FindOptions | None = None) -> bool:
    """Return whether a data set defines its classes, by its layout or by a classes.json."""
    if (found := recognize(path, options)) is None:
        raise UserError(_describe_unknown(path))
    source, tree = found
    return (path / CLASSES).is_file() or tree.has(CLASSES) or source.classes(tree) is not None


def find_masks(path: Path, options: FindOptions | None = None) -> list[Mask]:
    """Return the masks of a data set whose classes are unknown, in order.

    Raises :class:`UserError` if there are no masks or the classes are known.
    """
    if (found := recognize(path, options)) is None:
        raise UserError(_describe_unknown(path))
    source, tree = found
    if source.classes(tree):
        raise UserError(f"{path} is {source.name}, whose classes are known; pack it without --guess-classes")
    if masks := source.find(tree).masks:
        return [mask.member for mask in masks]
    raise UserError(f"{path} holds no masks, from which --guess-classes could guess")


def _read_table(classes: Path) -> LabelTable:
    """Read a file, or the preset of that name."""
    return read_classes(preset_path(str(classes)) if str(classes) in PRESETS and not classes.exists() else classes)


def _own_classes(source: Source, tree: Tree, path: Path) -> LabelTable:
    """Return the table of a classes.json beside or inside the set, or else that of the layout."""
    if (path / CLASSES).is_file():
        return read_classes(path / CLASSES)
    if tree.has(CLASSES):
        return parse_classes(tree[CLASSES].read(), str(tree[CLASSES]))
    if table := source.classes(tree):
        return table
    raise UserError(
        f"{path / CLASSES} does not exist; fastseg-pack --guess-classes makes one from the masks, "
        f"in which you then write the names, or name one of the tables that exist: --classes {', '.join(PRESETS)}"
    )


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
    return f"no Cityscapes, nor another data set, in {looked}; {DOWNLOAD}, or name the folder of yours"


def _describe_unknown(path: Path) -> str:
    """Return a message that describes a path without a data set and names the cure."""
    if not path.exists():
        return describe_missing(path, "name the folder of the data set")
    if not (path.is_dir() or is_archive(path)):
        return f"{path} is neither a folder nor a .zip or .tar; name the folder of the data set"
    if (path / MANIFEST).exists():
        return f"{path} is a packed set already; train on it with --shards {path}, or name the folder it came from"
    if images := Tree(path, ByNames.archives).images:
        return _describe_images(path, images)
    if path.is_dir() and (names := _visible_names(path)):
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        found = f"holds {', '.join(names[:4])}{more}, but no images"
    else:
        found = "holds no images" if is_archive(path) else "is empty"
    return f"{path} {found}; name the folder of the data set, with {RECOMMENDED_LAYOUT}"


def _describe_images(path: Path, images: list[str]) -> str:
    """Return a message for images in a path without any sign which of them are masks."""
    folders = Counter(name.rpartition("/")[0] for name in images).most_common()
    listed = ", ".join(f"{count:,} in {folder or 'it'}" for folder, count in folders[:4])
    more = f" and {len(folders) - 4:,} more folders" if len(folders) > 4 else ""
    last = next(name for name in images if name.rpartition("/")[0] == folders[-1][0])
    flags = f"--images '{suggest_pattern(images[0])}' --masks '{suggest_pattern(last)}'"
    cure = f"say it, such as {flags}" if len(folders) > 1 else "give them the images' names with _mask at the end"
    return (
        f"{path} holds images ({listed}{more}), but nothing tells which are masks; {cure}, or put {RECOMMENDED_LAYOUT}"
    )


def _visible_names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None
