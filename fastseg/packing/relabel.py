"""New names, colors or merges of classes for a set that is already packed, without reading any image."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastseg.errors import UserError
from fastseg.files import write_atomic
from fastseg.labels import IGNORE, LabelTable
from fastseg.packing.classes_json import read_classes
from fastseg.packing.records import Statistics, encode_mask
from fastseg.packing.workspace import Part, Workspace, finished, open_workspace
from fastseg.shards.images import read_labels
from fastseg.shards.manifest import Manifest, Shard, Split, read_manifest
from fastseg.shards.tar import IndexEntry, add_crc32, find_corrupt, write_shard
from fastseg.shards.verify import trusted_index

Progress = Callable[[int, int], None]
"""Callback with the number of samples done so far and the total."""


def write_classes(shards: Path, path: Path) -> None:
    """Write the classes of a set as a classes.json for :func:`relabel`, to be edited."""
    manifest = read_manifest(shards)
    classes = [
        {
            "value": i,
            "name": entry.name,
            "color": entry.color,
            **({"category": entry.category} if entry.category else {}),
        }
        for i, entry in enumerate(manifest.classes)
    ]
    lines = ",\n".join("  " + json.dumps(entry) for entry in classes)
    write_atomic(path, f'{{"name": {json.dumps(manifest.name)}, "ignore": [], "classes": [\n{lines}\n]}}\n')


def relabel(shards: Path, classes: Path, out: Path | None = None, progress: Progress | None = None) -> Manifest:
    """Give the set in ``shards`` the classes of a classes.json whose values are the set's train ids.

    New names and colors change only the manifest. If masks change (classes merged, ignored or reordered), a new set is
    written to ``out`` with the images copied byte for byte; an interrupted call can be repeated. Raises
    :class:`UserError` if the file does not define a class of the set, if ``out`` is missing or in use, and for damaged
    shards.
    """
    manifest, table = read_manifest(shards), read_classes(classes)
    lookup = _lookup(manifest, table, classes)
    renamed = replace(manifest, name=table.name, classes=table.classes)
    if lookup == list(range(len(manifest.classes))) and len(table.classes) == len(manifest.classes):
        renamed.write(shards)
        return renamed
    if out is None or out.resolve() == shards.resolve():
        raise UserError(
            f"{classes} merges, ignores or reorders classes, so that masks change; name a new folder: --out"
        )
    digest = hashlib.sha256(f"{manifest.digest()} {lookup} {table.name} {table.classes}".encode()).hexdigest()
    if done := finished(out, digest):
        return done
    with open_workspace(out, digest, overwrite=False) as workspace:
        splits = _relabel_splits(shards, manifest, table, lookup, workspace, progress)
        relabeled = replace(renamed, splits=splits)
        workspace.finish(relabeled)
    return relabeled


def _lookup(manifest: Manifest, table: LabelTable, classes: Path) -> list[int]:
    """Return the new train id of each class of the set."""
    known = table.train_ids if table.others is None else dict.fromkeys(range(IGNORE), table.others) | table.train_ids
    for i, entry in enumerate(manifest.classes):
        if i not in known:
            raise UserError(
                f"{classes} does not name the value {i}, which is {entry.name!r} in {manifest.name}; give it to a "
                'class, or name it in "ignore"'
            )
    if beyond := sorted(value for value in table.train_ids if len(manifest.classes) <= value < IGNORE):
        raise UserError(
            f"{classes} names the value {beyond[0]}, but {manifest.name} has {len(manifest.classes)} classes: the "
            "values are its train ids"
        )
    return [known[i] for i in range(len(manifest.classes))]


def _relabel_splits(
    shards: Path,
    manifest: Manifest,
    table: LabelTable,
    lookup: list[int],
    workspace: Workspace,
    progress: Progress | None,
) -> dict[str, Split]:
    done, total, splits = 0, sum(split.samples for split in manifest.splits.values()), {}
    for name, split in manifest.splits.items():
        parts = []
        for shard in split.shards:
            part = workspace.part(shard.file) or _relabel_shard(shards, shard, table, lookup, workspace)
            parts.append(part)
            done += shard.samples
            if progress:
                progress(done, total)
        pixels = tuple(np.sum([part.statistics[0].pixels for part in parts], axis=0).tolist()) if split.labeled else ()
        splits[name] = replace(split, shards=tuple(part.shard for part in parts), pixels=pixels)
    return splits


def _relabel_shard(shards: Path, shard: Shard, table: LabelTable, lookup: list[int], workspace: Workspace) -> Part:
    counts = np.zeros(len(table.classes) + 1, np.int64)
    entries = trusted_index(shards, shard)
    if not entries:
        raise UserError(f"{shards / shard.file} is damaged, or its index; check the set with --verify")
    written = write_shard(workspace.out / shard.file, _records(shards / shard.file, entries, table, lookup, counts))
    part = Part(written, (Statistics(1, 1, tuple(counts.tolist()), ()),))
    workspace.keep(part)
    return part


def _records(
    tar: Path, entries: list[IndexEntry], table: LabelTable, lookup: list[int], counts: np.ndarray
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the records of a tar with new masks and add their pixels to ``counts``."""
    values = [*lookup, *[IGNORE] * (256 - len(lookup))]
    with tar.open("rb") as file:
        for entry in entries:
            members = {}
            for component in entry.components:
                file.seek(component.offset)
                members[component.extension] = file.read(component.size)
            text = members.pop("json")
            if find_corrupt(entry.key, text, members):
                raise UserError(f"{tar}: the record {entry.key} is damaged; check the set with --verify")
            document = json.loads(text)
            document.pop("crc32")
            for extension in [name for name in members if name.startswith("mask.")]:
                mask = read_labels(members[extension], f"{tar}:{entry.key}").point(values)
                histogram = mask.histogram()
                document["pixels"] = [*histogram[: len(table.classes)], histogram[IGNORE]]
                counts += document["pixels"]
                members[extension] = encode_mask(mask, extension.removeprefix("mask."))
            yield entry.key, {**members, "json": add_crc32(document, members)}
