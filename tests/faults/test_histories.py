"""A run's history is whole after any sequence of other settings, moves, files to begin with, stops and kills."""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from histories import Ended, Saved, Session, Trainings, chain
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from soak import HISTORIES
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from fastseg.deploy.model_card import describe
from fastseg.evaluation.scores import score
from fastseg.model import checkpoint
from fastseg.model.architectures import register_network
from fastseg.report.run_folder import Run, read_run
from own_parts import small_net
from runs import lines, weights

Tally = Callable[[str, int, int], None]
KIND = "other batches, ranks, epochs, rates, folders, files to begin with, stops and kills, in any order"
BLOCK = 25
"""Sequences of one test: several of pytest's processes share the many."""
MOMENTS = 90
"""About as many as a session has at most: those beyond it end by themselves."""

endings = st.one_of(
    st.just({}),
    st.integers(1, MOMENTS).map(lambda moment: {"stopped_at": moment}),
    st.integers(1, MOMENTS).map(lambda moment: {"killed_at": moment}),
    st.integers(1, MOMENTS).map(lambda moment: {"killed_at": moment}),
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "batch": st.sampled_from([2, 3, 4]),
        "ranks": st.sampled_from([1, 1, 1, 2]),
        "epochs": st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.0]),
        "lr": st.sampled_from([1e-6, 0.02, 0.5]),
        "ema": st.sampled_from([None, 0.9]),
        "eval_every": st.sampled_from([0.3, 0.5, 1.0, 2.0]),
        "save_every": st.sampled_from([0.2, 0.7, 1.0, 5.0]),
        "split": st.sampled_from(["val", "val", "val", "train"]),
    },
)


