"""What was measured, as rows; written to JSON and read from it, every field checked."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastseg.errors import UserError
from fastseg.files import write_atomic


@dataclass(frozen=True)
class Spread:
    """Where a few numbers lie."""

    median: float
    min: float
    max: float


def spread(numbers: Sequence[float]) -> Spread:
    """Median, least and greatest of at least one number."""
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def ratio_to_ours(theirs: Sequence[float], ours: Sequence[float]) -> Spread | None:
    """Theirs over ours, window by window: 0.16 is a sixth of our speed. None without a window of both.

    A pair is of one round, so that a machine which slows down for a while slows both. Within a round the two lie as
    far apart as the contestants between them take; since every other round goes backwards, what a steady drift does to
    one pair it undoes in the next.
    """
    pairs = list(zip(theirs, ours, strict=False))  # Interrupted, one of them may have a window more.
    return spread([one / other for one, other in pairs]) if pairs else None


def is_ours(name: str) -> bool:
    """Whether a contestant of that name is fastseg's."""
    return name.startswith("fastseg")


def is_part(name: str) -> bool:
    """Whether it is a part of ours alone ("fastseg: reading"), which does not compare with the others."""
    return name.startswith("fastseg: ")


@dataclass(frozen=True)
class Row:
    """One contestant of one stage: measured, or skipped for a reason."""

    stage: str
    contestant: str
    unit: str
    """Of the rates, such as images/s."""
    settings: dict[str, Any]
    windows: tuple[float, ...] = ()
    """The rate of every window; none of a contestant that was skipped."""
    ratio: Spread | None = None
    """To the stage's first contestant of ours that is no part."""
    figures: dict[str, float] = field(default_factory=dict)
    """Further figures, medians over the windows."""
    cores_used: float | None = None
    """Processor seconds per second, of all its processes."""
    threads: int | None = None
    """Of torch's, in the contestant's process."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the distributions that the contestant requires."""
    skipped: str | None = None

    @property
    def ours(self) -> bool:
        """Whether it is fastseg's."""
        return is_ours(self.contestant)

    @property
    def part(self) -> bool:
        """Whether it is a part of ours alone."""
        return is_part(self.contestant)

    @property
    def spread(self) -> Spread:
        """Of the rates; only for a row that was measured."""
        return spread(self.windows)

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings, lists and None."""
        row = {"stage": self.stage, "contestant": self.contestant, "unit": self.unit, "settings": self.settings}
        if self.skipped is not None:
            return row | {"skipped": self.skipped}
        return row | {
            **asdict(self.spread),
            "windows": list(self.windows),
            "ratio_to_ours": asdict(self.ratio) if self.ratio else None,
            "figures": self.figures,
            "cores_used": self.cores_used,
            "threads": self.threads,
            "versions": self.versions,
        }


@dataclass(frozen=True)
class Results:
    """All that a run of the suite found."""

    environment: dict[str, str]
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    derived: tuple[dict[str, Any], ...] = ()
    """Figures that come of several rows, each with a ``sentence``."""

    def write(self, path: Path) -> None:
        """To JSON: environment, settings, results, derived."""
        document = {
            "environment": self.environment,
            "settings": self.settings,
            "results": [row.to_json() for row in self.rows],
            "derived": list(self.derived),
        }
        write_atomic(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read_results(path: Path) -> Results:
    """What :meth:`Results.write` wrote; :class:`UserError` for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name a file that --json wrote") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}); name a file that --json wrote") from None
    try:
        return Results(
            _typed(document, "environment", dict),
            _typed(document, "settings", dict),
            tuple(map(_row, _typed(document, "results", list))),
            tuple(_typed(document, "derived", list, [])),
        )
    except ValueError as error:
        raise UserError(f"{path} holds no results of bench/throughput.py: {error}; measure again with --json") from None


_ABSENT: Any = object()


def _row(document: Any) -> Row:
    stage, contestant, unit = (_typed(document, key, str) for key in ("stage", "contestant", "unit"))
    settings = _typed(document, "settings", dict)
    if "skipped" in document:
        return Row(stage, contestant, unit, settings, skipped=_typed(document, "skipped", str))
    windows = tuple(_typed(document, "windows", list))
    if not windows or not all(_is_rate(rate) for rate in windows):
        raise ValueError(f"windows of {contestant!r} is {list(windows)}, not a list of positive numbers")
    ratio = _typed(document, "ratio_to_ours", dict, None)
    return Row(
        stage,
        contestant,
        unit,
        settings,
        windows,
        Spread(*(_typed(ratio, key, float) for key in ("median", "min", "max"))) if ratio is not None else None,
        _typed(document, "figures", dict, {}),
        _typed(document, "cores_used", float, None),
        _typed(document, "threads", int, None),
        _typed(document, "versions", dict, {}),
    )


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _typed(document: Any, key: str, kind: type, default: Any = _ABSENT) -> Any:
    """``document[key]``, which must be of that kind; ``default`` where it is absent or null, if there is one."""
    if not isinstance(document, dict):
        raise ValueError(f"{document!r:.60} stands where an object should")
    value = document.get(key)
    if value is None and default is not _ABSENT:
        return default
    if isinstance(value, (kind, int) if kind is float else kind) and not isinstance(value, bool):
        return value
    raise ValueError(f"{key} is {value!r:.60}, not {kind.__name__}")
