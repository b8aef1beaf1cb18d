"""Where a damaged tar is damaged: by its index, its headers and its records' check sums, down to record and byte."""

import hashlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fastseg.data.checksums import call, changed
from fastseg.data.manifest import Shard
from fastseg.data.shards import Component, IndexEntry, index_bytes, read_index
from fastseg.errors import UserError
from fastseg.reading import read_bytes

BLOCK = tarfile.BLOCKSIZE
PIECE = 1 << 20
"""Bytes that are looked at together."""


class Damage(NamedTuple):
    """One place of a tar that is not as it was packed."""

    key: str
    """Of the record; empty behind the last."""
    sentence: str


def find_damages(tar: Path, entries: Sequence[IndexEntry]) -> Iterator[Damage]:
    """Where a tar differs from what was packed, at most one place of each record; ``entries`` of its whole index."""
    with tar.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for entry in entries:
            if found := _cut(entry, size) or _damage(file, entry):
                yield Damage(entry.key, f"{tar.name}, record {entry.key} at {found}")
        end = max(_end(part) for entry in entries for part in entry.components) if entries else 0
        file.seek(end)
        if size > end and not _is_empty(file):
            yield Damage("", f"{tar.name} at byte {end}: what follows the last record is not empty")


def first_cut(folder: Path, shard: Shard) -> str:
    """Which record a cut tar ends in, to go on with in a sentence; empty where its index does not tell."""
    size = (folder / shard.file).stat().st_size
    cuts = ((entry.key, _cut(entry, size)) for entry in trusted_index(folder, shard))
    return next((f", within or before record {key} at {found}" for key, found in cuts if found), "")


def trusted_index(folder: Path, shard: Shard) -> list[IndexEntry]:
    """The entries of a shard's index; none of one that is not the manifest's, or none at all."""
    try:
        data = read_bytes(folder / shard.index, index_bytes(shard.samples))
        whole = hashlib.sha256(data).hexdigest() == shard.index_sha256
        return read_index(data.decode("utf-8", "replace")) if whole else []
    except (OSError, ValueError, UserError):
        return []


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


def _is_empty(file: BinaryIO) -> bool:
    """Whether nothing but zeros follows, however much."""
    return not any(block.strip(b"\0") for block in iter(partial(file.read, PIECE), b""))


def _end(part: Component) -> int:
    """Tars consist of blocks of 512 bytes."""
    return -(-(part.offset + part.size) // BLOCK) * BLOCK


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
