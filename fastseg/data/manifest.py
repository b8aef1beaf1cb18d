"""The manifest of a set of shards: what it holds, how it was packed, and the hashes that prove it whole."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fastseg.errors import UserError
from fastseg.files import join, read_bytes, write_atomic
from fastseg.labels import IGNORE, MAX_CLASSES, SegmentationClass, parse_class

NAME = "manifest.json"
FORMAT = "fastseg-shards"
VERSION = 1


@dataclass(frozen=True)
class Shard:
    """One tar and its index ``STEM.idx`` beside it."""

    file: str
    """Name of the tar in the set's folder, such as ``train-000000.tar``."""
    samples: int
    bytes: int
    sha256: str
    index_sha256: str

    @property
    def index(self) -> str:
        """Name of the DALI index in the set's folder."""
        return self.file.removesuffix(".tar") + ".idx"


@dataclass(frozen=True)
class Split:
    """One split: its shards in order, and statistics over all of its samples."""

    shards: tuple[Shard, ...]
    labelled: bool = True
    """False for images without masks (a test split, packed for prediction)."""
    sizes: tuple[tuple[int, int, int], ...] = ()
    """(height, width, how many samples), one entry for each size that occurs."""
    pixels: tuple[int, ...] = ()
    """Pixels of each class 0…C-1, then of :data:`IGNORE`; empty without masks."""
    rare: dict[int, tuple[tuple[int, int, int], ...]] = field(default_factory=dict)
    """Train id of each class under 2 % of the labelled pixels → (sample, y, x): pixel positions near which it
    lies, ``sample`` counting through the split's shards in order."""

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)


@dataclass(frozen=True)
class Manifest:
    """A finished set of shards. It is written last: a folder without one is not a finished set."""

    name: str
    classes: tuple[SegmentationClass, ...]
    splits: dict[str, Split]
    image_codec: str
    """``jpg`` or ``png``."""
    mask_codec: str
    """``tif`` or ``png``."""
    mean: tuple[float, float, float]
    """Mean of the training images, R, G, B, 0–255."""
    std: tuple[float, float, float]
    """Standard deviation of the same, 0–255."""
    options: dict[str, Any] = field(default_factory=dict)
    """How it was packed: quality, chroma, height, samples_per_shard, seed."""
    ignore: int = IGNORE
    version: int = VERSION

    def to_json(self) -> str:
        """The text of ``manifest.json``, a line for each field: the same manifest gives the same bytes."""
        document = {"format": FORMAT, **asdict(self)}
        compact = partial(json.dumps, sort_keys=True, separators=(",", ":"))
        lines = (f"{json.dumps(name)}: {compact(value)}" for name, value in document.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def digest(self) -> str:
        """SHA-256 of the text: names the data a checkpoint was trained on."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def write(self, folder: Path) -> None:
        write_atomic(folder / NAME, self.to_json())

    def split(self, name: str) -> Split:
        """The split called ``name``; :class:`UserError` where there is none."""
        if name not in self.splits:
            raise UserError(f"the shards hold no split {name!r}, only: {', '.join(self.splits)}")
        return self.splits[name]


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check ``folder/manifest.json``; ``folder`` may be an ``s3://`` prefix.

    Raises :class:`UserError` with the field and the value for a missing or damaged one.
    """
    where = join(folder, NAME)
    try:
        document = json.loads(read_bytes(where))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} holds no finished set of shards (no {NAME}); pack one with: python tools/make_shards.py"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged ({error}); pack the set again") from None
    return parse_manifest(document, where)


def parse_manifest(document: Any, where: str) -> Manifest:
    """Check a manifest's JSON document; ``where`` starts the complaint."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{where} is not a manifest of fastseg shards; pack the set again")
    if document.get("version") != VERSION:
        raise UserError(
            f"{where} has format version {document.get('version')!r}, this fastseg reads {VERSION}; "
            "pack the set again or change the version of fastseg"
        )
    try:
        classes = tuple(parse_class(c, f"{where}, class {i}") for i, c in enumerate(document["classes"]))
        manifest = Manifest(
            name=str(document["name"]),
            classes=classes,
            splits={str(k): _parse_split(v, len(classes), where) for k, v in document["splits"].items()},
            image_codec=_one_of(document["image_codec"], ("jpg", "png"), "image_codec", where),
            mask_codec=_one_of(document["mask_codec"], ("tif", "png"), "mask_codec", where),
            mean=_rgb(document["mean"]),
            std=_rgb(document["std"]),
            options=dict(document["options"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where} is damaged ({type(error).__name__}: {error}); pack the set again") from None
    if not 1 <= len(manifest.classes) <= MAX_CLASSES or document.get("ignore") != IGNORE:
        raise UserError(f"{where} must name 1 to {MAX_CLASSES} classes and the ignore value {IGNORE}")
    return manifest


def _parse_split(document: dict[str, Any], classes: int, where: str) -> Split:
    split = Split(
        shards=tuple(_parse_shard(shard, where) for shard in document["shards"]),
        labelled=bool(document["labelled"]),
        sizes=tuple((int(h), int(w), int(n)) for h, w, n in document["sizes"]),
        pixels=tuple(int(n) for n in document["pixels"]),
        rare={
            int(train_id): tuple((int(s), int(y), int(x)) for s, y, x in positions)
            for train_id, positions in document["rare"].items()
        },
    )
    if split.labelled and len(split.pixels) != classes + 1:
        raise ValueError(f"{len(split.pixels)} pixel counts for {classes} classes and the ignore value")
    if sum(n for _, _, n in split.sizes) != split.samples or split.samples < 1:
        raise ValueError(f"{split.samples} samples, but the sizes of {sum(n for _, _, n in split.sizes)}")
    return split


def _parse_shard(document: dict[str, Any], where: str) -> Shard:
    shard = Shard(
        file=str(document["file"]),
        samples=int(document["samples"]),
        bytes=int(document["bytes"]),
        sha256=str(document["sha256"]),
        index_sha256=str(document["index_sha256"]),
    )
    # A manifest may come from anywhere: its shards lie beside it and nowhere else.
    if Path(shard.file).name != shard.file or not shard.file.endswith(".tar"):
        raise UserError(f"{where} names the shard {shard.file!r}; it must be a plain name ending in .tar")
    if shard.samples < 1 or shard.bytes < 1:
        raise ValueError(f"{shard.file} with {shard.samples} samples, {shard.bytes} bytes")
    return shard


def _one_of(value: Any, allowed: tuple[str, ...], name: str, where: str) -> str:
    if value not in allowed:
        raise UserError(f"{where}: {name} is {value!r}; it must be one of {', '.join(allowed)}")
    return str(value)


def _rgb(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue
