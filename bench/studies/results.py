"""Results of a study's runs: read from their folders, as JSON, and summarized over seeds."""

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
from fastseg.report.run_folder import read_run

LEVEL = 0.95
ENOUGH = 3
"""Minimum pairs for an interval: with two it would be too wide (12.7 standard errors) for any result."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run."""

    epoch: float
    seconds: float
    """Seconds of the run's log until then, with evaluations, without interruptions."""
    miou: float


@dataclass(frozen=True)
class RunResult:
    """Result of one variant with one seed, finished or not."""

    variant: str
    seed: int
    finished: bool
    evaluations: tuple[Evaluation, ...]
    classes: dict[str, float | None]
    """IoU of each class at the last evaluation; None for a class that does not occur."""
    seconds: float
    """Seconds of the log, from the first step to the last evaluation."""
    evaluating: float
    """Seconds of these spent in evaluations."""
    images_per_second: float | None
    """Speed in training alone: median of the log's windows."""
    process_seconds: float | None
    """Seconds from start to end of its processes, with imports, compilation and report; None if one was killed."""
    joules: float | None
    """Energy of the whole GPU in that time; None if unknown."""
    commits: tuple[str, ...]
    hardware: str
    failure: str | None = None
    """Reason why it ended early."""

    def __post_init__(self) -> None:
        if self.finished and not self.evaluations:
            raise ValueError(f"{self.variant} with seed {self.seed} is finished without an evaluation")

    @property
    def last(self) -> float:
        """Return the mIoU of the last evaluation."""
        return self.evaluations[-1].miou

    @property
    def best(self) -> float:
        """Return the highest mIoU."""
        return max(evaluation.miou for evaluation in self.evaluations)

    def minutes_to(self, target: float) -> float:
        """Return the minutes until the first evaluation that reached a mIoU; infinity if none did."""
        return next((e.seconds / 60 for e in self.evaluations if e.miou >= target), np.inf)


@dataclass(frozen=True)
class Difference:
    """Difference of a variant from the base: the mean over their common seeds, and its interval of :data:`LEVEL`."""

    mean: float
    low: float
    """Lower end of the interval; NaN, as ``high``, with fewer than :data:`ENOUGH` pairs."""
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """Return better or worse if the interval excludes 0, else noise, or that there are too few seeds."""
        if self.n < ENOUGH:
            return f"{self.n} seed{'s' * (self.n != 1)}, too few to say"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "noise"


def difference(theirs: pd.Series, base: pd.Series) -> Difference | None:
    """Return theirs minus the base's, seed by seed (the index); None without a common seed.

    Student's interval for the mean of pairs: a seed decides the initial weights and the order of the data of both, so
    its luck cancels.
    """
    from scipy.stats import t  # takes more than a second to import

    pairs = (theirs - base).dropna()
    if pairs.empty:
        return None
    half = t.ppf((1 + LEVEL) / 2, len(pairs) - 1) * pairs.sem() if len(pairs) >= ENOUGH else np.nan
    return Difference(pairs.mean(), pairs.mean() - half, pairs.mean() + half, len(pairs))


@dataclass(frozen=True)
class StudyResults:
    """One study so far."""

    name: str
    question: str
    prediction: str
    targets: tuple[float, ...]
    flags: dict[str, str]
    """Variant → its flags; the base's apply to all."""
    data: str
    """Name and sizes of the data set."""
    results: tuple[RunResult, ...]
    """Results of the runs that have begun."""
    planned: int
    """Number of all planned runs."""

    def finished(self, variant: str | None = None) -> list[RunResult]:
        """Return the results of finished runs."""
        return [result for result in self.results if result.finished and variant in (None, result.variant)]

    def runs(self) -> pd.DataFrame:
        """Return a row for each finished run: mIoU as fractions, times in minutes, energy in Wh, NaN if unknown."""
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

        Process and energy are NaN unless known for all runs. A run that never reaches a target counts as the longest.
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
        """Return the difference of a variant's last mIoU from the base's; None for the base itself."""
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
    """Read a run's folder; return None if it has not begun."""
    record = run.read(RECORD)
    return result_of(run.folder, run.variant, run.seed, record) if record else None


def result_of(folder: Path, variant: str, seed: int, record: dict[str, Any]) -> RunResult:
    """Return the result in a run's folder; ``record``: what bench/accuracy.py notes of its processes."""
    found, sessions = read_run(folder), record["sessions"]
    scored = [line for line in found.evaluations if line["miou"] is not None]
    rates = [line["images_per_second_per_gpu"] for line in found.train]
    machines = dict.fromkeys(session["hardware"] for session in sessions if session.get("hardware"))
    return RunResult(
        variant=variant,
        seed=seed,
        finished=bool(record["finished"] and scored),
        evaluations=tuple(Evaluation(line["epoch"], line["seconds"], line["miou"]) for line in scored),
        classes=scored[-1]["classes"] if scored else {},
        seconds=max((line["seconds"] for line in (*found.train, *found.evaluations)), default=0.0),
        evaluating=sum(line["images"] / line["images_per_second"] for line in scored),
        images_per_second=statistics.median(rates) if rates else None,
        process_seconds=_total([session["seconds"] for session in sessions]),
        joules=_total([session["joules"] for session in sessions]),
        commits=tuple(dict.fromkeys(session["commit"] for session in sessions)),
        hardware=", then ".join(machines) or (hardware(found.environment) if found.environment else "unknown"),
        failure=record["failure"],
    )


def _total(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


@dataclass(frozen=True)
class Document:
    """The JSON document of bench/accuracy.py."""

    environment: dict[str, str]
    studies: tuple[StudyResults, ...]


def write_studies(path: Path, environment: dict[str, str], studies: Sequence[StudyResults]) -> None:
    """Write JSON, whole or not at all."""
    fields: dict[str, Any] = {"environment": environment, "studies": [asdict(study) for study in studies]}
    write_json(path, fields)


def read_studies(path: Path) -> Document:
    """Read a file of :func:`write_studies`; raise :class:`UserError` for anything else."""
    return read_json(path, Document, "studies of bench/accuracy.py", "write it anew with --json")
