"""bench/accuracy.py as users type it: interrupted, gone on with, and unable to begin."""

import json
import re
import signal
import time
from pathlib import Path

import pytest

import commands
import zygote
from runs import lines

SMALL = (
    *("--device", "cpu", "--data.crop", "64", "64", "--data.batch", "2", "--data.threads", "1", "--log-every", "1"),
    *("--optim.epochs", "2", "--optim.warmup", "0.5", "--eval-every", "1", "--save-every", "1"),
)
"""Ten steps on the set of conftest.py."""


def study(shards: Path, runs: Path, *more: object) -> tuple[object, ...]:
    own = ("bench/accuracy.py", "demo", "--variants", "ema-off", "--seeds", 2, "--runs", runs, *more)
    return ("python", *own, "--", "--shards", shards, *SMALL)


def first_step(folder: Path, process: zygote.Command) -> None:
    """Wait until a run has logged one."""
    path, deadline = folder / "metrics.jsonl", time.monotonic() + 120
    while not (path.exists() and path.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


@pytest.mark.slow
def test_an_interrupted_study_goes_on(shards: Path, tmp_path: Path) -> None:
    """Two variants, two seeds; Ctrl-C in the first run."""
    runs, out = tmp_path / "runs", tmp_path / "out.json"
    process = commands.start(*study(shards, runs), output=tmp_path / "output")
    first_step(runs / "demo" / "base-0", process)
    process.send_signal(signal.SIGINT)
    code, output = process.finish(120), process.output
    assert code == 130, output
    assert "interrupted; run the same command again to resume" in output
    assert "0 of 4 runs are finished, 1 more begun (base, seed 0:" in output
    begun = lines(runs / "demo" / "base-0", "train")
    assert 1 <= len(begun) < 10

    done = commands.run(*study(shards, runs, "--json", out, "--plot", tmp_path / "out.png"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "last.pt after step" in (runs / "demo" / "base-0" / "train.log").read_text()
    assert [line["step"] for line in lines(runs / "demo" / "base-0", "train")] == list(range(1, 11))
    assert re.findall(r"(\d) of 4: demo, ([a-z-]+), seed (\d): mIoU", done.stdout) == [
        ("1", "base", "0"),
        ("2", "ema-off", "0"),
        ("3", "base", "1"),
        ("4", "ema-off", "1"),
    ]
    document = json.loads(out.read_text())
    assert str(tmp_path) not in out.read_text()
    results = document["studies"][0]["results"]
    assert [result["finished"] for result in results] == [True] * 4
    for result in results:
        logged = lines(runs / "demo" / f"{result['variant']}-{result['seed']}", "eval")
        assert [e["miou"] for e in result["evaluations"]] == [line["miou"] for line in logged]
        assert 0 < result["evaluating"] < result["seconds"] < result["process_seconds"]
    assert (tmp_path / "out.png").stat().st_size > 10_000

    again = commands.run(*study(shards, runs))  # nothing is left to train
    assert again.returncode == 0, again.stderr
    assert "mIoU %" not in again.stdout
    assert "1 of 4:" not in again.stdout
    assert "2 seeds, too few to say" in again.stdout


@pytest.mark.slow
def test_a_study_ends_when_its_time_is_over(shards: Path, tmp_path: Path) -> None:
    done = commands.run(*study(shards, tmp_path / "runs", "--minutes", 0.02))
    assert done.returncode == 130, done.stdout + done.stderr
    assert "interrupted; run the same command again to resume" in done.stderr
    assert "0 of 4 runs are finished" in done.stdout


@pytest.mark.slow
def test_a_study_that_cannot_begin_ends(shards: Path, tmp_path: Path) -> None:
    done = commands.run(*study(shards, tmp_path / "runs"), "--data.batch", 64)
    commands.refused(done, "demo, base, seed 0 could not start: ", "--data.batch")
    assert not (tmp_path / "runs" / "demo" / "ema-off-0").exists()
