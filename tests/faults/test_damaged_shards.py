"""Damaged shards: whatever is cut, changed, missing or exchanged is caught, and named down to record and byte."""

import random
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from soak import TIMES

from fastseg.data.loader import open_files
from fastseg.data.reader import Damaged, Reader
from fastseg.errors import UserError
from fastseg.shards.manifest import Shard, read_manifest
from fastseg.shards.tar import IndexEntry
from fastseg.shards.verify import check_files, trusted_index, verify

Tally = Callable[[str, int, int], None]
TRIES = 20 * TIMES
PARTS = {"jpg": "its image", "mask.tif": "its mask", "json": "its JSON"}


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "set"))


def entries(folder: Path, shard: Shard) -> list[IndexEntry]:
    return trusted_index(folder, shard)


def shards_of(folder: Path) -> tuple[Shard, ...]:
    return read_manifest(folder).splits["train"].shards


def places(folder: Path, extension: str, header: bool) -> Iterator[tuple[Shard, str, int, int]]:
    """Endless: a shard, a record's key, where one of its files begins there, and a random byte of it or its header."""
    draw, shards = random.Random(f"{extension}{header}"), shards_of(folder)
    while True:
        shard = draw.choice(shards)
        entry = draw.choice(entries(folder, shard))
        part = next(part for part in entry.components if part.extension == extension)
        begin, size = (part.offset - 512, 512) if header else (part.offset, part.size)
        yield shard, entry.key, begin, begin + draw.randrange(size)


def flip(tar: Path, at: int, bit: int) -> None:
    with tar.open("r+b") as file:
        file.seek(at)
        value = file.read(1)[0] ^ (1 << bit)
        file.seek(at)
        file.write(bytes([value]))


@pytest.mark.parametrize("header", [False, True], ids=["file", "header"])
@pytest.mark.parametrize("extension", PARTS)
def test_a_flipped_bit(copy: Path, tally: Tally, extension: str, header: bool) -> None:
    """Found by make_shards.py --verify and by train.py --verify-shards; in a file, also when the record is read."""
    caught, bits = 0, random.Random(1)
    for shard, key, begin, at in islice(places(copy, extension, header), TRIES):
        bit = bits.randrange(8)
        flip(copy / shard.file, at, bit)
        named = f"{shard.file}, record {key} at byte {begin}: "
        quick, whole = check_files(copy, shards_of(copy), 1), verify(copy, 1)
        found = [damage.startswith(named) for damage in quick] == [True]
        found &= f"{shard.file} is changed: its SHA-256 is not the manifest's" in whole
        found &= any(f"{shard.file}, record {key} at byte " in damage for damage in whole)
        caught += found and (header or passed_over(copy, key, PARTS[extension]))
        flip(copy / shard.file, at, bit)
        assert found, (shard, key, at, quick, whole)
    assert verify(copy, 1) == []
    assert caught == TRIES
    where = {"jpg": "a JPEG", "mask.tif": "a mask", "json": "a record's JSON"}[extension]
    tally(f"a bit flipped in the tar header of {where}" if header else f"a bit flipped in {where}", TRIES, caught)


def passed_over(folder: Path, key: str, part: str) -> bool:
    """Whether a reader finds just this record damaged, and says so."""
    reader = Reader(open_files(folder, read_manifest(folder), "train", max_corrupt=1))
    for place in range(len(reader)):
        reader.read_first_valid(place, lambda _, record: record)
    (place,) = reader.skipped
    return reader.key(place) == key and f"{part} is not as it was packed" in damage(reader, place)


def test_a_flipped_bit_between_records(copy: Path, tally: Tally) -> None:
    """In what fills a block, and behind the last record."""
    draw, caught = random.Random(2), 0
    for _ in range(TRIES):
        shard = draw.choice(shards_of(copy))
        parts = [part for entry in entries(copy, shard) for part in entry.components]
        ends = [part.offset + part.size for part in parts if (part.offset + part.size) % 512]
        begin = draw.choice([*ends, parts[-1].offset + parts[-1].size])
        last = begin > parts[-1].offset
        stop = shard.bytes if last else -(-begin // 512) * 512
        at = draw.randrange(begin, stop)
        flip(copy / shard.file, at, 3)
        (sentence,) = check_files(copy, [shard], 1)
        caught += sentence.startswith(shard.file) and "is not empty" in sentence and sentence in verify(copy, 1)
        flip(copy / shard.file, at, 3)
    assert caught == TRIES
    tally("a bit flipped between records", TRIES, caught)


def test_a_cut_tar(copy: Path, tally: Tally) -> None:
    """Refused at the start by its size; noticed by whoever reads it where it is cut later."""
    draw, caught, manifest = random.Random(3), 0, read_manifest(copy)
    for _ in range(TRIES):
        shard = draw.choice(shards_of(copy))
        tar = copy / shard.file
        whole, size = tar.read_bytes(), draw.randrange(shard.bytes)
        index = entries(copy, shard)
        reader = Reader(open_files(copy, manifest, "train"))
        tar.write_bytes(whole[:size])
        cut = [e.key for e in index if any(part.offset + part.size > size for part in e.components)]
        with pytest.raises(UserError) as refused:
            open_files(copy, manifest, "train")
        says = f"{tar} has {size} bytes, the manifest says {shard.bytes}"
        found = str(refused.value).startswith(says) and (not cut or f"record {cut[0]} at byte" in str(refused.value))
        found &= f"{shard.file} has {size} bytes, the manifest says {shard.bytes}" in verify(copy, 1)
        complaints = {
            reader.key(place): complaint for place in range(len(reader)) if (complaint := damage(reader, place))
        }
        found &= list(complaints) == cut
        found &= all(f"{tar} ends at byte " in text and f"record {key}," in text for key, text in complaints.items())
        caught += found
        tar.write_bytes(whole)
    assert caught == TRIES
    tally("a tar cut short", TRIES, caught)


def damage(reader: Reader, place: int) -> str:
    """What a reader says of a record; nothing if it is whole."""
    try:
        reader.read(place)
    except Damaged as error:
        return str(error)
    return ""
