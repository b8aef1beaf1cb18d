"""Splits: assignment of samples to train, val and test by the layout, by lists, or by a fraction."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import tyro

from fastseg.cli_help import shown_as
from fastseg.errors import UserError, shown
from fastseg.packing.sources.samples import Files, Labeled
from fastseg.packing.sources.tree import Found, Tree
from fastseg.packing.sources.words import SPLIT_WORDS, without_ending
from fastseg.shards.tar import SPLITS

MAX_LIST = 1 << 27
"""Maximum size of a list of names in bytes."""


@dataclass(frozen=True)
class FindOptions:
    """Selection of the files of a data set and their splits, beyond its layout."""

    images: Annotated[str | None, shown_as("GLOB")] = None
    """Glob of the images, in quotes: 'photos/**/{stem}.jpg'. Relative to SOURCE and used with --masks; {stem} is shared
    by image and mask (default: the last *), ** any folders, {split} a name of train, val or test."""
    masks: Annotated[str | None, shown_as("GLOB")] = None
    """Glob of the masks, such as 'labels/**/{stem}_mask.png'."""
    mask_suffix: Annotated[str | None, shown_as("SUFFIX")] = None
    """Suffix of the masks' names before .png, such as _mask or _labelIds."""
    split_file: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, shown_as("SPLIT=LIST.txt")] = ()
    """List of the samples of train, val or test: a name, path or stem per line. Can be given for each."""
    val_fraction: Annotated[float | None, shown_as("F")] = None
    """Share of train that becomes val, such as 0.1. Chosen by SHA-256 of the names, regardless of order."""
    split_seed: int = 0
    """Seed of that choice."""
    split_by: Literal["file", "folder", "video"] = "file"
    """Unit that --val-fraction keeps together. Frames of a video have equal names except for the last number."""
    reduce_zero_label: bool = False
    """Ignore 0 in masks and read n as class n-1, as mmsegmentation does. Classes are those after the reduction."""

    def __post_init__(self) -> None:
        if (self.images is None) != (self.masks is None):
            given, missing = ("images", "masks") if self.images else ("masks", "images")
            raise UserError(f"--{given} is given without --{missing}; say where both lie")
        if self.images and self.mask_suffix:
            raise UserError("--mask-suffix does not go with --masks; write the suffix into its pattern")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UserError(f"--val-fraction is {self.val_fraction:g}; it must be between 0 and 1")


def split_files(files: Files, options: FindOptions, skip_bad: bool = False) -> Files:
    """Return files with splits train, val or test: from the layout, from lists, or by a fraction.

    Files without a split become train. Raises :class:`UserError` if ``val_fraction`` is given although there is a val
    split, if lists name missing files or put a sample into two splits, and if only some files lie in folders of splits.
    """
    split_of = _found_splits(files)
    if options.split_file:
        split_of = _from_lists(files, split_of, options, skip_bad)
    if options.val_fraction is not None:
        split_of = _with_fraction(split_of, options.val_fraction, options)
    names = {(image.split, image.stem): image.name for image in files.images}
    left_out = [(names[at], "no --split-file names it") for at, split in split_of.items() if not split and at in names]
    return files._replace(
        images=[f._replace(split=split) for f in files.images if (split := split_of[f.split, f.stem])],
        masks=[f._replace(split=split) for f in files.masks if (split := split_of[f.split, f.stem])],
        strays=[*files.strays, *left_out],
    )


Splits = dict[tuple[str, str], str]
"""Final split by split as found and stem; empty if there is none."""


def _found_splits(files: Files) -> Splits:
    everything: list[Found | Labeled] = [*files.images, *files.masks]
    counts = Counter(bool(file.split) for file in everything)
    if counts[False] and any(file.split == "train" for file in everything):
        one = next(file for file in everything if file.split)
        other = next(file for file in everything if not file.split)
        raise UserError(
            f"{counts[True]:,} files lie in folders of splits, such as {one.name}, and {counts[False]:,} do not, such "
            f"as {other.name}; move them, or say what is meant: --images '{{split}}/…/{{stem}}.*' --masks …"
        )
    return {(file.split, file.stem): file.split or "train" for file in everything}


def _with_fraction(split_of: Splits, fraction: float, options: FindOptions) -> Splits:
    if "val" in split_of.values():
        raise UserError("--val-fraction makes a val split, but there is one already; leave one of them out")
    groups: dict[str, list[tuple[str, str]]] = {}
    for at, split in split_of.items():
        if split == "train":
            groups.setdefault(_group(at[1], options.split_by), []).append(at)
    if len(groups) < 2:
        raise UserError(f"all files of train are of one {options.split_by}; choose another --split-by")
    order = sorted(groups, key=lambda name: _digest(name, options.split_seed))
    wanted = round(fraction * sum(map(len, groups.values())))
    chosen: list[tuple[str, str]] = []
    for name in order[:-1]:
        chosen += groups[name]
        if len(chosen) >= wanted:
            break
    return split_of | dict.fromkeys(chosen, "val")


