"""Verify a finished set of shards against its manifest, byte by byte and pixel by pixel."""

import hashlib
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from fastseg.errors import UserError, shown
from fastseg.files import sha256
from fastseg.labels import IGNORE
from fastseg.parallel import ordered_map, worker_count
from fastseg.shards.images import is_baseline_jpeg, read_labels, read_rgb
from fastseg.shards.manifest import Manifest, Shard, Split, read_manifest
from fastseg.shards.tar import Component, IndexEntry, find_corrupt, index_bytes, index_text, member_label, read_index
from fastseg.storage import is_remote, join, local_copy, look_up, read_bytes

BLOCK = tarfile.BLOCKSIZE
PIECE = 1 << 20
"""Bytes to read at once."""


class Damage(NamedTuple):
    """Damage to one record of a tar."""

    key: str
    """Key of the record; empty behind the last one."""
    sentence: str


def find_damages(tar: Path, entries: Sequence[IndexEntry]) -> Iterator[Damage]:
    """Yield the damages of a tar, at most one for each record; ``entries``: its whole index."""
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
    """Name the record in which a truncated tar ends, as the rest of a sentence; empty if its index does not tell."""
    size = (folder / shard.file).stat().st_size
    cuts = ((entry.key, _cut(entry, size)) for entry in trusted_index(folder, shard))
    return next((f", within or before record {key} at {found}" for key, found in cuts if found), "")


def trusted_index(folder: Path, shard: Shard) -> list[IndexEntry]:
    """Return the entries of a shard's index; none if it is missing or not the manifest's."""
    try:
        data = read_bytes(folder / shard.index, index_bytes(shard.samples))
        whole = hashlib.sha256(data).hexdigest() == shard.index_sha256
        return read_index(data.decode("utf-8", "replace")) if whole else []
    except (OSError, ValueError, UserError):
        return []


def _cut(entry: IndexEntry, size: int) -> str | None:
    """Return the first file of a record that reaches beyond a tar of ``size`` bytes; None if all fit."""
    for part in entry.components:
        if part.offset + part.size > size:
            return f"byte {part.offset}: {member_label(part.extension)} reaches to byte {part.offset + part.size}"
    return None


def _damage(file: BinaryIO, entry: IndexEntry) -> str | None:
    for part in entry.components:
        header = _read(file, part.offset - BLOCK, BLOCK)
        if not _is_header(header, f"{entry.key}.{part.extension}", part.size):
            return f"byte {part.offset - BLOCK}: the header of {member_label(part.extension)} is damaged"
    parts = {part.extension: part for part in entry.components}
    texts = {extension: _read(file, part.offset, part.size) for extension, part in parts.items()}
    if name := find_corrupt(entry.key, texts.pop("json", b""), texts):
        where = f"byte {parts[name].offset}: " if name in parts else f"byte {entry.components[0].offset}: "
        return f"{where}{member_label(name)} is not as it was packed (CRC-32)"
    for part in entry.components:
        behind = part.offset + part.size
        if any(_read(file, behind, _end(part) - behind)):
            return f"byte {behind}: what fills the block behind {member_label(part.extension)} is not empty"
    return None


def _is_header(block: bytes, name: str, size: int) -> bool:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        return (info.name, info.size) == (name, size) and info.tobuf(tarfile.USTAR_FORMAT) == block
    except (tarfile.TarError, ValueError):
        return False


def _is_empty(file: BinaryIO) -> bool:
    """Return whether only zeros follow."""
    return not any(block.strip(b"\0") for block in iter(partial(file.read, PIECE), b""))


