"""Tar shards and their DALI indexes: writing them atomically, reading the index, CRC-32 of records."""

import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastseg.errors import UserError, shown
from fastseg.files import atomic_path, sha256, write_atomic
from fastseg.shards.manifest import Shard

MAX_FILE = 1 << 29
"""Maximum bytes of a file: those of the largest image that is packed, uncompressed at 16 bits. Bounds hostile zips."""
SPLITS = ("train", "val", "test")
MAX_KEY = 90
"""Maximum characters of a key; with its extension a member's name stays within USTAR's 100."""
KEY = re.compile(r"[a-z0-9_-]+")
"""Pattern of a record's key: no character that could lead to another folder."""


INDEX_VERSION = "v1.2"
NAME = re.compile(rf"{KEY.pattern}\.[a-z0-9.]+")
"""Pattern of the name of a record's file."""
MAX_NAME = 100
"""Maximum characters of that name, in USTAR."""
MAX_TAR = 1 << 50
"""Maximum bytes of a tar."""
MAX_RECORD = 4 * MAX_FILE
"""Maximum bytes of a record's files together."""


class Component(NamedTuple):
    """One file of a record inside its tar."""

    extension: str
    """The name after its first dot: ``jpg``, ``mask.tif``, ``json``."""
    offset: int
    """Bytes from the start of the tar."""
    size: int
    """Bytes."""


class IndexEntry(NamedTuple):
    """One record of a shard."""

    key: str
    components: tuple[Component, ...]


def write_shard(path: Path, records: Iterable[tuple[str, dict[str, bytes]]]) -> Shard:
    """Write the tar ``path`` and its index from (key, {extension: bytes}); each is written atomically.

    The same records give the same bytes: USTAR, time 0, a fixed owner and mode, members sorted within a record.
    """
    # Here, because it imports torch (3 s), for which packing's workers must not wait.
    from webdataset import TarWriter

    samples = 0
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file, TarWriter(file, encoder=False, user="", group="", mtime=0) as tar:
            for samples, (key, members) in enumerate(records, 1):  # noqa: B007
                tar.write({"__key__": key, **members})
        # The index of the tar as written, not as intended.
        index = index_text(temporary)
        shard = Shard(path.name, samples, temporary.stat().st_size, sha256(temporary), "")
    write_atomic(path.with_name(shard.index), index)
    return Shard(shard.file, shard.samples, shard.bytes, shard.sha256, hashlib.sha256(index.encode()).hexdigest())


def index_text(tar: Path) -> str:
    """Return DALI's index (format v1.2) of a tar: per record ``extension offset size name`` of each of its files.

    Equal to what ``wds2idx`` of nvidia-dali writes, but raises :class:`tarfile.TarError` for a tar that is cut off
    within a file, and :class:`UserError` for one with anything but plain files of records; only the manifest's counts
    reveal one that is cut off between two.
    """
    records: list[tuple[str, list[str]]] = []
    for member in _members(tar):
        key, _, extension = member.name.partition(".")
        if not records or records[-1][0] != key:
            records.append((key, []))
        records[-1][1].append(f"{extension} {member.offset_data} {member.size} {member.name}")
    lines = [f"{INDEX_VERSION} {len(records)}", *(" ".join(components) for _, components in records)]
    return "\n".join(lines) + "\n"


def index_bytes(samples: int) -> int:
    """Return the maximum bytes of an index of ``samples`` records: two words and two numbers for each file."""
    return (samples + 1) * 3 * 2 * (MAX_NAME + 20)


def _members(tar: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar as we write it, with ``offset_data``: plain files of USTAR, one after the other.

    :class:`tarfile.TarFile` is not safe here: it follows extended headers recursively, which in a hostile file may lead
    back to the same byte forever, and whose values raise all kinds of errors.
    """
    with tar.open("rb") as file:
        end, at = os.fstat(file.fileno()).st_size, 0
        while any(block := file.read(tarfile.BLOCKSIZE)):
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise UserError(f"it holds {shown(member.name)}, no plain file of USTAR; only plain files are packed")
            if not NAME.fullmatch(member.name):
                raise UserError(f"it holds {shown(member.name)}, which is no name of a record's file")
            member.offset_data = at + tarfile.BLOCKSIZE
            at = member.offset_data - (-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if member.size < 0 or at > end:
                raise tarfile.ReadError("unexpected end of data")
            yield member
            file.seek(at)


def read_index(text: str, where: str = "the index") -> list[IndexEntry]:
    """Parse an index of format v1.2; raise :class:`UserError`, which names ``where``, for anything else."""
    head, *lines = text.splitlines() or [""]
    try:
        version, count = head.split()
        entries = [_parse_entry(line.split()) for line in lines]
        if version != INDEX_VERSION or int(count) != len(entries):
            raise ValueError(f"{shown(head)} above {len(entries)} records")
    except ValueError as error:
        raise UserError(f"{where} is not a whole DALI index of format {INDEX_VERSION} ({error}); pack again") from None
    return entries


def _parse_entry(words: Sequence[str]) -> IndexEntry:
    quadruples = [words[start : start + 4] for start in range(0, len(words), 4)]
    components = tuple(Component(extension, int(offset), int(size)) for extension, offset, size, _ in quadruples)
    keys = {name.removesuffix(f".{extension}") for extension, _, _, name in quadruples}
    if len(keys) != 1:
        raise ValueError(f"a record of {len(keys)} keys")
    # An index is untrusted: keys become file names, and a record's memory is allocated before it is read.
    if not KEY.fullmatch(key := keys.pop()) or len(key) > MAX_KEY:
        raise ValueError(f"the key {shown(key)}")
    start, stop = components[0].offset, components[-1].offset + components[-1].size
    for component in components:
        inside = start <= component.offset <= component.offset + component.size <= stop
        if not (start >= 0 and inside and stop <= start + MAX_RECORD <= MAX_TAR):
            raise ValueError(f"the record {shown(key)} from byte {shown(start)} to {shown(stop)}")
    return IndexEntry(key, components)


SUMS = "crc32"


def add_crc32(document: dict[str, Any], members: Mapping[str, bytes]) -> bytes:
    """Return ``document`` as a record's JSON: with the CRC-32 of its other files, and of itself with those."""
    sums = {extension: zlib.crc32(data) for extension, data in members.items()}
    return _dump({**document, SUMS: {**sums, "json": zlib.crc32(_dump({**document, SUMS: sums}))}})


def find_corrupt(key: str, text: bytes, members: Mapping[str, bytes | memoryview]) -> str | None:
    """Return the extension of a record's first file that is not as packed; None if all are.

    ``text`` is its JSON, ``members`` are its other files.
    """
    try:
        document = json.loads(text)
        if document["key"] != key:
            return "json"
        sums = document[SUMS]
        if sums.pop("json") != zlib.crc32(_dump(document)):
            return "json"
        return next((name for name, data in members.items() if sums[name] != zlib.crc32(data)), None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "json"


def member_label(extension: str) -> str:
    """Name a record's file in a sentence: ``its image``, ``its mask`` or ``its JSON``."""
    return "its JSON" if extension == "json" else "its mask" if extension.startswith("mask.") else "its image"


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
