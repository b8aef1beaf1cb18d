"""Weights & Biases and MLflow by their real libraries, offline: what they hold afterwards is what was logged."""

import json
import shutil
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evaluations import evaluation
from fastseg.errors import UserError
from fastseg.training.callbacks import Callbacks
from fastseg.training.run_log import RunLog
from fastseg.training.trackers import check_tracker, open_tracking

NUMBERS = {
    "loss": 1.5,
    "lr": 0.1,
    "images_per_second_per_gpu": 3.0,
    "tflops": 0.25,
    "waiting": 0.01,
    "memory": 1.0,
    "epoch": 0.5,
}
CONFIG = {"config": {"seed": 3, "optim": {"lr": 0.01}}}


@contextmanager
def following(folder: Path, tracker: str, step: int = 0) -> Iterator[Callbacks]:
    """Open a run's record and its tracker after ``step``, and yield both."""
    with RunLog(folder, CONFIG, step, 30) as log:
        tracking = open_tracking(tracker, folder, CONFIG["config"], step, log.say, log.dropped_later)
        with Callbacks([log, *tracking]).ending() as callbacks:
            yield callbacks


def train(folder: Path, tracker: str, begin: int, end: int, loss: float = 1.5) -> None:
    """Lines at every tenth step from after ``begin`` to ``end``, and an evaluation."""
    with following(folder, tracker, begin) as callbacks:
        for step in range(begin + 10, end + 1, 10):
            callbacks.on_log({"step": step, **NUMBERS, "loss": loss})
        callbacks.on_evaluation(evaluation(end, {"traffic light": 0.5, "bus": None, "a/b (ü)": 0.75}))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    return tmp_path / "store"


def read_mlflow(store: Path) -> tuple[Any, Any]:
    """MLflow's client, and the one run that the store holds."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store.as_uri())
    experiment = client.get_experiment_by_name("fastseg")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def test_mlflow_holds_the_numbers_and_a_resumed_run_goes_on(store: Path, tmp_path: Path) -> None:
    train(tmp_path / "street", "mlflow", 0, 20)
    client, run = read_mlflow(store)
    assert (run.info.run_name, run.info.status) == ("street", "FINISHED")
    assert run.data.params == {"seed": "3", "optim.lr": "0.01"}
    assert run.data.metrics["val/miou"] == 0.625
    assert run.data.metrics["iou/traffic light"] == 0.5
    assert run.data.metrics["iou/a_b _ü_"] == 0.75
    assert "iou/bus" not in run.data.metrics
    train(tmp_path / "street", "mlflow", 20, 30, loss=0.5)
    client, run = read_mlflow(store)
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(10, 1.5), (20, 1.5), (30, 0.5)]
    assert run.info.status == "FINISHED"


def test_mlflow_begins_a_run_where_points_were_dropped(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "street", "mlflow", 0, 30)
    client, first = read_mlflow(store)
    train(tmp_path / "street", "mlflow", 20, 30, loss=0.5)
    note = f"continues the run {first.info.run_id} after its step 20; later points there are of a history that was"
    assert note in capsys.readouterr().err
    train(tmp_path / "street", "mlflow", 30, 40, loss=0.25)
    second, *others = (
        run for run in client.search_runs([first.info.experiment_id]) if run.info.run_id != first.info.run_id
    )
    assert not others
    assert second.info.run_name == "street from step 20"
    assert second.data.tags["mlflow.note.content"].startswith(note)
    history = client.get_metric_history(second.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(30, 0.5), (40, 0.25)]
    history = client.get_metric_history(first.info.run_id, "train/loss")
    assert [point.value for point in history] == [1.5, 1.5, 1.5]


def test_mlflow_takes_classes_of_any_name_and_keeps_them_apart(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["road/", "a//b", "a__b", "..", ".", "/x", " ", "road", "road/kerb", "a:/b"]
    ious = {name: None if name == "a//b" else i / 16 for i, name in enumerate(names)}
    with following(tmp_path / "street", "mlflow") as callbacks:
        callbacks.on_evaluation(evaluation(10, ious))
        callbacks.on_evaluation(evaluation(20, {**ious, "a//b": 1.0}))
    assert "failed" not in capsys.readouterr().err
    client, run = read_mlflow(store)
    found = {name: value for name, value in run.data.metrics.items() if name.startswith("iou/")}
    assert sorted(found.values()) == sorted([1.0, *(value for value in ious.values() if value is not None)])
    assert (found["iou/a__b"], found["iou/a__b 2"], found["iou/a__b 3"]) == (1.0, ious["a__b"], ious["a:/b"])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "iou/a__b 2")] == [10, 20]


def test_mlflow_without_an_address_writes_beside_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train(tmp_path / "runs" / "street", "mlflow", 0, 10)
    _, run = read_mlflow(tmp_path / "runs" / "mlruns")
    assert run.data.metrics["train/lr"] == 0.1


def test_an_interrupted_run_is_not_called_finished(store: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit), following(tmp_path / "street", "mlflow"):
        raise SystemExit(143)
    assert read_mlflow(store)[1].info.status == "KILLED"


def read_wandb(file: Path) -> Iterator[Any]:
    """The records of an offline run's file: a log of LevelDB's format after a header of 7 bytes.

    https://github.com/google/leveldb/blob/main/doc/log_format.md: blocks of 32 KiB, records of CRC, length and type.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole, or its last part
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def finished(file: Path) -> list[Any]:
    """All records, once the library's own process, which writes them, has written the run's end."""
    give_up = time.monotonic() + 30
    while True:
        records = list(read_wandb(file))
        kinds = [record.WhichOneof("record_type") for record in records]
        if "exit" in kinds:
            return records
        assert time.monotonic() < give_up, kinds
        time.sleep(0.1)


