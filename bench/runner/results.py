"""Rows of measurements: their arithmetic, and JSON whose every field is checked when it is read."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from fastseg.errors import UserError
from fastseg.files import write_atomic

T = TypeVar("T")
Rate = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of a few numbers."""

    median: float
    min: float
    max: float


def spread(numbers: Sequence[float]) -> Spread:
    """Return the spread of one or more numbers."""
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def ratio_to_ours(theirs: Sequence[float], ours: Sequence[float]) -> Spread | None:
    """Return theirs over ours, window by window: 0.16 is a sixth of our speed. None without a window of both.

    A pair comes from one round, so that a machine that slows down for a while slows both. Within a round the entries
    between them separate the two; since every other round runs backwards, a steady drift cancels from one pair to the
    next.
    """
    pairs = list(zip(theirs, ours, strict=False))  # After an interruption one of them may have one window more.
    return spread([one / other for one, other in pairs]) if pairs else None


def group(stage: str, size: str | None) -> str:
    """Return a title for the entries that are measured together."""
    return f"{stage}, {size}" if size else stage


@dataclass(frozen=True)
class Row:
    """One entry of one stage: measured, or skipped for a reason."""

    stage: str
    entry: str
    unit: str
    """The unit of the rates, such as images/s."""
    settings: dict[str, Any]
    windows: tuple[Rate, ...] = ()
    """Rate of every window; empty for a skipped entry."""
    ratio_to_ours: Spread | None = None
    """Ratio to the stage's first entry of fastseg that is not a part."""
    figures: dict[str, float] = field(default_factory=dict)
    """Further figures, medians over the windows."""
    cores_used: float | None = None
    """CPU seconds per second of all its processes."""
    threads: int | None = None
    """torch's threads in the entry's process."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the distributions that the entry requires."""
    skipped: str | None = None
    size: str | None = None
    """Size of the frames in a run over several: 512x256, or 512x256-420 for users' own JPEGs."""

    def __post_init__(self) -> None:
        if not self.windows and self.skipped is None:
            raise ValueError(f"{self.entry!r} has neither windows nor a reason why it was skipped")

    @property
    def ours(self) -> bool:
        """Return whether it is fastseg's."""
        return self.entry.startswith("fastseg")

    @property
    def group(self) -> str:
        """Return the stage, with the frames' size in a run over several."""
        return group(self.stage, self.size)

    @property
    def part(self) -> bool:
        """Return whether it is a part of fastseg alone ("fastseg: reading"), not comparable with the others."""
        return self.entry.startswith("fastseg: ")

    @property
    def spread(self) -> Spread:
        """Return the spread of the rates of a measured row."""
        return spread(self.windows)

    def to_json(self) -> dict[str, Any]:
        """Return numbers, strings, lists and None."""
        size = {} if self.size is None else {"size": self.size}
        if self.skipped is not None:
            return {name: getattr(self, name) for name in ("stage", "entry", "unit", "settings", "skipped")} | size
        fields = asdict(self)
        del fields["skipped"], fields["size"]
        return fields | asdict(self.spread) | size


@dataclass(frozen=True)
class Results:
    """The results of a run of bench/throughput.py."""

    environment: dict[str, str]
    settings: dict[str, Any]
    results: tuple[Row, ...]
    derived: tuple[dict[str, Any], ...] = ()
    """Figures derived from several rows, each with a ``sentence``."""

    def write(self, path: Path) -> None:
        """Write JSON."""
        write_json(path, {**vars(self), "results": [row.to_json() for row in self.results]})


def read_results(path: Path) -> Results:
    """Read a file of :meth:`Results.write`; raise :class:`UserError` for anything else."""
    return read_json(path, Results, "results of bench/throughput.py", "measure again with --json")


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document, whole or not at all."""
    write_atomic(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, kind: type[T], what: str, cure: str) -> T:
    """Read a file that holds ``what``, every field checked; raise :class:`UserError` with ``cure`` for any other."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name a file that holds {what}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} holds no {what}: {error}; {cure}") from None
