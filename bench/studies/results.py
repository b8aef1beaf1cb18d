"""What the runs of a study found: read from their folders, to JSON and back, and summed up over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.runner.machine import hardware
from bench.runner.results import read_json, write_json
from bench.studies.runs import RECORD, Run
from bench.studies.studies import BASE

LEVEL = 0.95
ENOUGH = 3
"""Pairs for an interval: of two it is so wide (12.7 standard errors) that nothing would ever be found."""


@dataclass(frozen=True)
class Evaluation:
    """One look at the evaluation split."""

    epoch: float
    seconds: float
    """Time of the run's log until then, evaluations included; interruptions left out."""
    miou: float


@dataclass(frozen=True)
class RunResult:
    """What one variant with one seed found, finished or not."""

    variant: str
    seed: int
    finished: bool
    evaluations: tuple[Evaluation, ...]
    classes: dict[str, float | None]
    """IoU of each at the last evaluation; None for one that is nowhere."""
    seconds: float
    """Time of the log in all: from the first step to the last evaluation."""
    evaluating: float
    """Seconds of these that went into evaluations."""
    images_per_second: float | None
    """In training alone: median of the log's windows."""
    process_seconds: float | None
    """From start to end of its processes: with imports, compilation and the report. None: one was killed."""
    joules: float | None
    """Energy of the whole GPU in that time; None where nobody tells."""
    commits: tuple[str, ...]
    hardware: str
    failure: str | None = None
    """Why it ended early."""

    def __post_init__(self) -> None:
        if self.finished and not self.evaluations:
            raise ValueError(f"{self.variant} with seed {self.seed} is finished without an evaluation")

    @property
    def last(self) -> float:
        """mIoU of the last evaluation."""
        return self.evaluations[-1].miou

    @property
    def best(self) -> float:
        """Highest mIoU."""
        return max(evaluation.miou for evaluation in self.evaluations)

    def minutes_to(self, target: float) -> float:
        """Return the minutes until the first evaluation that reached a mIoU; inf: none did."""
        return next((e.seconds / 60 for e in self.evaluations if e.miou >= target), np.inf)


@dataclass(frozen=True)
class Difference:
    """A variant's to the base: the mean over seeds that both have, and its interval of :data:`LEVEL`."""

    mean: float
    low: float
    """NaN, as ``high``, with fewer than :data:`ENOUGH` pairs."""
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """better or worse, where the interval leaves out 0; else noise; or that there are too few seeds."""
        if self.n < ENOUGH:
            return f"{self.n} seed{'s' * (self.n != 1)}, too few to say"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "noise"


def difference(theirs: pd.Series, base: pd.Series) -> Difference | None:
    """Return theirs minus the base's, seed by seed (the index); None without a seed that both have.

    Student's interval for the mean of pairs: a seed decides the first weights and the order of the data of both, so
    what is easy about it is easy for both and cancels.
    """
    from scipy.stats import t  # takes more than a second to import

    pairs = (theirs - base).dropna()
    if pairs.empty:
        return None
    half = t.ppf((1 + LEVEL) / 2, len(pairs) - 1) * pairs.sem() if len(pairs) >= ENOUGH else np.nan
    return Difference(pairs.mean(), pairs.mean() - half, pairs.mean() + half, len(pairs))