def _group(stem: str, by: Literal["file", "folder", "video"]) -> str:
    """Return the name of the file, folder or video that stays in one split."""
    if by == "folder":
        return stem.rpartition("/")[0]
    return re.sub(r"([_\-. ]*(frame|f)?[_\-. ]*)\d+\D{0,3}$", "", stem) if by == "video" else stem


def _digest(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode(errors="surrogatepass")).digest()


def _from_lists(files: Files, found: Splits, options: FindOptions, skip_bad: bool) -> Splits:
    known = _index(files)
    listed: Splits = {}
    for entry in options.split_file:
        split, path = _parse_entry(entry)
        at, unknown = match_list(_read_list(path), known, str(path))
        if unknown and not skip_bad:
            more = f" (and {len(unknown) - 1:,} more)" if len(unknown) > 1 else ""
            raise UserError(
                f"{path} names {shown(unknown[0])}{more}, which is no image of the set; mend the list, or pass over "
                "such lines with --skip-bad"
            )
        if twice := [name for name in at if listed.get(name, split) != split]:
            raise UserError(f"{path} names {twice[0][1]}, which another --split-file puts into {listed[twice[0]]}")
        listed |= dict.fromkeys(at, split)
    if "train" in listed.values():
        return {at: listed.get(at, "") for at in found}
    return {at: listed.get(at, split) for at, split in found.items()}


def _parse_entry(entry: str) -> tuple[str, Path]:
    word, equals, path = entry.partition("=")
    if not equals or word.lower() not in SPLIT_WORDS:
        raise UserError(f"--split-file is {shown(entry)}; it must be {', '.join(SPLITS)} and a list: val=val.txt")
    return SPLIT_WORDS[word.lower()], Path(path)


def _read_list(path: Path) -> list[str]:
    try:
        if path.stat().st_size > MAX_LIST:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes; that is no list of names")
        return parse_list(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); --split-file takes a text file of names") from None


def parse_list(text: bytes) -> list[str]:
    """Return the non-empty lines of a list of names."""
    lines = text.decode("utf-8-sig", errors="surrogateescape").splitlines()
    return [line.strip() for line in lines if line.strip()]


def find_lists(tree: Tree) -> tuple[tuple[str, Path], ...]:
    """Return the outermost list for train and for val (or else test) in a folder, judging by names such as val.txt."""
    lists = (name for name in tree.ending(".txt") if PurePosixPath(name).stem.lower() in SPLIT_WORDS)
    found: dict[str, Path] = {}
    for name in sorted(lists, key=lambda name: name.count("/")):
        if (tree.root / name).is_file():
            found.setdefault(SPLIT_WORDS[PurePosixPath(name).stem.lower()], tree.root / name)
    held_out = found.get("val", found.get("test"))
    return tuple((split, path) for split, path in (("train", found.get("train")), ("val", held_out)) if path)


Known = dict[str, set[tuple[str, str]]]
"""Samples (split as found, stem) by each name that a line may give them."""


def _index(files: Files) -> Known:
    known: Known = {}
    for file in (*files.images, *files.masks):
        for form in _forms(file.name) | _forms(file.stem + ".") | {file.stem}:
            known.setdefault(form, set()).add((file.split, file.stem))
    return known


def _forms(name: str) -> set[str]:
    path = PurePosixPath(name)
    return {name, without_ending(name), path.name, without_ending(path.name)}


def match_list(lines: Iterable[str], known: Known, where: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the samples that the lines name, and the lines that name none.

    A line is a name, path or stem; if the whole line matches nothing, its first column is tried. Raises
    :class:`UserError` for a line that matches several samples.
    """
    at, unknown = list[tuple[str, str]](), list[str]()
    for line in lines:
        candidates = [form for text in (line, line.split()[0]) for form in _ordered_forms(text)]
        found = next((known[form] for form in candidates if form in known), set())
        if len(found) > 1:
            raise UserError(
                f"{where} names {shown(line)}, which {len(found)} images are called; write their folders, too"
            )
        at += found
        unknown += [] if found else [line]
    return at, unknown


def _ordered_forms(text: str) -> Sequence[str]:
    text = text.removeprefix("./").lstrip("/")
    return [text, without_ending(text), PurePosixPath(text).name, without_ending(PurePosixPath(text).name)]
