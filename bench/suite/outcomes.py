"""What one run of a study found, read from its folder; to JSON and back."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.suite.marks import hardware
from bench.suite.trials import Trial, read_record


class Evaluation(NamedTuple):
    """One look at the evaluation split."""

    epoch: float
    seconds: float
    """Of the run's log until then, evaluations included; interruptions left out."""
    miou: float


@dataclass(frozen=True)
class Outcome:
    """One variant with one seed, finished or not."""

    variant: str
    seed: int
    finished: bool
    evaluations: tuple[Evaluation, ...]
    classes: dict[str, float | None]
    """IoU of each at the last evaluation; None for one that is nowhere."""
    seconds: float
    """Of the log in all: from the first step to the last evaluation."""
    evaluating: float
    """Seconds of these that went into evaluations."""
    images_per_second: float | None
    """In training alone: median of the log's windows."""
    process_seconds: float | None
    """From start to end of its processes: with imports, compilation and the report. None: one was killed."""
    joules: float | None
    """Of the whole GPU in that time; None where nobody tells."""
    commits: tuple[str, ...]
    hardware: str
    failure: str | None = None
    """Why it ended early."""

    @property
    def final(self) -> float:
        """mIoU of the last evaluation."""
        return self.evaluations[-1].miou

    @property
    def best(self) -> float:
        """Highest mIoU."""
        return max(evaluation.miou for evaluation in self.evaluations)

    def minutes_to(self, mark: float) -> float | None:
        """Until the first evaluation that reached a mIoU; None: none did."""
        return next((e.seconds / 60 for e in self.evaluations if e.miou >= mark), None)

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings, lists and None."""
        return asdict(self) | {"evaluations": [evaluation._asdict() for evaluation in self.evaluations]}


def outcome_from_json(document: dict[str, Any]) -> Outcome:
    """What :meth:`Outcome.to_json` gave; TypeError, KeyError or ValueError for anything else."""
    evaluations = tuple(
        Evaluation(float(e["epoch"]), float(e["seconds"]), float(e["miou"])) for e in document["evaluations"]
    )
    commits = tuple(map(str, document["commits"]))
    outcome = Outcome(**{**document, "evaluations": evaluations, "commits": commits})
    if outcome.finished and not evaluations:
        raise ValueError(f"{outcome.variant} with seed {outcome.seed} is finished without an evaluation")
    return outcome


def read_outcome(trial: Trial) -> Outcome | None:
    """From a run's folder; None where nothing has begun."""
    record = read_record(trial)
    if not record:
        return None
    lines = log_lines(trial.folder / "metrics.jsonl")
    scored = [line for line in lines if line["event"] == "eval" and line["miou"] is not None]
    rates = [line["images_per_second"] for line in lines if line["event"] == "train"]
    sittings = record["sittings"]
    return Outcome(
        variant=trial.variant,
        seed=trial.seed,
        finished=bool(record["finished"] and scored),
        evaluations=tuple(Evaluation(line["epoch"], line["seconds"], line["miou"]) for line in scored),
        classes=scored[-1]["classes"] if scored else {},
        seconds=lines[-1]["seconds"] if lines else 0.0,
        evaluating=sum(line["images"] / line["images_per_second"] for line in scored),
        images_per_second=statistics.median(rates) if rates else None,
        process_seconds=_total([sitting["seconds"] for sitting in sittings]),
        joules=_total([sitting["joules"] for sitting in sittings]),
        commits=tuple(dict.fromkeys(sitting["commit"] for sitting in sittings)),
        hardware=", then ".join(dict.fromkeys(s["hardware"] for s in sittings if s.get("hardware")))
        or hardware_of(trial),
        failure=record["failure"],
    )


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line that is being written is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _total(numbers: list[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def read_environment(trial: Trial) -> dict[str, str]:
    """Versions and hardware that a run wrote down when it was last started; empty where it has not begun."""
    path = trial.folder / "environment.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def hardware_of(trial: Trial) -> str:
    """The GPUs, or the processor, of the last start."""
    environment = read_environment(trial)
    return hardware(environment) if environment else "unknown"
