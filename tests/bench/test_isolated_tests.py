"""Tests that crash, hang, or cannot be collected, run by real processes of pytest: each is named, the others go on."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bench.runner.isolated_tests import in_order_of_worth, read_verdicts
from commands import BIN, ROOT, environment
from fastseg.errors import UserError

MIXED = """
import ctypes, time
import pytest

def test_first(): pass
def test_dies(): ctypes.string_at(0)
def test_dies_not(): pass
@pytest.mark.parametrize("x", ["a", "b::c"])
def test_each(x): assert x != "a", "a is\\nwrong"
def test_hangs(): time.sleep(600)
def test_left_out(): pytest.skip("no such GPU")
def test_unwanted(): assert 0
"""
CRASHING = """
import ctypes
import pytest
@pytest.mark.parametrize("i", range(6))
def test_each(i): ctypes.string_at(0)
"""
AT_EXIT = """
import atexit, os, signal
atexit.register(lambda: os.kill(os.getpid(), signal.SIGSEGV))
def test_ok(): pass
"""
SLOW = """
import time
def test_quick(): pass
def test_slow(): time.sleep(600)
def test_never(): pass
"""


def start(folder: Path, patience: float = 90) -> subprocess.Popen[str]:
    command = [BIN / "python", "-m", "bench.runner.isolated_tests", folder / "out.json", folder]
    return subprocess.Popen(
        [*command, "-p", "no:cacheprovider", "-k", "not unwanted"],
        cwd=ROOT,
        env=environment() | {"FASTSEG_TEST_PATIENCE": str(patience), "FASTSEG_TEST_FOLDER": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outcomes(folder: Path) -> dict[str, str]:
    return {verdict.test: verdict.outcome for verdict in read_verdicts(folder / "out.json")}


@pytest.mark.slow
def test_who_takes_the_process_along_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "test_mixed.py").write_text(MIXED)
    process = start(tmp_path, patience=5)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert outcomes(tmp_path) == {
        "test_mixed.py::test_first": "passed",
        "test_mixed.py::test_dies": "crashed",
        "test_mixed.py::test_dies_not": "passed",
        "test_mixed.py::test_each[a]": "failed",
        "test_mixed.py::test_each[b::c]": "passed",
        "test_mixed.py::test_hangs": "no time",
        "test_mixed.py::test_left_out": "skipped",
    }
    reasons = {v.test.partition("::")[2]: v.reason for v in read_verdicts(tmp_path / "out.json")}
    assert reasons["test_dies"].startswith("Segmentation fault, in File ")
    assert reasons["test_each[a]"] == "AssertionError: a is"
    assert reasons["test_hangs"].startswith("no answer in 5 s, in File ")
    assert "in test_hangs" in reasons["test_hangs"]
    assert reasons["test_left_out"] == "no such GPU"
    assert "Fatal Python error: Segmentation fault" in said  # the whole stack
    assert said.splitlines()[-1] == "3 passed, 1 crashed, 1 failed, 1 no time, 1 skipped"
    document = json.loads((tmp_path / "out.json").read_text())
    assert {"commit", "gpus", "driver", "torch"} <= document["environment"].keys()


@pytest.mark.slow
def test_files_that_crash_everywhere_or_cannot_be_read_are_given_up(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(CRASHING)
    (tmp_path / "test_b.py").write_text("import no_such_module")
    (tmp_path / "test_c.py").write_text("import ctypes; ctypes.string_at(0)")
    (tmp_path / "test_d.py").write_text(AT_EXIT)
    process = start(tmp_path)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    found = read_verdicts(tmp_path / "out.json")
    each = [v.outcome for v in found if v.test.startswith("test_a.py::")]
    assert each == [*["crashed"] * 4, *["not run"] * 2]
    assert "given up after 4 processes" in found[5].reason
    (broken,) = (v for v in found if v.test == "test_b.py")
    assert broken.outcome == "failed"
    assert "No module named 'no_such_module'" in broken.reason
    (fatal,) = (v for v in found if v.test.endswith("test_c.py"))
    assert (fatal.outcome, fatal.reason[:18]) == ("crashed", "Segmentation fault")
    last, at_exit = found[-2:]
    assert (last.test, last.outcome) == ("test_d.py::test_ok", "passed")
    assert at_exit.outcome == "crashed"
    assert at_exit.reason.startswith("Segmentation fault, in File ")
    assert at_exit.reason.endswith(", when its tests had ended")


@pytest.mark.slow
def test_what_is_known_is_kept_when_the_time_is_over(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(SLOW)
    (tmp_path / "test_b.py").write_text(SLOW)
    process = start(tmp_path)
    assert process.stdout
    while "[3 items]" not in (line := process.stdout.readline()):
        assert line, "it ended"
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert outcomes(tmp_path) == {
        "test_a.py::test_quick": "passed",
        "test_a.py::test_slow": "not run",
        "test_a.py::test_never": "not run",
        "test_b.py": "not run",
    }
    mark = f"FASTSEG_TEST_FOLDER={tmp_path}".encode()
    running = [p for p in Path("/proc").glob("[0-9]*/environ") if mark in _read(p)]
    assert not running


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_the_most_important_files_come_first() -> None:
    paths = [Path(f"test_gpu_{name}.py") for name in ("energy", "new", "run", "batches")]
    assert [path.stem.rpartition("_")[2] for path in in_order_of_worth(paths)] == ["batches", "run", "energy", "new"]
    every = in_order_of_worth((ROOT / "tests" / "gpu").glob("test_*.py"))
    assert every[0].stem == "test_gpu_batches"


@pytest.mark.parametrize("text", ["", "[]", '{"tests": [1]}', '{"tests": [{"name": "a"}]}'])
def test_other_files_are_no_verdicts(tmp_path: Path, text: str) -> None:
    (tmp_path / "tests.json").write_text(text)
    with pytest.raises(UserError, match="holds no verdicts of tests"):
        read_verdicts(tmp_path / "tests.json")


@pytest.mark.parametrize("words", [(), ("out.json",), ("out.json", os.devnull)])
def test_what_it_takes_is_said(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [BIN / "python", "-m", "bench.runner.isolated_tests", *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
