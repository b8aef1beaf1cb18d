"""``fastseg.train(gpus=2)``: two processes, what reaches them, and what comes back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import __main__
import fastseg
import own_parts
import runs
from fastseg.errors import UserError
from fastseg.parallel import usable_cores

Train = Callable[..., fastseg.Run]
pytestmark = pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")


@pytest.fixture
def train(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = {"recipe": "demo", "epochs": 2, "crop": (64, 64), "batch": 2, "threads": 1, "log_every": 1}
    small |= {"device": "cpu", "runs": tmp_path / "runs", "gpus": 2}
    return lambda **changes: fastseg.train(shards, **{**small, **changes})


def test_two_ranks_train_with_parts_of_ones_own_and_a_callback_stops_both(train: Train, tmp_path: Path) -> None:
    recorder = own_parts.Recorder(tmp_path / "calls", stop_at=2)
    run = train(
        callbacks=[recorder], model=own_parts.small_net, loss=own_parts.mean_loss, augmentations=[own_parts.darken]
    )
    saved = runs.weights(run.last)
    assert (saved["step"], saved["arch"], len(saved["ranks"])) == (3, "small_net", 2)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert (calls[0], calls[-1], calls.count("step 2")) == ("step 1", "end True", 1)


def test_an_error_of_a_rank_is_raised_here(train: Train) -> None:
    with pytest.raises(UserError, match=r"the loss is nan .*: lower lr or set clip"):
        train(loss=own_parts.nan_loss)
    with pytest.raises(RuntimeError, match="the ranks ended with exit code 1"):
        train(name="failed", callbacks=[own_parts.Failing()])


def test_what_cannot_reach_other_processes_is_refused(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"cannot be sent to other processes .*, or train with gpus=1"):
        train(loss=lambda logits, _: logits.mean())

    def mine(logits: object, labels: object) -> object:
        return logits, labels

    mine.__module__, mine.__qualname__ = "__main__", "mine"
    monkeypatch.setattr(__main__, "mine", mine, raising=False)
    with pytest.raises(UserError, match=r"^mine is defined in the script or notebook itself"):
        train(loss=mine)


def test_ctrl_c_saves_on_all_ranks_and_raises(shards: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import fastseg\n"
        "try:\n"
        f"    fastseg.train({str(shards)!r}, recipe='demo', epochs=500, crop=(64, 64), batch=2, threads=1, gpus=2,\n"
        "                  device='cpu', log_every=1, eval_every=500, save_every=500, name='long')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    process = subprocess.Popen(
        [sys.executable, script],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    metrics = tmp_path / "runs" / "long" / "metrics.jsonl"
    give_up = time.monotonic() + 120
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert said == "interrupted\n"
    assert (tmp_path / "runs" / "long" / "checkpoints" / "last.pt").exists()
