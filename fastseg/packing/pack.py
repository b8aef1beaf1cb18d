"""Packing: samples encoded by worker processes, appended to shards in order, and at last the manifest."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

from fastseg.errors import UserError, one_line
from fastseg.files import write_atomic
from fastseg.labels import LabelTable
from fastseg.packing.check import NAMED, check_agreement, find_problems, find_white, problems_error
from fastseg.packing.parts import PartNote, PartNumber
from fastseg.packing.reading import ReadOptions, SampleError
from fastseg.packing.records import Codec, Record, Statistics, encode
from fastseg.packing.sources import DataSet
from fastseg.packing.sources.samples import Sample
from fastseg.packing.workspace import SKIPPED, Part, Workspace, finished, open_workspace, summarize
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

ENCODING = 2
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
    """Pack ``source`` into the folder ``out`` by ``workers`` processes (default: all cores).

    The bytes depend on the samples and ``options`` only. Interrupted at any instant and called again it goes on
    after the last finished shard; if ``out`` already holds this very set, that is all (``progress`` is not
    called). ``skip_bad`` leaves out the samples that cannot be packed, counts them in the manifest and names them in
    :data:`SKIPPED`. Raises :class:`UserError` for a set of another request in ``out``, unless ``overwrite``, and for
    what :func:`fastseg.packing.records.encode` refuses.
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
        described = _described(options, skipped) | _duplicates(plans, parts)
        manifest = summarize(source.table.name, source.table.classes, parts, described)
        if skipped:
            write_atomic(out / SKIPPED, "".join(f"{one_line(sentence)}\n" for sentence in skipped))
        workspace.finish(manifest)
    return manifest


def _prepare(
    source: DataSet, options: PackOptions, workers: int, skip_bad: bool, progress: Progress | None
) -> tuple[DataSet, PackOptions, list[str]]:
    """Settle what depends on all samples: the white of 16-bit images, and what is left out, a sentence each."""
    reading = options.reading
    if reading.white is None and (white := find_white(source.samples, workers)):
        options = replace(options, reading=replace(reading, white=white))
    left_out = [f"{name}: {reason}" for name, reason in source.skipped]
    if not skip_bad:
        return source, options, left_out
    skipped = find_problems(source.samples, source.table, options.reading, workers, progress)
    bad = {problem.sample for problem in skipped}
    kept = tuple(sample for sample in source.samples if sample not in bad)
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

    :func:`fastseg.packing.parts.merge` makes of all parts the set that :func:`pack` would have made; if ``out`` already
    holds that, its manifest is returned. Raises :class:`UserError` where there are fewer shards than parts, too.
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
        note = PartNote(request, number, shards, source.table.name, source.table.classes, _described(options, skipped))
        note.write(workspace.out)
    return None


def _duplicates(plans: Sequence[ShardPlan], parts: Sequence[Part]) -> dict[str, str]:
    """The images of val that are in train as well: of one size, with equal sums and sums of squares of all channels."""
    found: dict[str, dict[tuple[int, ...], str]] = {"train": {}, "val": {}}
    for shard, part in zip(plans, parts, strict=True):
        for sample, entry in zip(shard.samples, part.statistics, strict=True):
            if sample.split in found:
                found[sample.split][(entry.height, entry.width, *entry.sums)] = sample.name
    twice = [f"{found['train'][image]} = {name}" for image, name in found["val"].items() if image in found["train"]]
    more = f" and {len(twice) - NAMED} more" if len(twice) > NAMED else ""
    return {"duplicates": f"{len(twice)} images ({', '.join(twice[:NAMED])}{more})"} if twice else {}


def _described(options: PackOptions, skipped: Sequence[str]) -> dict[str, Any]:
    """What the manifest says of the options."""
    described = {**asdict(options.codec), "samples_per_shard": options.samples_per_shard, "seed": options.seed}
    extra = {"white": options.reading.white, "skipped": len(skipped)}
    return described | {name: value for name, value in extra.items() if value}


def _digest(source: DataSet, options: PackOptions) -> str:
    """Return a request's name: equal for the same samples (name, size, time or check sum), labels and options."""
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
    """As :func:`_pack_shards`; where one sample cannot be packed, look for all that cannot, and name them at once."""
    try:
        return _pack_shards(workspace, plans, source.table, options, workers, progress)
    except SampleError as error:
        samples = [sample for shard in plans for sample in shard.samples]
        problems = find_problems(samples, source.table, options.reading, workers, progress)
        if len(problems) < 2:
            raise
        raise problems_error(problems, len(samples)) from error


def _named(plans: Sequence[ShardPlan], parts: Sequence[Part]) -> list[tuple[str, Statistics]]:
    """The statistics of all samples, each with the name of its mask, or image."""
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
        (sample, options.codec, table, options.reading, options.codec.image == "jpg" and number % MEASURED == 0)
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
