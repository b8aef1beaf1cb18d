"""Pack from Python: ``fastseg.pack`` and the rest of what fastseg-pack does."""

import json
import os
import re
import warnings as python_warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastseg.arguments import naming_arguments, signature_with_settings, with_arguments
from fastseg.errors import UserError, shown
from fastseg.labels import IGNORE, LabelTable, SegmentationClass
from fastseg.packing import pack as packing
from fastseg.packing import relabel as relabeling
from fastseg.packing.classes_json import parse_classes
from fastseg.packing.guess_classes import write_guess
from fastseg.packing.parts import PartNumber, merge, parse_part
from fastseg.packing.sources import DataSet, FindOptions, open_source
from fastseg.progress import show_progress
from fastseg.shards.manifest import Manifest
from fastseg.shards.set_warnings import set_warnings
from fastseg.shards.verify import verify
from fastseg.storage import is_remote

PathLike = str | os.PathLike[str]
Classes = PathLike | Mapping[str, Any] | Sequence[str]
"""A classes.json or its content, the name of a preset, names in the order of the masks' values 0, 1, 2 …, or the value,
values or color of each name."""


@dataclass(frozen=True)
class PackedSet:
    """A packed set; what takes a path takes it, such as ``fastseg.train(packed)``."""

    path: Path
    """Folder of the shards."""
    name: str
    """Name of the data set."""
    classes: tuple[SegmentationClass, ...]
    """Classes, in the order of their train ids."""
    splits: dict[str, int]
    """Samples of each split."""
    warnings: tuple[str, ...]
    """What is odd about the set, a sentence each."""

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def samples(self) -> int:
        """Return the number of samples of all splits."""
        return sum(self.splits.values())


@dataclass(frozen=True)
class Settings:
    """The settings of fastseg-pack beside its arguments, as one tree."""

    find: FindOptions = field(default_factory=FindOptions)
    pack: packing.PackOptions = field(default_factory=packing.PackOptions)


