"""Whether the files of a split are there whole, by their sizes alone: seen before a training starts."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fastseg.data.damage import first_cut
from fastseg.data.manifest import Shard
from fastseg.errors import UserError
from fastseg.reading import is_remote, join, look_up

REQUESTS = 16
"""Tars in object storage whose sizes are asked for at once."""


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
