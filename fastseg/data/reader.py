"""The encoded records of a split, by their index: from local tars, or by range requests from object storage."""

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np

from fastseg.errors import UserError
from fastseg.shards.images import image_size
from fastseg.shards.jpeg_tiles import Bytes
from fastseg.shards.tar import find_corrupt, index_bytes, member_label, read_index
from fastseg.storage import LOST, hint, is_remote, missing_file, range_reader, read_bytes

Sample = TypeVar("Sample")


class Damaged(UserError):
    """A record that is not as packed."""


@dataclass(frozen=True)
class Files:
    """The tars and indexes of one split, and the rank that reads them."""

    tars: tuple[str, ...]
    indexes: tuple[str, ...]
    samples: tuple[int, ...]
    """Number of samples in each tar."""
    index_sha256: tuple[str, ...]
    sizes: frozenset[tuple[int, int]]
    """Heights and widths that the manifest lists."""
    image_codec: str
    mask_codec: str
    """Codec of the masks; empty for a split without masks."""
    rank: int = 0
    world: int = 1
    max_corrupt: int = 0
    """Maximum damaged records to skip."""


class Encoded(NamedTuple):
    """A record's image and mask as stored: one-dimensional uint8 arrays; an empty one if there is no mask."""

    image: Bytes
    mask: Bytes


class _Record(NamedTuple):
    """Position of a record."""

    tar: str
    key: str
    offset: int
    """First byte of the record's files, and of the headers between them, in the tar."""
    size: int
    image: slice
    """Bytes of the image, from ``offset``."""
    mask: slice
    json: slice


class Reader:
    """Random access to the records of a split, in the order of the shards; threads may share it.

    A record is one ``pread`` from a local tar (0.1 ms from the page cache), one range request to ``s3://``.
    """

    def __init__(self, files: Files) -> None:
        """Raises :class:`UserError` if an index is damaged, of another tar, or without the codecs of ``files``."""
        self.files = files
        self.remote = is_remote(files.tars[0])
        shards = zip(files.tars, files.indexes, files.samples, files.index_sha256, strict=True)
        self._records = [record for shard in shards for record in _records(*shard, files)]
        self._open = range_reader()
        self._verified = bytearray(len(self._records))
        self._lock = threading.Lock()
        self.skipped: dict[int, str] = {}
        """Damaged records that were skipped: index → what is wrong."""

    def __len__(self) -> int:
        return len(self._records)

    def key(self, index: int) -> str:
        """Return the key of a record."""
        return self._records[index].key

    def where(self, index: int, extension: str = "") -> str:
        """Name tar, key and first byte of a record, or of one of its files, to the user."""
        record = self._records[index]
        within = record.json if extension == "json" else record.mask if "mask." in extension else record.image
        return f"{record.tar}, record {record.key} at byte {record.offset + (within.start if extension else 0)}"

    def read_first_valid(self, index: int, use: Callable[[int, Encoded], Sample]) -> Sample:
        """Return ``use(index, record)`` of the record at ``index``, or of the next one that is not damaged.

        The replacement for a damaged record depends only on the set: it is the same on all ranks and after a restart.
        Raises :class:`UserError` if more than ``max_corrupt`` of ``files`` are damaged.
        """
        for other in chain(range(index, len(self)), range(index)):
            try:
                return use(other, self.read(other))
            except Damaged as error:
                self._skip(other, error)
        raise UserError(f"all records of {self.files.tars[0]} and other shards are damaged; copy or pack the set again")

    def read(self, index: int) -> Encoded:
        """Read the record at ``index``; raise :class:`Damaged` if it is cut off, unreadable or not as packed."""
        record = self._records[index]
        try:
            data = np.frombuffer(self._open(record.tar)(record.offset, record.size), np.uint8)
        except OSError as error:
            sentence = f"{self.where(index)} cannot be read ({error.strerror})"
            raise Damaged(sentence) if error.errno in LOST else UserError(f"{sentence}; {hint(error)}") from None
        if len(data) != record.size:
            raise Damaged(
                f"{record.tar} ends at byte {record.offset + len(data)}, within record {record.key}, which reaches "
                f"from byte {record.offset} to {record.offset + record.size}"
            )
        encoded = Encoded(data[record.image], data[record.mask])
        # Once per process: the check of a Cityscapes frame takes 0.5 ms of a core, reading it 0.1 ms. At 2,000 images a
        # second, as a GPU trains, it would keep a core busy all the time.
        if not self._verified[index]:
            self._verify(index, encoded, data[record.json].tobytes())
            self._verified[index] = True
        return encoded

    def _verify(self, index: int, encoded: Encoded, json: bytes) -> None:
        files = {self.files.image_codec: encoded.image}
        if self.files.mask_codec:
            files[f"mask.{self.files.mask_codec}"] = encoded.mask
        if extension := find_corrupt(self.key(index), json, {name: data.data for name, data in files.items()}):
            raise Damaged(f"{self.where(index, extension)}: {member_label(extension)} is not as it was packed (CRC-32)")
        # A checksum does not tell a decompression bomb: decoders allocate what a header asks for.
        allowed, others = self.files.sizes, "the manifest names no such size"
        for extension, data in files.items():
            height, width = self._size(index, extension, data)
            if (height, width) not in allowed:
                what = f"{member_label(extension)} has {width}×{height} pixels, {others}"
                raise Damaged(f"{self.where(index, extension)}: {what}")
            allowed, others = frozenset({(height, width)}), f"its image {width}×{height}"

    def _size(self, index: int, extension: str, data: Bytes) -> tuple[int, int]:
        try:
            return image_size(data, member_label(extension))
        except UserError as error:
            raise Damaged(f"{self.where(index, extension)}: {error}") from None

    def _skip(self, index: int, error: Damaged) -> None:
        most = self.files.max_corrupt
        with self._lock:
            if index in self.skipped:
                return
            if len(self.skipped) >= most:
                raise UserError(f"{error}; copy or pack the set again, or raise --max-corrupt-samples, which is {most}")
            self.skipped[index] = str(error)
        print(f"warning: {error}; it is skipped ({len(self.skipped)} of at most {most})", file=sys.stderr)


def _records(tar: str, index_file: str, samples: int, digest: str, files: Files) -> Iterator[_Record]:
    """Yield the positions of a tar's records, from its index file."""
    mask = [f"mask.{files.mask_codec}"] if files.mask_codec else []
    wanted = [files.image_codec, "json", *mask]
    for entry in read_index(_read_index_file(index_file, tar, samples, digest), index_file):
        extents = {extension: (offset, offset + size) for extension, offset, size in entry.components}
        if missing := [extension for extension in wanted if extension not in extents]:
            raise UserError(f"{index_file} names no {missing[0]} of record {entry.key}; pack the set again")
        found = [extents[extension] for extension in wanted]
        first, last = min(start for start, _ in found), max(stop for _, stop in found)
        image, json, *masks = (slice(start - first, stop - first) for start, stop in found)
        yield _Record(tar, entry.key, first, last - first, image, masks[0] if masks else slice(0, 0), json)


def _read_index_file(path: str, tar: str, samples: int, digest: str) -> str:
    try:
        data = read_bytes(path, index_bytes(samples))
    except FileNotFoundError:
        raise missing_file(path) from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); copy or pack the set again") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(
            f"{path} is damaged or the index of another tar than {tar}: its SHA-256 is not the manifest's; "
            "copy or pack the set again"
        )
    return data.decode("utf-8", "replace")