def test_wandb_offline_holds_the_numbers_and_a_resumed_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path / "street", "wandb", 0, 20)
    train(tmp_path / "street", "wandb", 20, 30, loss=0.5)
    files = sorted((tmp_path / "street" / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda f: f.stat().st_mtime)
    records = [finished(file) for file in files]
    assert len(records) == 2
    runs = [r.run for some in records for r in some if r.HasField("run")]
    assert len({run.run_id for run in runs}) == 1
    assert [(run.project, run.display_name) for run in runs] == [("fastseg", "street")] * 2
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config["optim"] == {"lr": 0.01}
    lines = [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in r.history.item}
        for some in records
        for r in some
        if r.HasField("history")
    ]
    assert [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line] == [
        *((10, 1.5), (20, 1.5), (30, 0.5))
    ]
    scores, _ = (line for line in lines if "val/miou" in line)
    assert (scores["val/miou"], scores["iou/traffic light"]) == (0.625, 0.5)
    assert "iou/bus" not in scores


def test_wandb_offline_begins_a_run_where_points_were_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path / "street", "wandb", 0, 20)
    train(tmp_path / "street", "wandb", 10, 20, loss=0.5)
    files = sorted((tmp_path / "street" / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda f: f.stat().st_mtime)
    first, second = (next(r.run for r in finished(file) if r.HasField("run")) for file in files)
    assert (first.display_name, second.display_name) == ("street", "street from step 10")
    assert second.run_id != first.run_id
    assert second.notes.startswith(f"continues the run {first.run_id} after its step 10; later points there are of")


def test_wandb_without_an_account_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match=r"no account is logged in; use 'wandb login' or set WANDB_MODE=offline"):
        train(tmp_path / "street", "wandb", 0, 10)


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_a_missing_library_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(UserError, match=rf"--tracker {kind} needs {kind}; .*fastseg-deeplab\[{kind}\]"):
        check_tracker(kind)
    check_tracker("none")


def test_a_tracker_that_fails_in_the_middle_does_not_end_the_run(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with following(tmp_path / "street", "mlflow") as callbacks:
        shutil.rmtree(store)
        store.write_text("no folder any more")
        for step in (10, 20, 30):
            callbacks.on_log({"step": step, **NUMBERS})
    lines = (tmp_path / "street" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20, 30]
    said = capsys.readouterr().err
    assert said.count("mlflow failed (") == 1
    assert "training continues, metrics.jsonl has everything" in said
    assert "Traceback" not in said


def test_a_tracker_that_cannot_begin_ends_a_new_run_but_not_a_resumed_one(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write_text("no folder")
    with pytest.raises(UserError, match=r"--tracker mlflow cannot begin .*; fix that, or leave it out"):
        train(tmp_path / "street", "mlflow", 0, 10)
    train(tmp_path / "street", "mlflow", 10, 20)
    assert "training continues without it" in capsys.readouterr().err
