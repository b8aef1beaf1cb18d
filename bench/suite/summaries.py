"""The outcomes of a study, variant by variant: means over seeds, the difference to the base, minutes to marks."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.suite.outcomes import Outcome, outcome_from_json
from bench.suite.paired import Difference, Mean, difference, mean_of
from bench.suite.studies import BASE
from fastseg.errors import UserError
from fastseg.files import write_atomic


@dataclass(frozen=True)
class Reached:
    """A mark, and how long it took."""

    mark: float
    minutes: float | None
    """Median over seeds, one that never reached it counting as the longest; None: half of them or more did not."""
    seeds: int
    """How many reached it."""


@dataclass(frozen=True)
class Summary:
    """One variant, over the seeds that were finished."""

    variant: str
    seeds: tuple[int, ...]
    final: Mean
    """mIoU of the last evaluation, a fraction."""
    best: Mean
    """The highest of each run: picked on the images that it is measured on, so a little too high."""
    classes: dict[str, float | None]
    """Mean IoU of each at the last evaluation."""
    minutes: float
    """Median, from the first step to the last evaluation, evaluations included."""
    process: float | None
    """Minutes with imports, compilation and the report, median; None: not known of all."""
    evaluating: float
    """Of ``minutes``, in evaluations, median."""
    images_per_second: float | None
    reached: tuple[Reached, ...]
    watt_hours: float | None
    """Mean of a run, from start to end of its process; None: not told for all."""
    difference: Difference | None
    """Of the final mIoU to the base's; None for the base itself."""


@dataclass(frozen=True)
class Findings:
    """One study as far as it has come."""

    name: str
    question: str
    prediction: str
    marks: tuple[float, ...]
    flags: dict[str, str]
    """Variant → its flags; the base's are those of all."""
    data: str
    """Name and sizes of the set."""
    outcomes: tuple[Outcome, ...]
    planned: int
    """Runs, of which ``outcomes`` are those that have begun."""

    def finished(self, variant: str | None = None) -> list[Outcome]:
        """The outcomes that count."""
        return [o for o in self.outcomes if o.finished and variant in (None, o.variant)]

    def summaries(self) -> list[Summary]:
        """Of every variant with a finished run, in the study's order."""
        base = {outcome.seed: outcome.final for outcome in self.finished(BASE)}
        return [
            summary(found, self.marks, None if variant == BASE else base)
            for variant in self.flags
            if (found := self.finished(variant))
        ]

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings, lists and None; the summaries too, for other readers than this file."""
        verdicts = [asdict(s) | {"verdict": s.difference.verdict if s.difference else None} for s in self.summaries()]
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "outcomes"}
        return own | {
            "marks": list(self.marks),
            "summaries": verdicts,
            "outcomes": [o.to_json() for o in self.outcomes],
        }


def summary(found: Sequence[Outcome], marks: Sequence[float], base: dict[int, float] | None) -> Summary:
    """Of one variant's finished outcomes. ``base``: seed → final mIoU of what it is compared with."""
    rates = [o.images_per_second for o in found if o.images_per_second is not None]
    processes = [o.process_seconds / 60 for o in found if o.process_seconds is not None]
    joules = [o.joules for o in found if o.joules is not None]
    return Summary(
        variant=found[0].variant,
        seeds=tuple(outcome.seed for outcome in found),
        final=mean_of([outcome.final for outcome in found]),
        best=mean_of([outcome.best for outcome in found]),
        classes=_mean_classes(found),
        minutes=_median(found, lambda outcome: outcome.seconds / 60),
        process=statistics.median(processes) if len(processes) == len(found) else None,
        evaluating=_median(found, lambda outcome: outcome.evaluating / 60),
        images_per_second=statistics.median(rates) if rates else None,
        reached=tuple(_reached(found, mark) for mark in marks),
        watt_hours=statistics.fmean(joules) / 3600 if len(joules) == len(found) else None,
        difference=difference({o.seed: o.final for o in found}, base) if base is not None else None,
    )


def _median(found: Sequence[Outcome], value: Callable[[Outcome], float]) -> float:
    return statistics.median(map(value, found))


def _mean_classes(found: Sequence[Outcome]) -> dict[str, float | None]:
    columns = {name: [outcome.classes.get(name) for outcome in found] for name in found[0].classes}
    known = {name: [value for value in values if value is not None] for name, values in columns.items()}
    return {name: statistics.fmean(values) if values else None for name, values in known.items()}


def _reached(found: Sequence[Outcome], mark: float) -> Reached:
    minutes = [outcome.minutes_to(mark) for outcome in found]
    # The upper one of two in the middle: half a run that never arrives is none.
    middle = statistics.median_high([math.inf if m is None else m for m in minutes])
    known = [m for m in minutes if m is not None]
    exact = statistics.median(known) if len(known) == len(minutes) else middle
    return Reached(mark, exact if math.isfinite(exact) else None, len(known))


def write_findings(path: Path, environment: dict[str, str], findings: Sequence[Findings]) -> None:
    """To JSON, whole or not at all."""
    document = {"environment": environment, "studies": [found.to_json() for found in findings]}
    write_atomic(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read_findings(path: Path) -> tuple[dict[str, str], list[Findings]]:
    """Environment and studies that :func:`write_findings` wrote; :class:`UserError` for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return dict(document["environment"]), [_findings(study) for study in document["studies"]]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name a file that --json wrote") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no studies of bench/accuracy.py ({type(error).__name__}: {error}); write it anew with --json"
        ) from None


def _findings(document: dict[str, Any]) -> Findings:
    fields = {name: document[name] for name in Findings.__dataclass_fields__}
    outcomes = tuple(map(outcome_from_json, document["outcomes"]))
    return Findings(**{**fields, "marks": tuple(map(float, document["marks"])), "outcomes": outcomes})
