"""The folder ``OUT/.packing``, which records the progress of an unfinished packing and locks out a second process."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fastseg.errors import UserError, one_line
from fastseg.files import check_writable, open_lock, remove_temporary, write_atomic
from fastseg.labels import SegmentationClass
from fastseg.packing.reading import Facts
from fastseg.packing.records import Statistics
from fastseg.shards.manifest import NAME as MANIFEST
from fastseg.shards.manifest import Manifest, Shard, Split, read_manifest
from fastseg.shards.tar import SPLITS

FOLDER = ".packing"
LOCK = "lock"
"""File in that folder, removed as the last one."""
REQUEST = ".request"
"""File beside the manifest of a finished set: the digest of the options and inputs it was packed from."""

SKIPPED = "skipped.txt"
"""File beside the manifest of a finished set: one line for each sample left out, with the reason."""

_PACKED = re.compile(r"(train|val|test)-\d{6,}\.(tar|idx)")


@dataclass(frozen=True)
class Part:
    """A finished shard and the statistics of its records in order."""

    shard: Shard
    statistics: tuple[Statistics, ...]


@dataclass(frozen=True)
class Workspace:
    """Record of the finished shards of one request, kept until its manifest is written."""

    out: Path
    request: str
    """Digest of everything that decides the bytes of the set."""

    def part(self, file: str) -> Part | None:
        """Return the finished shard ``file`` of this request; None if it has yet to be packed."""
        try:
            document = json.loads(self._path(file).read_bytes())
            shard = Shard(**document["shard"])
            whole = (self.out / file).stat().st_size == shard.bytes and (self.out / shard.index).is_file()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if document["request"] != self.request or not whole:
            return None
        return Part(shard, tuple(_statistics(entry) for entry in document["statistics"]))

    def keep(self, part: Part) -> None:
        """Record that a shard is finished; its tar and index are already in place."""
        entries = [asdict(statistics) for statistics in part.statistics]
        document = {"request": self.request, "shard": asdict(part.shard), "statistics": entries}
        write_atomic(self._path(part.shard.file), json.dumps(document))

    def finish(self, manifest: Manifest) -> None:
        """Finish the set; the manifest is written last."""
        write_atomic(self.out / REQUEST, self.request)
        manifest.write(self.out)
        _forget(self.out / FOLDER)

    def _path(self, file: str) -> Path:
        return self.out / FOLDER / f"{file}.json"


def write_skipped(out: Path, skipped: Sequence[str]) -> None:
    """List what was left out, a sentence a line, in :data:`SKIPPED`; write nothing if that is nothing."""
    if skipped:
        write_atomic(out / SKIPPED, "".join(f"{one_line(sentence)}\n" for sentence in skipped))


def finished(out: Path, request: str) -> Manifest | None:
    """Return the manifest of the finished set in ``out``; None if there is no finished set.

    Raises :class:`UserError` if the finished set is of another request.
    """
    if not (out / MANIFEST).exists():
        return None
    manifest = read_manifest(out)
    if not (out / REQUEST).is_file() or (out / REQUEST).read_text() != request:
        raise UserError(
            f"{out} holds a set packed from other inputs or with other options; "
            "choose another --out, or replace it with --overwrite"
        )
    if (out / FOLDER).is_dir():  # the process that finished the set was killed right after
        with suppress(UserError, OSError), _locked(out):
            _forget(out / FOLDER)
    return manifest


@contextmanager
def open_workspace(out: Path, request: str, overwrite: bool) -> Iterator[Workspace]:
    """Lock ``out`` and remove files left by another request or by a killed process.

    Shards that belong to neither a manifest nor ``.packing`` are removed only with ``overwrite``, as is a set that
    another process has finished since the caller asked :func:`finished`.
    """
    check_writable(out, "--out")
    resuming = (out / FOLDER).is_dir()
    unknown = [path for path in sorted(out.glob("*")) if _PACKED.fullmatch(path.name)]
    if unknown and not resuming and not overwrite and not (out / MANIFEST).exists():
        raise UserError(f"{out} holds {unknown[0].name} but no {MANIFEST}; choose another --out, or use --overwrite")
    with _locked(out):
        if not overwrite and (out / MANIFEST).exists():
            _forget(out / FOLDER)
            finished(out, request)
            raise UserError(f"another process has just finished this set in {out}; nothing is left to do")
        _clear(out, request)
        yield Workspace(out, request)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of a packing into ``out``. Raises :class:`UserError` if another process holds it."""
    folder = out / FOLDER
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():  # what is in it would be removed
            raise UserError(f"{folder} is a link; remove it, fastseg-pack makes a folder there")
        try:
            lock = open_lock(folder / LOCK)
        except FileNotFoundError:  # another process has just finished, and removed the folder
            continue
        except BlockingIOError:
            raise UserError(f"another process is packing into {out}; wait for it, or choose another --out") from None
        with lock:
            yield
        return