def pack(
    source: PathLike,
    out: PathLike | None = None,
    *,
    classes: Classes | None = None,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> PackedSet:
    """Pack images and masks into shards for training. Called again it resumes, and does nothing for a finished set.

    ``source``: a folder, zip or tar in the layout of a known data set or with names such as images, masks, train, val.
    ``out``: the shards' folder, by default shards/NAME with the set's own name. ``classes``: a classes.json or its
    content, a preset such as "voc", names in the order of the masks' values, or ``{"road": 7, "car": [26, 27]}``;
    by default those of the set. ``splits``: to pack, by default all. ``workers``: processes, by default all cores.
    ``skip_bad`` leaves out samples that cannot be packed; ``overwrite`` replaces a set in ``out``. ``settings``: all
    others of fastseg-pack by their names, such as ``val_fraction=0.1``, ``images="photos/**/{stem}.jpg"``,
    ``quality=90``. Raises :class:`fastseg.UserError`.

    >>> import fastseg
    >>> packed = fastseg.pack("mydata", "shards/mydata", classes=["road", "car"], val_fraction=0.25, workers=1)
    >>> packed.splits, packed.path
    ({'train': 6, 'val': 2}, PosixPath('shards/mydata'))
    """
    with naming_arguments():
        data, chosen = _open(source, classes, splits, skip_bad, settings)
        folder = _local(out) if out is not None else default_folder(data)
        with show_progress(f"packing into {folder}", "frames") as show:
            manifest = packing.pack(data, folder, chosen.pack, workers, overwrite, show, skip_bad)
    return _described(manifest, folder, data.warnings())


def pack_part(
    source: PathLike,
    out: PathLike,
    part: str,
    *,
    classes: Classes | None = None,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Path:
    """Pack as :func:`pack`, but only the part ``"I/N"``, on each of N machines; :func:`merge_parts` joins them.

    Returns the part's folder.
    """
    with naming_arguments():
        number: PartNumber = parse_part(part)
        data, chosen = _open(source, classes, splits, skip_bad, settings)
        folder = _local(out)
        with show_progress(f"packing part {part} into {folder}", "frames") as show:
            packing.pack_part(data, folder, number, chosen.pack, workers, overwrite, show, skip_bad)
    return folder / number.folder


def merge_parts(out: PathLike, *, overwrite: bool = False) -> PackedSet:
    """Make one set of the parts that :func:`pack_part` has written to ``out``."""
    with naming_arguments():
        return _described(merge(_local(out), overwrite), _local(out))


def guess_classes(
    source: PathLike,
    out: PathLike | None = None,
    *,
    workers: int | None = None,
    skip_bad: bool = False,
    **settings: Any,
) -> Path:
    """Write a classes.json with classes guessed from the masks, for names to be written in; return its path.

    ``out``: the file, by default ``source/classes.json``, which :func:`pack` then reads.
    """
    with naming_arguments():
        chosen, path = with_arguments(Settings(), settings), Path(source)
        by, to = chosen.pack.reading.mask_values, None if out is None else Path(out)
        with show_progress(f"reading the masks of {path}", "masks") as show:
            return write_guess(path, workers, show, to, chosen.find, by, skip_bad)[1]


def relabel(shards: PathLike, classes: PathLike, out: PathLike | None = None) -> PackedSet:
    """Give a packed set the names, colors and merged classes of a classes.json whose values are the set's train ids.

    Merges change the masks and need a new folder ``out``.
    """
    with naming_arguments():
        to = None if out is None else _local(out)
        with show_progress(f"relabeling {os.fspath(shards)}", "frames") as show:
            manifest = relabeling.relabel(Path(shards), Path(classes), to, show)
        return _described(manifest, to or Path(shards))


def verify_shards(shards: PathLike, *, workers: int | None = None) -> list[str]:
    """Compare every byte and pixel of a packed set (s3:// too) with its manifest; return a sentence for each fault."""
    with naming_arguments(), show_progress(f"verifying {os.fspath(shards)}", "frames") as show:
        return verify(os.fspath(shards), workers, show)


def default_folder(data: DataSet) -> Path:
    """Return the folder of a set's shards: shards/NAME."""
    return Path("shards") / slug(data.table.name)


def slug(name: str) -> str:
    """Return a set's name as that of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "custom"


def _open(
    source: PathLike, classes: Classes | None, splits: Sequence[str] | None, skip_bad: bool, settings: Mapping[str, Any]
) -> tuple[DataSet, Settings]:
    chosen = with_arguments(Settings(), settings)
    known = None if classes is None else read_table(classes)
    return open_source(Path(source), known, tuple(splits) if splits else None, chosen.find, skip_bad), chosen


def read_table(classes: Classes) -> Path | LabelTable:
    """Return the path of a classes.json, or the table that Python objects stand for. Raises :class:`UserError`."""
    if isinstance(classes, str | os.PathLike):
        return Path(classes)
    if isinstance(classes, Mapping) and "classes" in classes:
        document = dict(classes)
    elif isinstance(classes, Mapping):
        entries = [{"name": name, **_values(value)} for name, value in classes.items()]
        document = {"classes": entries, "others": "ignore"}
    elif isinstance(classes, Sequence):
        document = {"classes": [{"name": name, "value": i} for i, name in enumerate(classes)], "ignore": [IGNORE]}
    else:
        raise UserError(
            f"classes is {shown(classes)}; it must be a path, a preset, names, or a dict of values by names"
        )
    try:
        return parse_classes(json.dumps(document).encode(), "classes")
    except TypeError as error:  # what JSON cannot hold
        raise UserError(f"classes holds something else than names, numbers and colors ({error})") from None


def _values(value: Any) -> dict[str, Any]:
    """Return the entry of a class for a value, a list of values or a color (a tuple of three)."""
    if isinstance(value, tuple):
        return {"color": list(value)}
    return {"values": list(value)} if isinstance(value, list | set | range) else {"value": value}


def _local(out: PathLike) -> Path:
    if is_remote(os.fspath(out)):
        raise UserError(f"out is {os.fspath(out)}; it must be a local folder: pack there, then copy the folder")
    return Path(out)


def _described(manifest: Manifest, folder: Path, more: Sequence[str] = ()) -> PackedSet:
    """Return the facts of a set, and warn of what is odd about it."""
    found = (*more, *set_warnings(manifest))
    for sentence in found:
        python_warnings.warn(sentence, stacklevel=3)
    counts = {name: split.samples for name, split in manifest.splits.items()}
    return PackedSet(folder, manifest.name, manifest.classes, counts, found)


_functions: tuple[Any, ...] = (pack, pack_part, guess_classes)
for _function in _functions:
    _function.__signature__ = signature_with_settings(_function, Settings())
