"""The encoded records of a split, by their place: from local tars, or by range requests from object storage."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastseg.data.shards import read_index
from fastseg.data.tiles import Bytes
from fastseg.errors import UserError
from fastseg.files import is_remote, read_bytes, read_range


@dataclass(frozen=True)
class Files:
    """The tars and indexes of one split, and which of its samples this rank reads."""

    tars: tuple[str, ...]
    indexes: tuple[str, ...]
    image_codec: str
    mask_codec: str
    rank: int = 0
    world: int = 1


class Encoded(NamedTuple):
    """A record's image and mask as they are stored: uint8 arrays of one dimension."""

    image: Bytes
    mask: Bytes


class _Place(NamedTuple):
    tar: str
    key: str
    offset: int
    """Where the record's image and mask and what lies between them begin in the tar."""
    size: int
    image: slice
    """Its bytes among those."""
    mask: slice


class Reader:
    """Random access to the records of a split, in the order of the shards; several threads may read at once.

    A record is one ``pread`` from a local tar (0.1 ms where the page cache has it), one range request to ``s3://``.
    """

    def __init__(self, files: Files) -> None:
        """Raises :class:`UserError` where an index is damaged or does not name the codecs of ``files``."""
        self.files = files
        self.remote = is_remote(files.tars[0])
        pairs = zip(files.tars, files.indexes, strict=True)
        self._places = [place for tar, index in pairs for place in _places(tar, index, files)]
        self._open = cache(_open)

    def __len__(self) -> int:
        return len(self._places)

    def key(self, place: int) -> str:
        """The key of a record."""
        return self._places[place].key

    def where(self, place: int) -> str:
        """Tar and key of a record, to name it to the user."""
        return f"{self._places[place].tar}, record {self._places[place].key}"

    def read(self, place: int) -> Encoded:
        """The record at ``place``. Raises :class:`UserError` where the tar ends before it does."""
        record = self._places[place]
        data = np.frombuffer(self._open(record.tar)(record.offset, record.size), np.uint8)
        if len(data) != record.size:
            raise UserError(
                f"{record.tar} ends at byte {record.offset + len(data)}, within record {record.key}, which reaches to "
                f"byte {record.offset + record.size}; copy or pack the set again"
            )
        return Encoded(data[record.image], data[record.mask])


def _places(tar: str, index: str, files: Files) -> Iterator[_Place]:
    wanted = files.image_codec, f"mask.{files.mask_codec}"
    for entry in read_index(_index(index), index):
        extents = {extension: (offset, offset + size) for extension, offset, size in entry.components}
        if missing := [extension for extension in wanted if extension not in extents]:
            raise UserError(f"{index} names no {missing[0]} of record {entry.key}; pack the set again")
        found = [extents[extension] for extension in wanted]
        first, last = min(start for start, _ in found), max(stop for _, stop in found)
        yield _Place(tar, entry.key, first, last - first, *(slice(a - first, b - first) for a, b in found))


def _index(path: str) -> str:
    try:
        return read_bytes(path).decode("utf-8", "replace")
    except FileNotFoundError:
        raise _missing(path) from None


def _range(path: str, offset: int, size: int) -> bytes:
    try:
        return read_range(path, offset, size)
    except FileNotFoundError:
        raise _missing(path) from None


def _missing(path: str) -> UserError:
    return UserError(f"{path} is missing, though the manifest names it; copy or pack the set again")


def _open(tar: str) -> Callable[[int, int], bytes]:
    """A function of offset and size."""
    if is_remote(tar):
        return partial(_range, tar)
    file = Path(tar).open("rb")  # noqa: SIM115 (open as long as the reader is)
    # Not through a memory map: a page that has to come from the disk would be waited for with Python's lock held.
    return lambda offset, size: os.pread(file.fileno(), size, offset)
