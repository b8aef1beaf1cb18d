"""The manifest of a set of shards: its contents, packing options, and the hashes that prove it complete."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fastseg.errors import UserError, shown
from fastseg.files import write_atomic
from fastseg.labels import IGNORE, MAX_CLASSES, SegmentationClass, parse_class, parse_name
from fastseg.shards.jpeg_tiles import MAX_PIXELS
from fastseg.storage import is_remote, join, read_bytes


def whole(value: Any, low: int, high: int) -> int:
    """Return a whole number from ``low`` to ``high``; raise ValueError for anything else, as those below do."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{shown(value)} instead of a whole number from {low} to {high}")
    return value


def number(value: Any, high: float) -> float:
    """Return a number from 0 to ``high``."""
    if not isinstance(value, (int, float)) or not 0 <= value <= high:  # false for NaN
        raise ValueError(f"{shown(value)} instead of a number from 0 to {high:g}")
    return float(value)


def yes_or_no(value: Any) -> bool:
    """Return True or False; refuse values that are only truthy or falsy."""
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} instead of true or false")
    return value


def a_list(value: Any) -> list[Any]:
    """Return a list of anything."""
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} instead of a list")
    return value


def flat(value: Any) -> dict[str, Any]:
    """Return an object of plain values, so that nothing nested is shown or written again."""
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} instead of an object")
    for name, item in value.items():
        if not isinstance(item, (str, int, float, type(None))):
            raise ValueError(f"{shown(item)} as {shown(name)}")
    return value


def sha256(value: Any) -> str:
    """Return a SHA-256 in hexadecimal: 64 lower-case letters and digits."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError(f"{shown(value)} instead of a SHA-256")
    return value


NAME = "manifest.json"
FORMAT = "fastseg-shards"
VERSION = 2
"""Version of the format; raised whenever older and newer code cannot read each other's files."""
MAX_FILE = 1 << 25
"""Maximum bytes; parsed they may take 1 GB. A tar takes 250: Cityscapes' has 6 KB, one of 100,000 tars 25 MB."""
MAX_NAMED = 4
"""Maximum sets that an error names."""


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
        """Return the name of the DALI index in the set's folder."""
        return self.file.removesuffix(".tar") + ".idx"


@dataclass(frozen=True)
class Split:
    """One split: its shards in order, and statistics over all of its samples."""

    shards: tuple[Shard, ...]
    labeled: bool = True
    """Whether images have masks; False for a test split packed for prediction."""
    sizes: tuple[tuple[int, int, int], ...] = ()
    """(height, width, number of samples) for each size that occurs."""
    pixels: tuple[int, ...] = ()
    """Pixels of each class 0…C-1, then of :data:`IGNORE`; empty without masks."""

    @property
    def samples(self) -> int:
        """Return the number of samples in all shards."""
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
    """Standard deviation of the training images, R, G, B, 0–255."""
    options: dict[str, Any] = field(default_factory=dict)
    """Packing options: quality, chroma, height, samples_per_shard, seed."""
    ignore: int = IGNORE
    version: int = VERSION

    def to_json(self) -> str:
        """Return the text of ``manifest.json``, a line for each field: the same manifest gives the same bytes."""
        document = {"format": FORMAT, **asdict(self)}
        compact = partial(json.dumps, sort_keys=True, separators=(",", ":"))
        lines = (f"{json.dumps(name)}: {compact(value)}" for name, value in document.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def digest(self) -> str:
        """Return the SHA-256 of the text: it names the data a checkpoint was trained on."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` to ``folder``, whole or not at all."""
        write_atomic(folder / NAME, self.to_json())

    def split(self, name: str) -> Split:
        """Return the split called ``name``; raise :class:`UserError` if there is none."""
        if name not in self.splits:
            cure = "; pack the set again with --val-fraction 0.1 --overwrite" if name == "val" else ""
            raise UserError(f"the shards hold no split {name!r}, only: {', '.join(self.splits)}{cure}")
        return self.splits[name]


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check ``folder/manifest.json``; ``folder`` may be an ``s3://`` prefix.

    Raises :class:`UserError` with the field and the value for a missing or damaged one.
    """
    where = join(folder, NAME)
    try:
        document = json.loads(read_bytes(where, MAX_FILE))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} holds no finished set of shards (no {NAME}); {_hint(folder)}") from None
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}); check --shards") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged ({error}); pack the set again") from None
    return parse_manifest(document, where)


def _hint(folder: str | Path) -> str:
    """Name the finished sets in ``folder`` or beside it, and how to pack one."""
    if is_remote(folder):
        return "pack one with: fastseg-pack"
    if "://" in str(folder):
        return (
            "no such address can be read, only s3://, gs:// and az://: copy the set to one of them, or to a local disk"
        )
    pack = f"pack one with: fastseg-pack SOURCE --out {folder}"
    for parent in (Path(folder), Path(folder).parent):
        if found := sorted(str(path.parent) for path in parent.glob(f"*/{NAME}")):
            more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
            return f"name a finished one ({', '.join(found[:MAX_NAMED])}{more}), or {pack}"
    return pack


def parse_manifest(document: Any, where: str) -> Manifest:
    """Check a manifest's JSON document; ``where`` starts the error's sentence."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{where} is not a manifest of fastseg shards; pack the set again")
    if document.get("version") != VERSION:
        raise UserError(
            f"{where} has format version {shown(document.get('version'))}, this fastseg reads {VERSION}; "
            "pack the set again, with --overwrite"
        )
    try:
        return _parse(document, where)
    except KeyError as error:
        raise UserError(f"{where} is damaged (it lacks {shown(error.args[0])}); pack the set again") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where} is damaged ({error}); pack the set again") from None


