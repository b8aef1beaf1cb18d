"""Packing: worker processes encode the samples, which are appended to shards in order; the manifest is written last."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

from fastseg.errors import UserError
from fastseg.labels import LabelTable
from fastseg.packing.check import check_agreement, find_duplicates, find_problems, find_white, problems_error
from fastseg.packing.parts import PartNote, PartNumber
from fastseg.packing.reading import ReadOptions, SampleError
from fastseg.packing.records import Codec, Record, Statistics, encode
from fastseg.packing.sources import DataSet
from fastseg.packing.sources.samples import Sample
from fastseg.packing.workspace import (
    Part,
    Workspace,
    chain_statistics,
    finished,
    open_workspace,
    summarize,
    write_skipped,
)
from fastseg.parallel import ordered_map, worker_count
from fastseg.shards.manifest import VERSION, Manifest
from fastseg.shards.tar import SPLITS, write_shard


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be written and its samples in order."""

    file: str
    samples: tuple[Sample, ...]


def plan(samples: Iterable[Sample], seed: int, samples_per_shard: int) -> list[ShardPlan]:
    """Return the samples of each shard, in order: train is shuffled by ``seed``, other splits are sorted by key.

    The result is a pure function of the keys: the order is that of SHA-256 sums and depends on no library's generator.
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
"""One in this many samples of a shard is measured for JPEG loss."""

ENCODING = 2
"""Version of the encoding; it grows when the same samples and options give other bytes."""

Progress = Callable[[int, int], None]
"""Callback with the number of samples packed so far and the total, called once before the first sample."""


@dataclass(frozen=True)
class PackOptions:
    """Options that decide the bytes of the shards, beside the source."""

    codec: Codec = field(default_factory=Codec)
    samples_per_shard: int = 256
    """Samples in one tar; 256 of Cityscapes are 150 MB."""
    seed: int = 0
    """Seed of the order of the training samples."""
    reading: ReadOptions = field(default_factory=ReadOptions)

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
    skip_bad: bool = False,
) -> Manifest:
    """Pack ``source`` into the folder ``out`` with ``workers`` processes (default: all cores).

    The bytes depend only on the samples and ``options``. An interrupted call can be repeated and continues after the
    last finished shard. If ``out`` already holds this set, nothing is done and ``progress`` is not called. ``skip_bad``
    leaves out samples that cannot be packed, counts them in the manifest and lists them in :data:`SKIPPED`.

    Raises :class:`UserError` if ``out`` holds a set of another request, unless ``overwrite``, and for samples that
    :func:`fastseg.packing.records.encode` refuses.
    """
    workers = worker_count(workers)
    source, options, skipped = _prepare(source, options or PackOptions(), workers, skip_bad, progress)
    request = _digest(source, options)
    if not overwrite and (manifest := finished(out, request)):
        return manifest
    with open_workspace(out, request, overwrite) as workspace:
        plans = plan(source.samples, options.seed, options.samples_per_shard)
        parts = _pack_or_list_problems(workspace, plans, source, options, workers, progress)
        check_agreement(_named(plans, parts))
        described = _described(options, skipped) | find_duplicates(_names(plans), chain_statistics(parts))
        manifest = summarize(source.table.name, source.table.classes, parts, described)
        write_skipped(out, skipped)
        workspace.finish(manifest)
    return manifest


def _prepare(
    source: DataSet, options: PackOptions, workers: int, skip_bad: bool, progress: Progress | None
) -> tuple[DataSet, PackOptions, list[str]]:
    """Return the samples to pack, options with the white of 16-bit images, and a sentence per sample left out."""
    reading = options.reading
    if reading.white is None and (white := find_white(source.samples, workers)):
        options = replace(options, reading=replace(reading, white=white))
    left_out = [f"{name}: {reason}" for name, reason in source.skipped]
    if not skip_bad:
        return source, options, left_out
    skipped = find_problems(source.samples, source.table, options.reading, workers, progress)
    bad = {(problem.sample.split, problem.sample.key) for problem in skipped}
    kept = tuple(sample for sample in source.samples if (sample.split, sample.key) not in bad)
    if not kept:
        raise problems_error(skipped, len(source.samples))
    return replace(source, samples=kept), options, [*left_out, *(problem.message for problem in skipped)]


def pack_part(
    source: DataSet,
    out: Path,
    number: PartNumber,
    options: PackOptions | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    skip_bad: bool = False,
) -> Manifest | None:
    """Pack as :func:`pack`, but only the shards of one part, into the folder ``out/part-I-of-N``.

    :func:`fastseg.packing.parts.merge` joins all parts to the set that :func:`pack` would have written; if ``out``
    already holds that set, its manifest is returned. Also raises :class:`UserError` if there are fewer shards than
    parts.
    """
    workers = worker_count(workers)
    source, options, skipped = _prepare(source, options or PackOptions(), workers, skip_bad, progress)
    request = _digest(source, options)
    if not overwrite and (manifest := finished(out, request)):
        return manifest
    plans = plan(source.samples, options.seed, options.samples_per_shard)
    if number.parts > len(plans):
        raise UserError(f"--part is {number}, but there are only {len(plans)} shards; make no more parts than that")
    with open_workspace(out / number.folder, request, overwrite) as workspace:
        chosen = plans[number.index :: number.parts]
        check_agreement(_named(chosen, _pack_or_list_problems(workspace, chosen, source, options, workers, progress)))
        shards = tuple(shard.file for shard in plans)
        table, described = source.table, _described(options, skipped)
        names = _names(plans)
        note = PartNote(request, number, shards, table.name, table.classes, described, tuple(skipped), names)
        note.write(workspace.out)
    return None


def _names(plans: Sequence[ShardPlan]) -> tuple[tuple[str, str], ...]:
    """Return split and name of each sample, in order."""
    return tuple((sample.split, sample.name) for shard in plans for sample in shard.samples)


def _described(options: PackOptions, skipped: Sequence[str]) -> dict[str, Any]:
    """Return the options as the manifest records them."""
    described = {**asdict(options.codec), "samples_per_shard": options.samples_per_shard, "seed": options.seed}
    extra = {"white": options.reading.white, "skipped": len(skipped)}
    return described | {name: value for name, value in extra.items() if value}


def _digest(source: DataSet, options: PackOptions) -> str:
    """Return the digest of a request: equal for the same samples (name, size, time or checksum), labels and options."""
    samples = [
        [
            sample.key,
            sample.split,
            sample.name,
            *((file.filename, file.size, file.stamp) for file in (sample.image, sample.mask) if file),
        ]
        for sample in source.samples
    ]
    table = source.table
    meanings = [asdict(entry) for entry in table.classes], sorted(table.train_ids.items()), sorted(table.colors.items())
    document = [VERSION, ENCODING, samples, table.name, meanings, table.others, asdict(options)]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _pack_or_list_problems(
    workspace: Workspace,
    plans: Sequence[ShardPlan],
    source: DataSet,
    options: PackOptions,
    workers: int,
    progress: Progress | None,
) -> list[Part]:
    """Pack as :func:`_pack_shards`; if a sample cannot be packed, raise one error that lists all such samples."""
    try:
        return _pack_shards(workspace, plans, source.table, options, workers, progress)
    except SampleError as error:
        first = str(error)  # the error itself holds the sample's bytes
    samples = [sample for shard in plans for sample in shard.samples]
    problems = find_problems(samples, source.table, options.reading, workers, progress)
    raise problems_error(problems, len(samples)) if len(problems) > 1 else UserError(first)


def _named(plans: Sequence[ShardPlan], parts: Sequence[Part]) -> list[tuple[str, Statistics]]:
    """Return the statistics of all samples, each with the name of its mask, or of its image if it has none."""
    samples = (sample for shard in plans for sample in shard.samples)
    statistics = (entry for part in parts for entry in part.statistics)
    return [(str(sample.mask or sample.image), entry) for sample, entry in zip(samples, statistics, strict=True)]


def _pack_shards(
    workspace: Workspace,
    plans: Sequence[ShardPlan],
    table: LabelTable,
    options: PackOptions,
    workers: int,
    progress: Progress | None,
) -> list[Part]:
    """Write the shards that are not finished yet and return all parts, in the order of ``plans``."""
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
        (sample, options.codec, table, options.reading, options.codec.image == "jpg" and number % MEASURED == 0)
        for shard in missing
        for number, sample in enumerate(shard.samples)
    )
    # One stream of records feeds all shards, so that the workers continue while a shard is closed.
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
    """Yield the entries of a shard and append the statistics of its records to ``statistics``."""
    for record in records:
        statistics.append(record.statistics)
        yield record.key, record.members
        tick()
