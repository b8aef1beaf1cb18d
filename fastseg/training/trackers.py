"""Send the numbers of metrics.jsonl to an experiment tracker: Weights & Biases or MLflow."""

import importlib.util
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from fastseg.errors import UserError
from fastseg.files import write_atomic
from fastseg.report.run_folder import scalar_name
from fastseg.training.callbacks import Callback, StepEvaluation

PROJECT = "fastseg"
"""Name of the project at W&B, of the experiment at MLflow."""
FILE = "tracker.json"
"""File in the run's folder that names the tracker's run, so that a resumed training continues it."""
CLOSING = 60.0
"""Seconds that a tracker may take to send the rest when the training ends."""


class Tracker(Protocol):
    """One run at a tracker; every method may raise what its library raises."""

    id: str
    where: str
    """Address or folder, for the user."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record finite numbers of a step."""

    def spell(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return each name as the library accepts it; different names stay different."""

    def close(self, finished: bool) -> None:
        """End the run there; ``finished`` says whether the training reached its end."""


class WandB:
    """A run at Weights & Biases; with WANDB_MODE=offline it stays in the run's folder."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], id: str | None, note: str) -> None:
        """Begin a run of this name and with this note, or continue the run ``id``."""
        import wandb

        online = os.environ.get("WANDB_MODE", "online") == "online"
        if online and not wandb.login(prompt=False):
            raise RuntimeError("no account is logged in; use 'wandb login' or set WANDB_MODE=offline")
        # Silent, and without capturing the console, which the training uses.
        settings = wandb.Settings(console="off", silent=True)
        self._run = wandb.init(
            project=PROJECT,
            name=name,
            notes=note or None,
            config=dict(config),
            dir=str(folder),
            id=id,
            resume="allow" if id and online else None,
            settings=settings,
        )
        # A resumed training repeats steps, which W&B's own counter refuses, so the step is a value like others.
        self._run.define_metric("*", step_metric="step")
        self.id = self._run.id
        self.where = str((online and self._run.url) or Path(self._run.dir).parent)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record finite numbers of a step."""
        self._run.log({"step": step, **values})

    def spell(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return them unchanged."""
        return {name: name for name in names}

    def close(self, finished: bool) -> None:
        """End the run there."""
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run at MLflow: at MLFLOW_TRACKING_URI, or in the folder ``mlruns`` beside the run's."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], id: str | None, note: str) -> None:
        """Begin a run of this name and with this note, or continue the run ``id``."""
        # MLflow wants a database in place of a folder, but its small package cannot open one.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self.where = os.environ.get("MLFLOW_TRACKING_URI") or (folder.parent / "mlruns").resolve().as_uri()
        self._client = mlflow.MlflowClient(tracking_uri=self.where)
        if id:
            self._client.update_run(id, status="RUNNING")
            self.id = id
            return
        experiment = self._client.get_experiment_by_name(PROJECT)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        tags = {"mlflow.note.content": note} if note else None
        self.id = self._client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
        settings = [Param(key, str(value)) for key, value in _flatten(config)]
        self._client.log_batch(self.id, params=settings)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record finite numbers of a step."""
        now = int(1000 * time.time())
        self._client.log_batch(self.id, metrics=[self._metric(name, v, now, step) for name, v in values.items()])

    def spell(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return paths of a kind and one part with allowed characters; number those that become equal."""
        spelled: dict[str, str] = {}
        for name in names:
            plain, number = _path(name), 1
            while plain in spelled.values():
                number += 1
                plain = f"{_path(name)} {number}"
            spelled[name] = plain
        return spelled

    def close(self, finished: bool) -> None:
        """End the run there."""
        self._client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


KINDS: dict[str, tuple[type[WandB] | type[MLflow], str]] = {"wandb": (WandB, "wandb"), "mlflow": (MLflow, "mlflow")}
"""Class and package (also the extra that installs it) by the value of ``--tracker``."""


def check_tracker(kind: str) -> None:
    """Raise :class:`UserError` if this tracker's library is not installed; ``none`` needs none."""
    if kind not in KINDS:
        return
    package = KINDS[kind][1]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:  # None: a mere folder of that name, such as wandb leaves behind
        raise UserError(f"--tracker {kind} needs {package}; install it with: pip install 'fastseg-deeplab[{package}]'")


def open_tracking(
    kind: str, folder: Path, config: Mapping[str, Any], step: int, say: Callable[[str], None], dropped: bool = False
) -> "list[Tracking]":
    """Begin a run at the tracker ``kind``, or continue that of ``folder`` after step ``step``; nothing for ``none``.

    If ``dropped`` points of later steps are at the tracker, which removes none, a new run begins that names the old
    one, so that no run there mixes two histories. Raises :class:`UserError` if a new training cannot reach its tracker.
    A resumed one then continues without.
    """
    if kind not in KINDS:
        return []
    known, name, note = _known_id(folder / FILE, kind) if step else None, folder.name, ""
    if known and dropped:
        note = f"continues the run {known} after its step {step}; later points there are of a history that was dropped"
        known, name = None, f"{folder.name} from step {step}"
    try:
        tracker = KINDS[kind][0](folder, name, config, known, note)
    except Exception as error:  # whatever the library raises
        reason = f"--tracker {kind} cannot begin ({_short(error)})"
        if not step:
            raise UserError(f"{reason}; fix that, or leave it out with --tracker none") from None
        say(f"{reason}; training continues without it, metrics.jsonl has everything")
        return []
    write_atomic(folder / FILE, json.dumps({"tracker": kind, "id": tracker.id, "where": tracker.where}) + "\n")
    say(f"{kind} follows the run: {tracker.where}{f' ({note})' if note else ''}")
    return [Tracking(kind, tracker, say)]


class Tracking(Callback):
    """Send numbers to a tracker in a separate thread, so that a slow or failing one never delays the training."""

    def __init__(self, kind: str, tracker: Tracker, say: Callable[[str], None]) -> None:
        self._kind, self._tracker, self._say = kind, tracker, say
        self._queue: SimpleQueue[tuple[int, dict[str, float]] | bool] = SimpleQueue()
        self._thread = Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def on_log(self, record: Mapping[str, float]) -> None:
        """Send a line of metrics.jsonl."""
        self._send("train", int(record["step"]), record)

    def on_evaluation(self, evaluation: StepEvaluation) -> None:
        """Send the scores, and every class's IoU."""
        record = evaluation.record()
        ious = {f"iou/{name}": math.nan if v is None else v for name, v in record["classes"].items()}
        self._send("eval", evaluation.step, record, ious)

    def _send(self, event: str, step: int, record: Mapping[str, Any], more: Mapping[str, float] | None = None) -> None:
        """Send those numbers of a record that are finite."""
        values = {scalar_name(event, k): v for k, v in record.items() if isinstance(v, int | float) and k != "step"}
        values |= more or {}
        names = self._tracker.spell(values)  # of all names: one must not depend on which others have a score
        self._queue.put((step, {names[name]: float(v) for name, v in values.items() if math.isfinite(v)}))

    def on_end(self, finished: bool) -> None:
        """Send the rest, for at most :data:`CLOSING` seconds."""
        self._queue.put(finished)
        self._thread.join(CLOSING)
        if self._thread.is_alive():
            self._say(f"{self._kind} has not taken everything within {CLOSING:.0f} s; metrics.jsonl has it")

    def _work(self) -> None:
        try:
            while not isinstance(item := self._queue.get(), bool):
                self._tracker.log(*item)
            self._tracker.close(item)
        except Exception as error:  # whatever the library raises: the training matters more
            self._say(f"{self._kind} failed ({_short(error)}); training continues, metrics.jsonl has everything")


def _known_id(path: Path, kind: str) -> str | None:
    """Return the id of the tracker's run that this folder began, if there is one of the same kind."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return str(document["id"]) if document["tracker"] == kind else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(name: str) -> str:
    """Return ``iou/a_b`` for ``iou/a/b``, because MLflow makes paths of names and allows few characters."""
    kind, _, rest = name.partition("/")
    plain = re.sub(r"[^\w. -]", "_", rest)
    return f"{kind}/{plain}" if plain.strip(". ") else f"{kind}/_"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
