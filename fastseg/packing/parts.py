"""Packing on several machines: division into parts, and merging to the set that one machine would have packed."""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastseg.errors import UserError
from fastseg.files import write_atomic
from fastseg.labels import SegmentationClass, parse_class, parse_name
from fastseg.packing.check import check_agreement, find_duplicates
from fastseg.packing.workspace import (
    FOLDER,
    Workspace,
    chain_statistics,
    finished,
    open_workspace,
    summarize,
    write_skipped,
)
from fastseg.shards.manifest import NAME as MANIFEST
from fastseg.shards.manifest import Manifest, flat, read_manifest
from fastseg.shards.tar import MAX_FILE
from fastseg.storage import read_bytes

NOTE = "part.json"
"""Name of the note in a part's :data:`fastseg.packing.workspace.FOLDER`, written once the part is packed."""

_NUMBER = re.compile(r"(\d{1,6})/(\d{1,6})")
_PART = re.compile(r"part-(\d+)-of-(\d+)")


@dataclass(frozen=True)
class PartNumber:
    """One of several parts of nearly equal size: every ``parts``-th shard starting with shard ``index``."""

    index: int
    """Index of the part, counted from 0."""
    parts: int

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.parts}"

    @property
    def folder(self) -> str:
        """Name of the part's folder inside the folder of the set."""
        return f"part-{self.index + 1}-of-{self.parts}"


def parse_part(text: str) -> PartNumber:
    """Parse ``I/N`` with 1 ≤ I ≤ N; raise :class:`UserError` for anything else."""
    match = _NUMBER.fullmatch(text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--part is {text!r}; it must be I/N with I from 1 to N, such as 1/4")
    return PartNumber(int(match[1]) - 1, int(match[2]))


@dataclass(frozen=True)
class PartNote:
    """Properties of the whole set that a finished part records."""

    request: str
    """Digest of everything that decides the bytes of the set."""
    number: PartNumber
    shards: tuple[str, ...]
    """File names of the tars of all parts, in order."""
    name: str
    """Name of the set."""
    classes: tuple[SegmentationClass, ...]
    options: dict[str, Any]
    """Packing options for the manifest."""
    skipped: tuple[str, ...]
    """What was left out of the set, a sentence each."""
    names: tuple[tuple[str, str], ...]
    """Split and name of each sample of all parts, in order."""

    def write(self, out: Path) -> None:
        """Record that the part in ``out`` is finished."""
        write_atomic(out / FOLDER / NOTE, json.dumps(asdict(self)))


def merge(out: Path, overwrite: bool = False) -> Manifest:
    """Merge the parts ``out/part-I-of-N`` into one set; their files move to ``out``, and the manifest is written last.

    An interrupted call can be repeated. Raises :class:`UserError` if a part is missing, unfinished or of another
    request than the first, and if ``out`` holds a set of another request, unless ``overwrite``.
    """
    folders = sorted(path for path in out.glob("part-*") if _PART.fullmatch(path.name) and (path / FOLDER).is_dir())
    if not folders and (out / MANIFEST).exists():
        return read_manifest(out)
    notes = {folder: _read_note(folder) for folder in folders}
    if not notes:
        raise UserError(f"{out} holds no parts of a set; pack them with --part 1/N to N/N, and copy them there")
    first = next(iter(notes.values()))
    manifest = None if overwrite else finished(out, first.request)
    if manifest is None:
        _check(out, notes)
        manifest = _join(out, notes, overwrite)
    for folder in folders:
        shutil.rmtree(folder / FOLDER)
        if not any(folder.iterdir()):
            folder.rmdir()
    return manifest


def _check(out: Path, notes: dict[Path, PartNote]) -> None:
    (folder, first), *others = notes.items()
    for other, note in others:
        if note.number.parts != first.number.parts:
            raise UserError(f"{out} holds both {folder.name} and {other.name}; remove the parts that do not belong")
        if note.request != first.request:
            raise UserError(
                f"{other} was packed from other inputs or with other options than {folder.name}; pack it again"
            )
    here = {note.number for note in notes.values()}
    for index in range(first.number.parts):
        number = PartNumber(index, first.number.parts)
        if number not in here:
            raise UserError(f"{out} lacks {number.folder}; pack it with --part {number}, or copy it there")


def _join(out: Path, notes: dict[Path, PartNote], overwrite: bool) -> Manifest:
    first = next(iter(notes.values()))
    with open_workspace(out, first.request, overwrite) as workspace:
        for folder in notes:
            _adopt(workspace, folder)
        parts = []
        for position, file in enumerate(first.shards):
            part = workspace.part(file)
            if part is None:
                number = PartNumber(position % first.number.parts, first.number.parts)
                raise UserError(
                    f"{out / number.folder} lacks {file} or its index, or part of it; copy the folder again, or run "
                    f"--part {number} again"
                )
            parts.append(part)
        statistics = chain_statistics(parts)
        if len(statistics) != len(first.names):
            raise UserError(f"{out} holds parts of {len(statistics)} samples, not {len(first.names)}; pack them again")
        check_agreement((name, entry) for (_, name), entry in zip(first.names, statistics, strict=True))
        options = first.options | find_duplicates(first.names, statistics)
        manifest = summarize(first.name, first.classes, parts, options)
        write_skipped(out, first.skipped)
        workspace.finish(manifest)
    return manifest


def _adopt(workspace: Workspace, folder: Path) -> None:
    """Move the shards of a part to ``out``.

    The note of a shard moves after the shard, so a note may remain in the part whose shard is already in ``out``.
    """
    for note in sorted((folder / FOLDER).glob("*.tar.json")):
        tar = note.name.removesuffix(".json")
        for name in (tar, Path(tar).with_suffix(".idx").name):
            if (folder / name).exists():
                shutil.move(folder / name, workspace.out / name)
        shutil.move(note, workspace.out / FOLDER / note.name)


def _read_note(folder: Path) -> PartNote:
    number = folder.name.removeprefix("part-").replace("-of-", "/")
    path = folder / FOLDER / NOTE
    if (folder / FOLDER).is_symlink():  # what is in it would be moved
        raise UserError(f"{folder / FOLDER} is a link; copy the part's folder again")
    try:
        document = json.loads(read_bytes(path, MAX_FILE))
        return PartNote(
            request=str(document["request"]),
            number=parse_part(number),
            shards=tuple(str(file) for file in document["shards"]),
            name=parse_name(document["name"], str(path)),
            classes=tuple(parse_class(entry, str(path)) for entry in document["classes"]),
            options=flat(document["options"]),
            skipped=tuple(str(sentence) for sentence in document["skipped"]),
            names=tuple((str(split), str(name)) for split, name in document["names"]),
        )
    except FileNotFoundError:
        raise UserError(f"{folder} is not finished; run --part {number} again, and --merge when it is done") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); copy the part again, or pack it again") from None
