"""``python bench/throughput.py`` as a user types it: wrong, stopped, and to its end."""

import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import commands
from bench.docs.sizes import sizes_table
from bench.runner.machine import machine
from bench.runner.results import read_results
from bench.runner.runner import Timing
from bench.stages.frames import frames_of_shards
from bench.throughput import Options, settings_document, sweep_timing

COMMAND = (commands.BIN / "python", "bench/throughput.py")
TINY = ("--stages", "compute", "--device", "cpu", "--arch", "deeplabv3_mobilenet_v3_large", "--crop", "32", "32")
SMALL = (*TINY, "--batch", "2", "--seconds", "0.2", "--warmup", "0")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--stages", "load"), "--stages has 'load'; it must be of: loader, compute, train, packing, evaluation"),
        (("--peers", "notebook", "ffcv"), "--peers has 'ffcv'; it must be of: "),
        (("--plot", "bars.jpg"), "--plot is bars.jpg; its name must end in .png or .svg"),
        (("--json", "."), "--json is ., which is a folder; name a file"),
        (("--json", "README.md/x.json"), "--json is README.md/x.json, but README.md is a file"),
        (("--plot", "/proc/bars.svg"), "--plot /proc/bars.svg cannot be written: nothing can be made in /proc"),
        (("--windows", "0"), "--windows is 0; it must be at least 1"),
        (("--batch", "1"), "--batch is 1; it must be at least 2"),
        (("--crop", "0", "768"), "--crop is 0 768; each way it must be 16 to 8192 pixels"),
        (("--sizes", "512x256", "big"), "--sizes has 'big'; give sizes as 512x256"),
        (("--sizes", "512x256", "--shards", "shards/x"), "--sizes and --shards are both given"),
        (("--scale", "2", "0.5"), "--scale is 2.0 0.5; give a low and a high ratio up to 16"),
    ],
)
def test_wrong_requests_are_one_sentence(flags: tuple[str, ...], says: str) -> None:
    commands.refused(commands.run(*COMMAND, *flags), says)


def test_settings_are_chosen_by_several_windows() -> None:
    cores = len(os.sched_getaffinity(0))
    long, short = Timing(windows=9, seconds=4, warmup=0.7), Timing(seconds=0.5)
    assert sweep_timing(long, "cpu") == Timing(windows=3, seconds=4, warmup=0.7, together=cores)
    assert sweep_timing(short, "cuda") == Timing(windows=3, seconds=0.5)


def test_frames_are_described(shards: Path, tmp_path: Path) -> None:
    frames = frames_of_shards(shards, 2, cache=tmp_path, workers=1)
    options = Options(shards=shards)
    asked = [("loader", replace(options.request("cpu", "loader"), frames=frames))]
    found = json.loads(json.dumps(settings_document(options, Timing(), asked)))["frames"]
    height, width = found["size"]
    with Image.open(frames.image(frames.keys[0])) as image:
        assert image.size == (width, height)
    assert (found["origin"], found["count"]) == (shards.name, 2)


def test_cores_are_those_that_may_be_used() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert (machine()["cores"], machine()["affinity"]) == ("1", str(min(before)))
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--stages", "scaling", "--device", "cpu"), "there are not several GPUs; add --ranks 2"),
        (("--stages", "loader", "--shards", "no/such"), "no/such"),
    ],
)
def test_requests_that_this_machine_cannot_meet_are_one_sentence(flags: tuple[str, ...], says: str) -> None:
    commands.refused(commands.run(*COMMAND, *flags), says)


@pytest.mark.slow
def test_it_measures_shows_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    flags = (*SMALL, "--peers", "notebook", "--windows", "2", "--markdown", "--json", out)
    done = commands.typed(*COMMAND, *flags)
    assert done.returncode == 0, done.stderr
    assert "**compute (images/s)**" in done.stdout
    assert "| notebook | " in done.stdout
    results = read_results(out)
    assert [row.entry for row in results.results] == ["fastseg", "notebook"]
    assert all(len(row.windows) == 2 and row.threads for row in results.results)
    assert results.results[1].ratio_to_ours is not None
    assert {"commit", "affinity", "threads", "governor", "torch", "processor"} <= results.environment.keys()
    asked = json.loads(out.read_text())["settings"]
    assert asked["stages"]["compute"]["crop"] == [32, 32]
    assert asked["timing"]["windows"] == 2
    assert asked["frames"] is None  # of the stage that reads none
    assert results.results[1].versions.keys() == {"torchvision"}
    assert "The step computes " in done.stdout


@pytest.mark.slow
def test_ctrl_c_shows_what_is_done(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    flags = (*SMALL, "--peers", "none", "--windows", "100000", "--json", out)
    process = commands.start(*COMMAND, *flags, output=tmp_path / "output")
    # Without a terminal there is a line every ten seconds: the second one comes when windows have been measured.
    deadline = time.monotonic() + 120
    while not re.search(r"window (?!1 of)\d", process.output):
        assert process.running, process.output
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    code, said = process.finish(60), process.output
    assert code == 130, said
    assert "compute (images/s)" in said
    assert "interrupted; the results so far are shown" in said
    (row,) = read_results(out).results
    assert 0 < len(row.windows) < 100000


@pytest.mark.slow
def test_sizes_are_rows_of_one_file(tmp_path: Path) -> None:
    out, sizes = tmp_path / "sizes.json", ("128x64", "96x64-420")
    flags = ("--sizes", *sizes, "--device", "cpu", "--crop", "32", "32", "--batch", "2", "--frames", "2")
    flags += ("--peers", "torchvision_v2", "--no-sweep", "--windows", "1", "--seconds", "0.1", "--warmup", "0")
    done = commands.typed(*COMMAND, *flags, "--json", out, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "**loader, 96x64-420 (images/s)**" in done.stdout
    results = read_results(out)
    entries = ["fastseg", "fastseg, plain crops", "torchvision v2 + torchvision.io"]
    assert [(row.size, row.entry) for row in results.results] == [(size, entry) for size in sizes for entry in entries]
    assert all(row.ratio_to_ours for row in results.results)
    assert {figure["size"] for figure in results.derived} == set(sizes)
    shown = sizes_table(results)
    assert "| images/s | 128×64 | 96×64, own JPEGs (4:2:0) |" in shown
    assert "| crop | 32×32 | 32×32 |" in shown
    assert shown.count("×**") == 2