class Histories(RuleBasedStateMachine):
    """A run, its folder, and every checkpoint that was ever saved of it."""

    trainings: ClassVar[Trainings]
    shards: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="histories"))
        archive = self.folder / "archive"
        archive.mkdir()
        self.session = Session(str(self.shards), str(self.folder / "runs"), "run0", str(archive))
        self.saved: list[Saved] = []
        self.run, self.moves, self.begun = 0, 0, 0
        self.last: Saved | None = None
        """The run's own last checkpoint."""
        self.saved_by: Session | None = None
        """The session that saved the last checkpoint."""
        self.base: Saved | None = None
        """The checkpoint of another run that it began with."""
        self.killed = False

    @property
    def run_folder(self) -> Path:
        return Path(self.session.runs) / self.session.name

    @initialize(change=changes, ending=endings)
    def begins(self, change: dict[str, Any], ending: dict[str, int]) -> None:
        self.start(replace(self.session, **change), ending)

    @rule(change=changes, ending=endings)
    def goes_on_otherwise(self, change: dict[str, Any], ending: dict[str, int]) -> None:
        resume = "changed" if self.last or not self.base else str(self.base.path)
        self.start(replace(self.session, **change, resume=resume), ending)

    @rule(ending=endings, data=st.data())
    def goes_on(self, ending: dict[str, int], data: st.DataObject) -> None:
        """By the same command, or without naming the file again that the run has begun with."""
        # Not auto: a session that ended before it saved has left a checkpoint of other settings.
        file = str(self.base.path) if self.base else "changed"
        resume = data.draw(st.sampled_from([file, "changed"])) if self.last else file
        self.start(replace(self.session, resume=resume), ending)

    @rule()
    def moves_away(self) -> None:
        self.moves += 1
        new = replace(self.session, runs=str(self.folder / f"moved{self.moves}"), name=f"moved{self.moves}")
        if self.run_folder.exists():
            Path(new.runs).mkdir()
            self.run_folder.rename(Path(new.runs) / new.name)
        self.session = new

    @precondition(lambda self: self.saved)
    @rule(change=changes, ending=endings, data=st.data())
    def begins_with_a_file(self, change: dict[str, Any], ending: dict[str, int], data: st.DataObject) -> None:
        base = data.draw(st.sampled_from(self.saved))
        before = self.session, self.last, self.base, self.run, self.killed
        self.last, self.base, self.run = None, base, max(saved.run for saved in self.saved) + 1
        self.begun += 1  # a session killed before it saved anything has left its folder
        name = f"run{self.begun}"
        ended = self.start(replace(self.session, **change, name=name, resume=str(base.path)), ending)
        if ended.codes[0] == 2:  # it is past the epochs asked for
            assert not self.run_folder.exists()
            self.session, self.last, self.base, self.run, self.killed = before

    @precondition(lambda self: self.last and len(self.saved) > 1)
    @rule(data=st.data())
    def another_file_is_refused(self, data: st.DataObject) -> None:
        """It would drop what the run has done."""
        other = data.draw(st.sampled_from([saved for saved in self.saved if saved is not self.base]))
        ended = self.trainings.run(replace(self.session, resume=str(other.path)))
        assert ended.codes[0] == 2, ended.output
        assert "has a checkpoint of its own" in ended.output

    def start(self, session: Session, ending: dict[str, int]) -> Ended:
        """Run a session and take note of what it has saved; check the folder unless it was killed."""
        self.session = session
        before = self.records()
        was_killed = self.killed
        ended = self.trainings.run(replace(session, **ending))
        self.killed = min(ended.codes) < 0  # by SIGTERM too, before the training takes it
        assert self.killed or set(ended.codes) <= {0, 2, 143}, ended.output
        if ended.codes[0] == 2:
            fewer = "these settings ask for" in ended.output  # fewer epochs than are done
            assert fewer or self.unconfirmed("was trained with other settings" in ended.output), ended.output
            assert self.records() == before
            self.killed = was_killed
            return ended
        for path in sorted(Path(session.archive).iterdir())[len(self.saved) :]:
            self.last = self.read(path, self.last or self.base)
            self.saved.append(self.last)
            self.saved_by = session
        if not self.killed:
            check_folder(self.run_folder, list(chain(self.last))[::-1], self.base)
        return ended

    def unconfirmed(self, refused: bool) -> bool:
        """Return whether a session is refused as it should: its settings are not those of the last checkpoint."""
        about = {"resume": "", "runs": "", "name": "", "stopped_at": 0, "killed_at": 0}
        same = self.saved_by and replace(self.session, **about) == replace(self.saved_by, **about)
        return refused and self.session.resume != "changed" and not same

    def read(self, path: Path, parent: Saved | None) -> Saved:
        document = weights(path)
        found = document["score"]
        return Saved(
            path=path,
            run=self.run,
            parent=parent,
            step=document["step"],
            epoch=document["epoch"],
            images_seen=document["images_seen"],
            miou=found["miou"] if found else None,
            evaluated=bool(found),
            split=found["split"] if found else "",
        )

    def records(self) -> dict[str, bytes]:
        paths = (self.run_folder / "metrics.jsonl", *self.run_folder.glob("checkpoints/*.pt"))
        return {path.name: path.read_bytes() for path in paths if path.exists()}

    def teardown(self) -> None:
        """End the run and compare its scores with fastseg-eval's."""
        try:
            if self.killed:
                self.goes_on_otherwise({"epochs": 4.0}, {})
            evaluated = [saved for saved in chain(self.last) if saved.evaluated]
            for split in {saved.split for saved in evaluated}:
                some = [saved for saved in evaluated if saved.split == split][:3]
                scores = self.trainings.score(str(self.shards), split, [saved.path for saved in some])
                for saved in some:
                    assert scores[str(saved.path)] == pytest.approx(saved.miou, abs=1e-6)
        finally:
            shutil.rmtree(self.folder)


def check_folder(folder: Path, history: list[Saved], base: Saved | None) -> None:
    """Check that every record of a run's folder is that of ``history``, its checkpoints from the first one on."""
    evaluated = [saved for saved in history if saved.evaluated]
    trained, evaluations = lines(folder, "train"), lines(folder, "eval")
    check_growth(trained, history, base)
    expected = [(saved.step, saved.epoch, saved.images_seen, saved.split, saved.miou) for saved in evaluated]
    names = ("step", "epoch", "images_seen", "split", "miou")
    assert [tuple(line[name] for name in names) for line in evaluations] == expected
    run = read_run(folder)
    assert run.evaluations == evaluations
    assert run.train == trained
    check_best(folder, run, evaluated)
    check_board(folder, trained, evaluations)
    if (folder / "confusion.json").exists():
        matrix = np.array(json.loads((folder / "confusion.json").read_text())["matrix"])
        miou = score(matrix, run.classes).miou
        assert (miou if math.isfinite(miou) else None) == evaluations[-1]["miou"]
        assert run.gallery


