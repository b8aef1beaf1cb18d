"""Packing: samples encoded by worker processes, appended to shards in order, and at last the manifest."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from fastseg.errors import UserError
from fastseg.labels import LabelTable
from fastseg.packing.parts import PartNote, PartNumber
from fastseg.packing.records import Codec, Record, Statistics, encode
from fastseg.packing.sources import DataSet
from fastseg.packing.sources.samples import Sample
from fastseg.packing.workspace import Part, Workspace, finished, open_workspace, summarize
from fastseg.parallel import ordered_map, worker_count
from fastseg.shards.manifest import VERSION, Manifest
from fastseg.shards.tar import SPLITS, write_shard


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be written and its samples in order."""

    file: str
    samples: tuple[Sample, ...]


def plan(samples: Iterable[Sample], seed: int, samples_per_shard: int) -> list[ShardPlan]:
    """Return which samples go into which shard, in order: train shuffled by ``seed``, other splits sorted by key.

    A pure function of the keys: the order is that of SHA-256 sums, so no library's random numbers can change it.
    """
    shards = []
    for split in SPLITS:
        chosen = sorted((sample for sample in samples if sample.split == split), key=lambda sample: sample.key)
        if split == "train":
            chosen.sort(key=lambda sample: hashlib.sha256(f"{seed}/{sample.key}".encode()).digest())
        for number, start in enumerate(range(0, len(chosen), samples_per_shard)):
            part = tuple(chosen[start : start + samples_per_shard])
            shards.append(ShardPlan(f"{split}-{number:06d}.tar", part))
    return shards


MEASURED = 32
"""The loss of the JPEGs is measured on the first of every 32 samples of a shard."""

ENCODING = 1
"""Grows when the same samples and options give other bytes."""

Progress = Callable[[int, int], None]
"""Called with the samples that are packed and all there are: once before the first, then after each."""


@dataclass(frozen=True)
class PackOptions:
    """What decides the bytes of a set of shards, beside its source."""

    codec: Codec = field(default_factory=Codec)
    samples_per_shard: int = 256
    """In one tar; so many of Cityscapes are 150 MB."""
    seed: int = 0
    """Of the order of the training samples."""

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise UserError(f"--samples-per-shard is {self.samples_per_shard}; it must be at least 1")


def pack(
    source: DataSet,
    out: Path,
    options: PackOptions | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Pack ``source`` into the folder ``out`` by ``workers`` processes (default: all cores).

    The bytes depend on the samples and ``options`` only. Interrupted at any instant and called again it goes on
    after the last finished shard; if ``out`` already holds this very set, that is all (``progress`` is not
    called). Raises :class:`UserError` for a set of another request in ``out``, unless ``overwrite``, and for
    what :func:`fastseg.packing.records.encode` refuses.
    """
    options = options or PackOptions()
    workers = worker_count(workers)
    request = _digest(source, options)
    if not overwrite and (manifest := finished(out, request)):
        return manifest
    with open_workspace(out, request, overwrite) as workspace:
        plans = plan(source.samples, options.seed, options.samples_per_shard)
        parts = _pack_shards(workspace, plans, source.table, options.codec, workers, progress)
        manifest = summarize(source.table.name, source.table.classes, parts, _described(options))
        workspace.finish(manifest)
    return manifest


def pack_part(
    source: DataSet,
    out: Path,
    number: PartNumber,
    options: PackOptions | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest | None:
    """Pack as :func:`pack`, but only the shards of one part, into the folder ``out/part-I-of-N``.

    :func:`fastseg.packing.parts.merge` makes of all parts the set that :func:`pack` would have made; if ``out`` already
    holds that, its manifest is returned. Raises :class:`UserError` where there are fewer shards than parts, too.
    """
    options = options or PackOptions()
    workers = worker_count(workers)
    request = _digest(source, options)
    if not overwrite and (manifest := finished(out, request)):
        return manifest
    plans = plan(source.samples, options.seed, options.samples_per_shard)
    if number.parts > len(plans):
        raise UserError(f"--part is {number}, but there are only {len(plans)} shards; make no more parts than that")
    with open_workspace(out / number.folder, request, overwrite) as workspace:
        _pack_shards(workspace, plans[number.index :: number.parts], source.table, options.codec, workers, progress)
        shards = tuple(shard.file for shard in plans)
        note = PartNote(request, number, shards, source.table.name, source.table.classes, _described(options))
        note.write(workspace.out)
    return None


def _described(options: PackOptions) -> dict[str, Any]:
    """Return what the manifest says of the options."""
    return {**asdict(options.codec), "samples_per_shard": options.samples_per_shard, "seed": options.seed}


def _digest(source: DataSet, options: PackOptions) -> str:
    """Return a request's name: equal for the same samples (name, size, time or check sum), labels and options."""
    samples = [
        [
            sample.key,
            sample.split,
            *((file.filename, file.size, file.stamp) for file in (sample.image, sample.mask) if file),
        ]
        for sample in source.samples
    ]
    document = [VERSION, ENCODING, samples, asdict(source.table), asdict(options)]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _pack_shards(
    workspace: Workspace,
    plans: Sequence[ShardPlan],
    table: LabelTable,
    codec: Codec,
    workers: int,
    progress: Progress | None,
) -> list[Part]:
    """Write the shards that are not finished yet; return all parts, in the order of ``plans``."""
    parts = {shard.file: part for shard in plans if (part := workspace.part(shard.file))}
    missing = [shard for shard in plans if shard.file not in parts]
    total = sum(len(shard.samples) for shard in plans)
    done = total - sum(len(shard.samples) for shard in missing)
    counter = count(done)

    def tick() -> None:
        if progress is not None:
            progress(next(counter), total)

    tick()
    tasks = (
        (sample, codec, table, codec.image == "jpg" and number % MEASURED == 0)
        for shard in missing
        for number, sample in enumerate(shard.samples)
    )
    # One stream of records through all shards: the workers go on while a shard is being closed.
    with closing(ordered_map(encode, tasks, min(workers, max(1, total - done)))) as records:
        for shard in missing:
            statistics: list[Statistics] = []
            entries = _entries(islice(records, len(shard.samples)), statistics, tick)
            written = write_shard(workspace.out / shard.file, entries)
            parts[shard.file] = Part(written, tuple(statistics))
            workspace.keep(parts[shard.file])
    return [parts[shard.file] for shard in plans]


def _entries(
    records: Iterable[Record], statistics: list[Statistics], tick: Callable[[], None]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield what a shard is written from; append the statistics of the records to ``statistics``."""
    for record in records:
        statistics.append(record.statistics)
        yield record.key, record.members
        tick()