@dataclass(frozen=True)
class StudyResults:
    """One study as far as it has come."""

    name: str
    question: str
    prediction: str
    targets: tuple[float, ...]
    flags: dict[str, str]
    """Variant → its flags; the base's are those of all."""
    data: str
    """Name and sizes of the set."""
    results: tuple[RunResult, ...]
    """The runs that have begun."""
    planned: int
    """Number of all runs."""

    def finished(self, variant: str | None = None) -> list[RunResult]:
        """Return the results that count."""
        return [result for result in self.results if result.finished and variant in (None, result.variant)]

    def runs(self) -> pd.DataFrame:
        """Return a row for each finished run: mIoU as fractions, times in minutes, energy in Wh, NaN where unknown."""
        rows = [
            {
                "variant": r.variant,
                "seed": r.seed,
                "last": r.last,
                "best": r.best,
                "minutes": r.seconds / 60,
                "evaluating": r.evaluating / 60,
                "process": (r.process_seconds or np.nan) / 60,
                "images_per_second": r.images_per_second or np.nan,
                "watt_hours": np.nan if r.joules is None else r.joules / 3600,
                **{f"to {100 * target:g} %": r.minutes_to(target) for target in self.targets},
            }
            for r in self.finished()
        ]
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """Return a row for every variant with a finished run, in the study's order: medians, but means of mIoU and Wh.

        Process and energy are NaN unless they are known of all runs. A run that never reaches a target counts as the
        longest.
        """
        runs = self.runs()
        if runs.empty:
            return runs
        groups = runs.drop(columns="seed").groupby("variant", sort=False)
        found = groups.median()
        found[["last", "best"]] = groups[["last", "best"]].mean()
        found[["last_std", "best_std"]] = groups[["last", "best"]].std()
        found["process"] = groups["process"].agg(lambda minutes: minutes.median(skipna=False))
        found["watt_hours"] = groups["watt_hours"].agg(lambda energy: energy.mean(skipna=False))
        found["seeds"] = groups.size()
        return found.loc[[variant for variant in self.flags if variant in found.index]]

    def difference(self, variant: str) -> Difference | None:
        """Return how far a variant's last mIoU is from the base's; None for the base itself."""
        if variant == BASE or self.runs().empty:
            return None
        last = self.runs().set_index(["variant", "seed"])["last"]
        base = last[BASE] if BASE in last.index else pd.Series(dtype=float)
        return difference(last[variant], base)

    def classes(self) -> pd.DataFrame:
        """Return the mean IoU of each class (rows) at the last evaluation of each variant (columns), NaN for none."""
        found = pd.DataFrame([{"variant": r.variant, **r.classes} for r in self.finished()])
        return found.groupby("variant", sort=False).mean().astype(float).T[self.summary().index]


def read_result(run: Run) -> RunResult | None:
    """Read a run's folder; None where nothing has begun."""
    record = run.read(RECORD)
    if not record:
        return None
    lines, sessions, environment = run.log(), record["sessions"], run.read("environment.json")
    scored = [line for line in lines if line["event"] == "eval" and line["miou"] is not None]
    rates = [line["images_per_second"] for line in lines if line["event"] == "train"]
    machines = dict.fromkeys(session["hardware"] for session in sessions if session.get("hardware"))
    return RunResult(
        variant=run.variant,
        seed=run.seed,
        finished=bool(record["finished"] and scored),
        evaluations=tuple(Evaluation(line["epoch"], line["seconds"], line["miou"]) for line in scored),
        classes=scored[-1]["classes"] if scored else {},
        seconds=lines[-1]["seconds"] if lines else 0.0,
        evaluating=sum(line["images"] / line["images_per_second"] for line in scored),
        images_per_second=statistics.median(rates) if rates else None,
        process_seconds=_total([session["seconds"] for session in sessions]),
        joules=_total([session["joules"] for session in sessions]),
        commits=tuple(dict.fromkeys(session["commit"] for session in sessions)),
        hardware=", then ".join(machines) or (hardware(environment) if environment else "unknown"),
        failure=record["failure"],
    )


def _total(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


@dataclass(frozen=True)
class Document:
    """What bench/accuracy.py writes."""

    environment: dict[str, str]
    studies: tuple[StudyResults, ...]


def write_studies(path: Path, environment: dict[str, str], studies: Sequence[StudyResults]) -> None:
    """Write JSON, whole or not at all."""
    fields: dict[str, Any] = {"environment": environment, "studies": [asdict(study) for study in studies]}
    write_json(path, fields)


def read_studies(path: Path) -> Document:
    """Read what :func:`write_studies` wrote; :class:`UserError` for anything else."""
    return read_json(path, Document, "studies of bench/accuracy.py", "write it anew with --json")