def _end(part: Component) -> int:
    """Return the offset at which a file's last block ends: tars consist of blocks of 512 bytes."""
    return -(-(part.offset + part.size) // BLOCK) * BLOCK


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


MAX_LISTED = 6
"""Maximum files of a record that an error names."""


@dataclass(frozen=True)
class _ShardCheck:
    """Contents of one shard and what is wrong with it."""

    damages: tuple[str, ...]
    keys: tuple[str, ...]
    sizes: Counter[tuple[int, int]]
    pixels: tuple[int, ...]


@dataclass(frozen=True)
class _Expected:
    """Properties that every record of a split must have."""

    image: str
    mask: str | None
    classes: int

    @property
    def extensions(self) -> set[str]:
        """Extensions of the members of each record."""
        return {self.image, "json"} | ({f"mask.{self.mask}"} if self.mask else set())


def verify(
    folder: str | Path, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Return everything that is wrong with the set in ``folder``, a sentence each; empty for an intact set.

    ``folder`` may be an ``s3://`` prefix: each worker then has a temporary copy of one shard at a time.

    Compares each tar's and index's size and SHA-256, the index with the tar, the count, names and adjacency of the
    records, their checksums, the sizes of image and mask, and the mask's values and pixel counts. ``progress`` is
    called with the number of samples checked and their total. Raises :class:`UserError` without a readable manifest.
    """
    workers = worker_count(workers)
    manifest = read_manifest(folder)
    work = [(split, shard) for split in manifest.splits.values() for shard in split.shards]
    tasks = [(folder, shard, _expected(manifest, split)) for split, shard in work]
    total, done = sum(shard.samples for _, shard in work), 0
    checks: dict[str, _ShardCheck] = {}
    if progress is not None:
        progress(0, total)
    with closing(ordered_map(_check_shard, tasks, min(workers, len(tasks)))) as results:
        for (_, shard), check in zip(work, results, strict=True):
            checks[shard.file] = check
            done += shard.samples
            if progress is not None:
                progress(done, total)
    damages = [damage for check in checks.values() for damage in check.damages]
    for name, split in manifest.splits.items():
        damages += _check_split(name, split, [checks[shard.file] for shard in split.shards])
    return damages


def _expected(manifest: Manifest, split: Split) -> _Expected:
    return _Expected(manifest.image_codec, manifest.mask_codec if split.labeled else None, len(manifest.classes))


def _check_split(name: str, split: Split, checks: list[_ShardCheck]) -> Iterator[str]:
    """Compare the sums over a split's shards with the manifest."""
    keys = Counter(key for check in checks for key in check.keys)
    for key in (key for key, count in keys.items() if count > 1):
        yield f"{name}: the record {key} occurs {keys[key]} times"
    if any(check.damages for check in checks):
        return
    sizes = sum((check.sizes for check in checks), Counter())
    if sizes != {(height, width): count for height, width, count in split.sizes}:
        yield f"{name}: the sizes of the images are {shown(dict(sizes))}, the manifest says {shown(split.sizes)}"
    pixels = tuple(np.sum([check.pixels for check in checks], axis=0).tolist()) if split.labeled else ()
    if pixels != split.pixels:
        yield f"{name}: the pixels of the classes are {pixels}, the manifest says {split.pixels}"


def _check_shard(folder: str | Path, shard: Shard, expected: _Expected) -> _ShardCheck:
    with local_copy(folder, (shard.file, shard.index)) as here:
        return _check_local(here, shard, expected)


def _check_local(folder: Path, shard: Shard, expected: _Expected) -> _ShardCheck:
    damages, wrong = list(_check_files(folder, shard)), set[str]()
    located = list(_locate(folder, shard)) if damages else []
    sizes: Counter[tuple[int, int]] = Counter()
    pixels = np.zeros(expected.classes + 1, np.int64)
    entries: list[IndexEntry] = []
    try:
        text = index_text(folder / shard.file)
        if hashlib.sha256(text.encode()).hexdigest() != shard.index_sha256:
            damages.append(f"{shard.index} is not the index of {shard.file}")
        entries = read_index(text)
    except (OSError, tarfile.TarError, UserError) as error:
        damages.append(f"{shard.file} is not a whole tar: {error}")
    if entries and len(entries) != shard.samples:
        damages.append(f"{shard.file} holds {len(entries)} records, the manifest says {shard.samples}")
    for entry in entries:
        try:
            size, counts = _check_record(folder / shard.file, entry, expected)
            sizes[size] += 1
            pixels += counts
        except UserError as error:
            wrong.add(entry.key)
            damages.append(f"{shard.file}, record {entry.key} at byte {entry.components[0].offset}: {error}")
    damages += [sentence for key, sentence in located if key not in wrong]
    return _ShardCheck(tuple(damages), tuple(entry.key for entry in entries), sizes, tuple(pixels.tolist()))


def check_files(folder: str | Path, shards: Sequence[Shard], threads: int) -> list[str]:
    """Compare the SHA-256 of the tars and indexes of ``shards`` with the manifest; return a sentence for each damage.

    Faster than :func:`verify`, since nothing is decoded; names the records whose checksums do not match.
    """
    with ThreadPoolExecutor(threads, "fastseg-verify") as pool:  # a SHA-256 is computed without Python's lock
        return [damage for found in pool.map(partial(_check_hashes, folder), shards) for damage in found]


def _check_hashes(folder: str | Path, shard: Shard) -> list[str]:
    with local_copy(folder, (shard.file, shard.index)) as here:
        damages = list(_check_files(here, shard))
        # Naming the record says more than naming the tar.
        return [sentence for _, sentence in _locate(here, shard)] or damages if damages else []


def _locate(folder: Path, shard: Shard) -> Iterator[Damage]:
    """Yield the damages of a tar by its index, if that is intact, and by checksums."""
    entries = trusted_index(folder, shard)
    if entries and (folder / shard.file).is_file():
        yield from find_damages(folder / shard.file, entries)


def _check_files(folder: Path, shard: Shard) -> Iterator[str]:
    tar, index = folder / shard.file, folder / shard.index
    for path, digest in ((tar, shard.sha256), (index, shard.index_sha256)):
        if not path.is_file():
            yield f"{path.name} is missing"
        elif path == tar and path.stat().st_size != shard.bytes:
            yield f"{path.name} has {path.stat().st_size} bytes, the manifest says {shard.bytes}"
        elif sha256(path) != digest:
            yield f"{path.name} is changed: its SHA-256 is not the manifest's"


def _check_record(tar: Path, entry: IndexEntry, expected: _Expected) -> tuple[tuple[int, int], np.ndarray]:
    """Return (height, width) and the pixels of each class and of the ignored; raise :class:`UserError`."""
    found = {component.extension for component in entry.components}
    if found != expected.extensions:
        raise UserError(f"it holds {_listed(found)} instead of {_listed(expected.extensions)}")
    parts = {}
    with tar.open("rb") as file:
        for component in entry.components:
            file.seek(component.offset)
            parts[component.extension] = file.read(component.size)
    size, pixels = _check_pixels(parts, entry.key, expected)
    if name := find_corrupt(entry.key, parts.pop("json"), parts):
        raise UserError(f"{member_label(name)} is not as it was packed (CRC-32)")
    return size, pixels


def _listed(extensions: set[str]) -> str:
    more = len(extensions) - MAX_LISTED
    return ", ".join(sorted(extensions)[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _check_pixels(parts: dict[str, bytes], key: str, expected: _Expected) -> tuple[tuple[int, int], np.ndarray]:
    image, plain = read_rgb(parts[expected.image], "its image")
    if not plain or (expected.image == "jpg" and not is_baseline_jpeg(parts["jpg"])):
        raise UserError(f"its image is no {'baseline JPEG' if expected.image == 'jpg' else 'PNG'} of 8-bit RGB")
    _check_description(parts["json"], key, (image.height, image.width))
    if expected.mask is None:
        return (image.height, image.width), np.zeros(expected.classes + 1, np.int64)
    mask = read_labels(parts[f"mask.{expected.mask}"], "its mask")
    if mask.size != image.size:
        raise UserError(f"its mask has {mask.width}×{mask.height} pixels, its image {image.width}×{image.height}")
    histogram = mask.histogram()
    if wrong := [value for value in range(expected.classes, IGNORE) if histogram[value]]:
        raise UserError(f"its mask has the value {wrong[0]}, beyond {expected.classes} classes and {IGNORE}")
    return (image.height, image.width), np.array([*histogram[: expected.classes], histogram[IGNORE]])


def _check_description(data: bytes, key: str, size: tuple[int, int]) -> None:
    try:
        document = json.loads(data)
        same = document["key"] == key and tuple(document["size"]) == size
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError("its JSON is damaged") from None
    if not same:
        described = f"{shown(document['key'])} of size {shown(document['size'])}"
        raise UserError(f"its JSON describes {described}, not {key!r} of {size}")


REQUESTS = 16
"""Number of remote tars whose sizes are requested at once."""


def check_sizes(folder: str | Path, shards: Sequence[Shard]) -> None:
    """Raise :class:`UserError` for a tar that is missing or of another size, and for a local index that is missing."""
    if is_remote(folder):
        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(partial(_check_object, str(folder)), shards))
    else:
        for shard in shards:
            _check_size(Path(folder), shard)


def _check_object(prefix: str, shard: Shard) -> None:
    tar = join(prefix, shard.file)
    try:
        size = look_up(tar).size
    except FileNotFoundError:
        raise UserError(f"{tar} is missing, though the manifest names it; copy or pack the set again") from None
    if size != shard.bytes:
        raise UserError(f"{tar} has {size} bytes, the manifest says {shard.bytes}; copy or pack the set again")


def _check_size(folder: Path, shard: Shard) -> None:
    tar, index = folder / shard.file, folder / shard.index
    for path in (tar, index):
        if not path.is_file():
            raise UserError(f"{path} is missing, though the manifest names it; copy or pack the set again")
    if (size := tar.stat().st_size) != shard.bytes:
        cut = first_cut(folder, shard)
        raise UserError(f"{tar} has {size} bytes, the manifest says {shard.bytes}{cut}; copy or pack the set again")
