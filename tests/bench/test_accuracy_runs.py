"""bench/accuracy.py and bench/accuracy.sh as users type them: interrupted, gone on with, and unable to begin."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

import commands
import zygote
from commands import BIN, ROOT
from runs import lines

SCRIPT = ROOT / "bench" / "accuracy.sh"
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
def test_a_study_that_cannot_begin_ends(shards: Path, tmp_path: Path) -> None:
    done = commands.run(*study(shards, tmp_path / "runs"), "--data.batch", 64)
    commands.refused(done, "demo, base, seed 0 could not start: ", "--data.batch")
    assert not (tmp_path / "runs" / "demo" / "ema-off-0").exists()


def script(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = commands.environment() | {"FASTSEG_PYTHON": str(BIN / "python")} | variables
    words = ["bash", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_script_can_be_rehearsed(shards: Path, tmp_path: Path) -> None:
    done = script(tmp_path, "camvid", "nonsense", FASTSEG_DEVICE="cpu", FASTSEG_SHARDS=str(shards))
    assert done.returncode == 1  # nonsense
    assert "error: nonsense is no part" in done.stderr
    assert re.search(r"^camvid: done in \d+ s$", done.stdout, re.MULTILINE), done.stdout
    assert "| base | 1 |" in done.stdout
    (study,) = json.loads((tmp_path / "accuracy-cpu-camvid.json").read_text())["studies"]
    assert (study["planned"], study["results"][0]["finished"]) == (1, True)
    assert (tmp_path / "accuracy-cpu-camvid.svg").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would begin to train")
def test_without_a_gpu_the_script_says_so(tmp_path: Path) -> None:
    done = script(tmp_path / "out")
    assert done.returncode == 2
    assert "torch sees no GPU here; FASTSEG_DEVICE=cpu rehearses" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_the_parts_share_the_budget() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    names, seconds = (re.findall(rf"^{word}=\((.*)\)$", text, re.MULTILINE)[0].split() for word in ("all", "seconds"))
    assert len(names) == len(seconds)
    assert sum(map(int, seconds)) == int(re.findall(r"FASTSEG_BUDGET:-(\d+)", text)[0]) == 1440
    assert all(f"        {name})" in text for name in names)
    assert f"# PART: {' '.join(names)}." in text
