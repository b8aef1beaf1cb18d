"""Where a damaged tar is damaged: by its index, its headers and its records' check sums, down to record and byte."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fastseg.data.checksums import call, changed
from fastseg.data.shards import Component, IndexEntry, read_index
from fastseg.errors import UserError
from fastseg.files import sha256

BLOCK = tarfile.BLOCKSIZE


class Damage(NamedTuple):
    """One place of a tar that is not as it was packed."""

    key: str
    """Of the record; empty behind the last."""
    sentence: str


def find_damages(tar: Path, entries: Sequence[IndexEntry]) -> Iterator[Damage]:
    """Where a tar differs from what was packed, at most one place of each record; ``entries`` of its whole index.

    Bytes of images and masks that were packed without check sums are taken as they are.
    """
    with tar.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for entry in entries:
            if found := _cut(entry, size) or _damage(file, entry):
                yield Damage(entry.key, f"{tar.name}, record {entry.key} at {found}")
        end = max(_end(part) for entry in entries for part in entry.components) if entries else 0
        file.seek(end)
        if size > end and any(file.read()):
            yield Damage("", f"{tar.name} at byte {end}: what follows the last record is not empty")


def first_cut(tar: Path, index: Path) -> str:
    """Which record a cut tar ends in, to go on with in a sentence; empty where the index does not tell."""
    try:
        entries = read_index(index.read_text("utf-8", "replace"))
    except (OSError, UserError):
        return ""
    cuts = ((entry.key, _cut(entry, tar.stat().st_size)) for entry in entries)
    return next((f", within or before record {key} at {found}" for key, found in cuts if found), "")


def trusted_index(index: Path, digest: str) -> list[IndexEntry]:
    """The entries of an index whose SHA-256 is ``digest``; none of another."""
    return read_index(index.read_text("utf-8")) if index.is_file() and sha256(index) == digest else []


def _cut(entry: IndexEntry, size: int) -> str | None:
    """The first file of a record that reaches beyond a tar of ``size`` bytes."""
    for part in entry.components:
        if part.offset + part.size > size:
            return f"byte {part.offset}: {call(part.extension)} reaches to byte {part.offset + part.size}"
    return None


def _damage(file: BinaryIO, entry: IndexEntry) -> str | None:
    for part in entry.components:
        header = _read(file, part.offset - BLOCK, BLOCK)
        if not _is_header(header, f"{entry.key}.{part.extension}", part.size):
            return f"byte {part.offset - BLOCK}: the header of {call(part.extension)} is damaged"
    parts = {part.extension: part for part in entry.components}
    texts = {extension: _read(file, part.offset, part.size) for extension, part in parts.items()}
    if name := changed(entry.key, texts.pop("json", b""), texts):
        where = f"byte {parts[name].offset}: " if name in parts else f"byte {entry.components[0].offset}: "
        return f"{where}{call(name)} is not as it was packed (CRC-32)"
    for part in entry.components:
        behind = part.offset + part.size
        if any(_read(file, behind, _end(part) - behind)):
            return f"byte {behind}: what fills the block behind {call(part.extension)} is not empty"
    return None


def _is_header(block: bytes, name: str, size: int) -> bool:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        return (info.name, info.size) == (name, size) and info.tobuf(tarfile.USTAR_FORMAT) == block
    except (tarfile.TarError, ValueError):
        return False


def _end(part: Component) -> int:
    """Tars consist of blocks of 512 bytes."""
    return -(-(part.offset + part.size) // BLOCK) * BLOCK


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
