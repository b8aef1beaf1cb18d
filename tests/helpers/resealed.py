"""Records that are other than they were packed, in a set whose check sums and hashes fit all the same."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fastseg.shards.manifest import read_manifest
from fastseg.shards.tar import SUMS, add_crc32, read_index, write_shard


def change_record(folder: Path, tar: str, record: int, extension: str, change: Callable[[bytes], bytes]) -> str:
    """Put ``change`` of one of a record's files in its place, as if it had been packed so; returns the record's key."""
    manifest = read_manifest(folder)
    split = manifest.split(tar.partition("-")[0])
    (old,) = (shard for shard in split.shards if shard.file == tar)
    data = (folder / tar).read_bytes()
    records = [
        (entry.key, {part.extension: data[part.offset : part.offset + part.size] for part in entry.components})
        for entry in read_index((folder / old.index).read_text())
    ]
    key, members = records[record]
    members[extension] = change(members[extension])
    if extension != "json":
        document = json.loads(members.pop("json"))
        document.pop(SUMS)
        members["json"] = add_crc32(document, members)
    new = write_shard(folder / tar, records)
    shards = tuple(new if shard is old else shard for shard in split.shards)
    splits = {name: replace(one, shards=shards) if one is split else one for name, one in manifest.splits.items()}
    replace(manifest, splits=splits).write(folder)
    return key
