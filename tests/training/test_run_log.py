"""What a run leaves in its folder, and what a resumed one does with it."""

import errno
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evaluations import evaluation
from fastseg.evaluation.metrics import Sample
from fastseg.labels import cityscapes
from fastseg.training.run_log import RunLog

CLASSES = cityscapes().classes
MATRIX = np.eye(19, dtype=np.int64)
SAMPLE = Sample(
    iou=0.25,
    index=0,
    image=np.zeros((4, 6, 3), np.uint8),
    label=np.zeros((4, 6), np.uint8),
    prediction=np.zeros((4, 6), np.uint8),
)
NUMBERS = {
    "epoch": 0.5,
    "loss": 1.5,
    "lr": 0.1,
    "images_per_second_per_gpu": 3.0,
    "tflops": 0.25,
    "waiting": 0.01,
    "memory": 2.0**30,
}


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_records_and_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path, {"config": {"a": 1}}, 0, 20) as log:
        log.on_log({"step": 10, **NUMBERS})
        log.on_log({"step": 20, **NUMBERS, "loss": math.nan})
        log.on_evaluation(
            evaluation(20, {"road": 0.25, "bus": None}, frames=[SAMPLE], keys=["a"], matrix=MATRIX, classes=CLASSES)
        )
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 1}
    first, second, scores = records(tmp_path)
    assert (first["event"], first["step"], first["loss"]) == ("train", 10, 1.5)
    assert second["loss"] is None
    assert scores["classes"] == {"road": 0.25, "bus": None}
    assert first["seconds"] <= scores["seconds"]
    assert (
        "step 10/20 · epoch 0.5/1 · loss 1.500 · lr 0.1 · 3.0 img/s · 0.25 TFLOP/s · waiting 1 %"
        in capsys.readouterr().err
    )
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("val/miou")] == [0.25]
    assert [event.step for event in board.Scalars("train/loss")][:1] == [10]
    assert board.Scalars("iou/road")[0].value == 0.25
    assert len(board.Images("worst frames/1")) == 1
    assert [image.step for image in board.Images("confusion/matrix")] == [20]
    assert json.loads((tmp_path / "confusion.json").read_text())["matrix"] == MATRIX.tolist()


def test_slow_steps_keep_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes = iter(range(0, 6000, 60))
    monkeypatch.setattr("fastseg.training.display.time.monotonic", lambda: float(next(minutes)))
    with RunLog(tmp_path, {}, 0, 100, each=" per process") as log:
        for step in (10, 20, 30):
            log.on_log({"step": step, **NUMBERS})
    last = capsys.readouterr().err.splitlines()[-1]
    assert " img/s per process · " in last
    assert last.endswith(" min left")


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with RunLog(tmp_path, {}, 0, 30) as log:
        for step in (10, 20, 30):
            log.on_log({"step": step, **NUMBERS, "epoch": step / 20})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "st')  # killed while it wrote
    with RunLog(tmp_path, {}, 20, 30, epoch=1.0) as log:
        log.on_log({"step": 30, **NUMBERS, "loss": 0.5, "epoch": 1.5})
    assert [(r["step"], r["loss"]) for r in records(tmp_path)] == [(10, 1.5), (20, 1.5), (30, 0.5)]
    seconds = [r["seconds"] for r in records(tmp_path)]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("repeats", [False, True], ids=["evaluated", "to be evaluated again"])
def test_what_is_dropped_is_dropped_everywhere(repeats: bool, tmp_path: Path) -> None:
    """From metrics.jsonl, TensorBoard and the pictures; a loss of the step that is evaluated again stays."""
    with RunLog(tmp_path, {}, 0, 30) as log:
        for step in (10, 20) if repeats else (10, 20, 30):
            log.on_log({"step": step, **NUMBERS})
            log.on_evaluation(evaluation(step, {"road": step / 100}, epoch=step / 20))
    with RunLog(tmp_path, {}, 20, 25, epoch=1.0, repeats_eval=repeats) as log:
        assert not (tmp_path / "confusion.json").exists()
        log.on_evaluation(evaluation(20 if repeats else 25, {"road": 0.5}, epoch=1.25))
    expected = [(10, 0.1), (20, 0.5)] if repeats else [(10, 0.1), (20, 0.2), (25, 0.5)]
    assert [(r["step"], r["miou"]) for r in records(tmp_path) if r["event"] == "eval"] == expected
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in board.Scalars("val/miou")]
    assert found == [(step, np.float32(miou)) for step, miou in expected]
    assert [event.step for event in board.Scalars("train/loss")] == [10, 20]


def test_a_new_run_starts_empty_and_overlays_are_replaced(tmp_path: Path) -> None:
    with RunLog(tmp_path, {}, 0, 10) as log:
        log.on_log({"step": 10, **NUMBERS})
        log.frames([SAMPLE, SAMPLE], ["a", "b"], CLASSES, 10)
        log.frames([SAMPLE], ["c"], CLASSES, 20)
    assert sorted(path.name for path in (tmp_path / "overlays").iterdir()) == [
        *("00_c.errors.png", "00_c.jpg", "00_c.prediction.png", "00_c.truth.png", "gallery.json")
    ]
    with RunLog(tmp_path, {}, 0, 10):
        pass
    assert records(tmp_path) == []


@pytest.mark.parametrize("full", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_named(full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunLog(tmp_path, {}, 0, 20) as log:
        if full == "tensorboard":
            monkeypatch.setattr(log._board, "add_scalar", fail)
        else:
            monkeypatch.setattr(log, "_file", SimpleNamespace(write=fail, close=log._file.close))
        with pytest.raises(OSError, match="No space left") as error:
            log.on_log({"step": 10, **NUMBERS})
        assert error.value.filename == str(tmp_path / full)
