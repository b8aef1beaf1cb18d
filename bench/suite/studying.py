"""All runs of some studies, one after the other, with a bar over them."""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.suite.outcomes import read_outcome
from bench.suite.sittings import finished, guarded, train
from bench.suite.trials import Trial
from fastseg.errors import UserError
from fastseg.progress import show_progress


def train_all(plans: dict[str, list[Trial]], runs: Path) -> int:
    """Study after study. Returns 0, or the exit code that says how it was interrupted."""
    try:
        with _alone(runs), guarded() as mark:
            for name, trials in plans.items():
                train_study(name, trials, mark)
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def train_study(name: str, trials: Sequence[Trial], mark: str) -> None:
    """All runs that are not finished, one after the other; a line for each, and a bar over the images of all."""
    total = sum(trial.work for trial in trials)
    with show_progress(name, "images") as progress:
        done = sum(trial.work for trial in trials if finished(trial))
        progress(done, total)
        for place, trial in enumerate(trials, 1):
            if finished(trial):
                continue

            def tell(epochs: float, before: int = done, trial: Trial = trial) -> None:
                # The last image is the last evaluation and the report.
                progress(before + min(round(epochs * trial.images), trial.work - 1), total)

            train(trial, mark, tell)
            done += trial.work
            progress(done, total)
            print(f"{place} of {len(trials)}: {_told(trial)}", flush=True)


def _told(trial: Trial) -> str:
    outcome = read_outcome(trial)
    assert outcome is not None
    if outcome.failure:
        return f"{trial.label} failed: {outcome.failure}"
    if not outcome.evaluations:
        return f"{trial.label}: its evaluation split has nothing that can be scored"
    return f"{trial.label}: mIoU {100 * outcome.final:.1f} % after {outcome.seconds / 60:.1f} min"


@contextmanager
def _alone(runs: Path) -> Iterator[None]:
    """Two at once would train into the same folders."""
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another bench/accuracy.py is training into {runs}; wait for it, or name another folder with --runs"
            ) from None
        yield