def _forget(folder: Path) -> None:
    """Remove the record of a finished packing; the lock last, so that nobody takes it before all else is gone."""
    for path in folder.iterdir():
        if path.name != LOCK:
            with suppress(OSError):  # a folder, which is not ours
                path.unlink()
    (folder / LOCK).unlink()
    with suppress(OSError):  # another process has made its own lock there
        folder.rmdir()


def _clear(out: Path, request: str) -> None:
    """Remove partly written files, and all packed files if they belong to another request."""
    note = out / FOLDER / "request"
    if not note.is_file() or note.read_text() != request:
        # The manifest is removed first: without it the remaining files do not count as a set.
        for name in (MANIFEST, REQUEST, SKIPPED):
            (out / name).unlink(missing_ok=True)
        for path in [*(path for path in out.iterdir() if _PACKED.fullmatch(path.name)), *(out / FOLDER).glob("*.json")]:
            path.unlink()
        write_atomic(note, request)
    remove_temporary(out)
    remove_temporary(out / FOLDER)


def _statistics(entry: dict) -> Statistics:
    return Statistics(
        height=entry["height"],
        width=entry["width"],
        pixels=tuple(entry["pixels"]),
        sums=tuple(entry["sums"]),
        squared_error=entry["squared_error"],
        facts=_facts(entry["facts"]),
    )


def _facts(entry: dict) -> Facts:
    palette = tuple((value, (red, green, blue)) for value, (red, green, blue) in entry.pop("palette"))
    return Facts(palette, **entry)


def summarize(
    name: str, classes: tuple[SegmentationClass, ...], parts: Sequence[Part], options: dict[str, Any]
) -> Manifest:
    """Return the manifest of the shards ``parts``, given in order; ``options`` are the packing options.

    Mean and standard deviation are those of train, or of the first split if there is no train. ``options["psnr"]`` is
    the PSNR of the stored images in dB, from the measured mean squared errors; None if none was measured.
    """
    all_statistics = chain_statistics(parts)
    splits = {name: [part for part in parts if part.shard.file.startswith(f"{name}-")] for name in SPLITS}
    splits = {name: chosen for name, chosen in splits.items() if chosen}
    mean, std = _moments(chain_statistics(next(iter(splits.values()))))
    return Manifest(
        name=name,
        classes=classes,
        splits={name: _split(chosen) for name, chosen in splits.items()},
        image_codec=options["image"],
        mask_codec=options["mask"],
        mean=mean,
        std=std,
        options={key: value for key, value in options.items() if key not in ("image", "mask")}
        | {"psnr": _psnr(all_statistics)}
        | notes(all_statistics),
    )


def notes(statistics: Sequence[Statistics]) -> dict[str, int]:
    """Return counts of decisions in reading that may be wrong (:data:`fastseg.shards.set_warnings.NOTES`)."""
    counts = {
        "masks_resized": sum(entry.facts.resized for entry in statistics),
        "masks_drawn_stored": sum(entry.facts.drawn == "stored" for entry in statistics),
        "masks_drawn_undecided": sum(entry.facts.drawn == "undecided" for entry in statistics),
        "pixels_unmatched": sum(entry.facts.unmatched for entry in statistics),
    }
    return {name: count for name, count in counts.items() if count}


def chain_statistics(parts: Sequence[Part]) -> list[Statistics]:
    """Return the statistics of all records of ``parts``, in order."""
    return list(chain.from_iterable(part.statistics for part in parts))


def _split(parts: Sequence[Part]) -> Split:
    statistics = chain_statistics(parts)
    labeled = all(entry.pixels for entry in statistics)
    pixels = tuple(np.sum([entry.pixels for entry in statistics], axis=0).tolist()) if labeled else ()
    sizes = Counter((entry.height, entry.width) for entry in statistics)
    return Split(
        shards=tuple(part.shard for part in parts),
        labeled=labeled,
        sizes=tuple((height, width, count) for (height, width), count in sorted(sizes.items())),
        pixels=pixels,
    )


def _moments(statistics: Sequence[Statistics]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of R, G, B, rounded to 1/1000 of a gray level."""
    sums = [sum(entry.sums[channel] for entry in statistics) for channel in range(6)]
    count = sum(entry.height * entry.width for entry in statistics)
    mean = [total / count for total in sums[:3]]
    std = [math.sqrt(max(0.0, squares / count - m * m)) for squares, m in zip(sums[3:], mean, strict=True)]
    (r, g, b), (sr, sg, sb) = ([round(value, 3) for value in values] for values in (mean, std))
    return (r, g, b), (sr, sg, sb)


def _psnr(statistics: Sequence[Statistics]) -> float | None:
    errors = [entry.squared_error for entry in statistics if entry.squared_error is not None]
    error = sum(errors) / len(errors) if errors else 0.0
    return round(10 * math.log10(255**2 / error), 2) if error else None