def check_growth(trained: list[dict], history: list[Saved], base: Saved | None) -> None:
    """Each step once, and epochs and images seen grow with each."""
    begun, last = base.step if base else 0, history[-1].step if history else 0
    assert [line["step"] for line in trained] == list(range(begun + 1, last + 1))
    for one, other in pairwise(trained):
        assert one["epoch"] < other["epoch"]
        assert one["images_seen"] < other["images_seen"]
    if trained:
        ends = [(line["epoch"], line["images_seen"]) for line in (trained[0], trained[-1])]
        assert ends[1] == (history[-1].epoch, history[-1].images_seen)
        assert ends[0] > ((base.epoch, base.images_seen) if base else (0.0, 0))


def check_best(folder: Path, run: Run, evaluated: list[Saved]) -> None:
    """The best checkpoint is that of the highest score on the split evaluated last, for file, report and card alike."""
    path = folder / "checkpoints" / "best.pt"
    assert path.exists() == bool(evaluated)
    if not evaluated:
        return
    same = list(takewhile(lambda saved: saved.split == evaluated[-1].split, reversed(evaluated)))[::-1]
    best = max(same, key=lambda saved: -1.0 if saved.miou is None else saved.miou)
    assert path.read_bytes() == best.path.read_bytes()
    assert (run.best["step"], run.best["miou"]) == (best.step, best.miou)
    card = describe(checkpoint.load(path), path)
    assert (card.step, card.epochs, card.score) == (best.step, best.epoch, best.miou)


def check_board(folder: Path, trained: list[dict], evaluations: list[dict]) -> None:
    """TensorBoard shows the same."""
    board = folder / "tensorboard"
    files = sorted(board.iterdir(), key=lambda path: next(iter(EventFileLoader(str(path)).Load())).wall_time)
    # Its files are read by their names, in which runs of one second have no order; one that holds them all has.
    with tempfile.NamedTemporaryFile(prefix="events.out.tfevents.") as whole:
        for path in files:
            whole.write(path.read_bytes())
        whole.flush()
        shown = EventAccumulator(whole.name).Reload()
    tags = shown.Tags()["scalars"]
    for tag, key, records in (("train/loss", "loss", trained), ("val/miou", "miou", evaluations)):
        found = [(event.step, event.value) for event in shown.Scalars(tag)] if tag in tags else []
        known = [(line["step"], np.float32(line[key])) for line in records if line[key] is not None]
        assert [pair for pair in found if math.isfinite(pair[1])] == known


@pytest.fixture(scope="module")
def trainings() -> Iterator[Trainings]:
    register_network("small", small_net)
    trainings = Trainings()
    yield trainings
    trainings.close()


def run_histories(trainings: Trainings, shards: Path, number: int, steps: int, start: int) -> int:
    """Run so many sequences, drawn from the seed ``start``, and return how many there were."""
    Histories.trainings, Histories.shards = trainings, shards
    begun = 0
    begin = Histories.__init__

    @seed(start)
    class Counted(Histories):
        def __init__(self) -> None:
            nonlocal begun
            begun += 1
            begin(self)

    options = settings(
        max_examples=number,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        print_blob=True,
    )
    run_state_machine_as_test(Counted, settings=options)
    return begun


def test_some_histories(trainings: Trainings, shards: Path, tally: Tally) -> None:
    number = run_histories(trainings, shards, 3, 4, start=0)
    tally(KIND, number, number)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1, math.ceil(HISTORIES / BLOCK) + 1))
def test_many_histories(trainings: Trainings, shards: Path, tally: Tally, block: int) -> None:
    number = run_histories(trainings, shards, min(HISTORIES, BLOCK), 6, start=block)
    tally(KIND, number, number)