def _parse(document: dict[str, Any], where: str) -> Manifest:
    """Parse it; raise KeyError for a missing field, ValueError, TypeError or AttributeError for a wrong one."""
    classes = tuple(parse_class(c, f"{where}, class {i}") for i, c in enumerate(a_list(document["classes"])))
    if not 1 <= len(classes) <= MAX_CLASSES or document.get("ignore") != IGNORE:
        raise UserError(f"{where} must name 1 to {MAX_CLASSES} classes and the ignore value {IGNORE}")
    if len({entry.name for entry in classes}) < len(classes):
        raise UserError(f"{where} names a class twice; pack the set again")
    return Manifest(
        name=parse_name(document["name"], where),
        classes=classes,
        splits={
            parse_name(name, where, "split"): _parse_split(split, len(classes), where)
            for name, split in document["splits"].items()
        },
        image_codec=_one_of(document["image_codec"], ("jpg", "png"), "image_codec", where),
        mask_codec=_one_of(document["mask_codec"], ("tif", "png"), "mask_codec", where),
        mean=_rgb(document["mean"]),
        std=_rgb(document["std"]),
        options=flat(document["options"]),
    )


def _parse_split(document: dict[str, Any], classes: int, where: str) -> Split:
    shards = tuple(_parse_shard(shard, where) for shard in a_list(document["shards"]))
    samples = sum(shard.samples for shard in shards)
    split = Split(
        shards=shards,
        labeled=yes_or_no(document["labeled"]),
        sizes=tuple(_parse_size(size) for size in a_list(document["sizes"])),
        pixels=tuple(whole(n, 0, MAX_PIXELS * samples) for n in a_list(document["pixels"])),
    )
    if split.labeled and (len(split.pixels) != classes + 1 or not any(split.pixels)):
        raise ValueError(f"{len(split.pixels)} pixel counts for {classes} classes and the ignore value")
    if sum(n for _, _, n in split.sizes) != samples or samples < 1:
        raise ValueError(f"{samples} samples, but the sizes of {sum(n for _, _, n in split.sizes)}")
    return split


def _parse_shard(document: dict[str, Any], where: str) -> Shard:
    file = document["file"]
    # An untrusted manifest may name only files beside it.
    if not isinstance(file, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.tar", file):
        raise UserError(f"{where} names the shard {shown(file)}; it must be a plain name ending in .tar")
    size = whole(document["bytes"], 1, 1 << 50)
    return Shard(
        file=file,
        # A record has two files or three, each with a header and a block of 512 bytes at least.
        samples=whole(document["samples"], 1, size // 2048),
        bytes=size,
        sha256=sha256(document["sha256"]),
        index_sha256=sha256(document["index_sha256"]),
    )


def _parse_size(entry: Any) -> tuple[int, int, int]:
    height, width, samples = a_list(entry)
    height, width = whole(height, 1, MAX_PIXELS), whole(width, 1, MAX_PIXELS)
    whole(height * width, 1, MAX_PIXELS)
    return height, width, whole(samples, 1, 1 << 40)


def _one_of(value: Any, allowed: tuple[str, ...], name: str, where: str) -> str:
    if value not in allowed:
        raise UserError(f"{where}: {name} is {shown(value)}; it must be one of {', '.join(allowed)}")
    return str(value)


def _rgb(values: Any) -> tuple[float, float, float]:
    red, green, blue = (number(value, 255) for value in a_list(values))
    return red, green, blue
