"""bench/gpu.sh without a GPU, and the page that it ends with."""

import json
import re
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from bench import variants
from bench.docs import gpu_page as summary
from bench.runner.isolated_tests import Verdict
from bench.runner.results import Results, Row, read_results
from bench.stages import Request
from bench.stages import profile_step as profiled
from commands import BIN, ROOT, environment
from fastseg.commands.train import parse

SCRIPT = ROOT / "bench" / "gpu.sh"


def result_files(gpu: str) -> dict[str, str]:
    """Part → the file of its result, in the script's order."""
    found = dict(re.findall(r"^    \[([a-z-]+)\]=(.*)$", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE))
    return {part: file.replace("$gpu", gpu) for part, file in found.items()}


def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script with this interpreter."""
    command = ["bash", str(SCRIPT), *map(str, words)]
    settings = environment() | {"FASTSEG_PYTHON": str(BIN / "python")} | variables
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would begin to measure")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run(tmp_path / "out")
    assert done.returncode == 2
    assert "torch sees no GPU here; FASTSEG_DEVICE=cpu rehearses" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_part_that_fails_stops_no_other(tmp_path: Path) -> None:
    """A wrong name and a set that is not there, then the page of what there is."""
    done = run(tmp_path, "nonsense", "profile", "loader", FASTSEG_DEVICE="cpu", FASTSEG_SHARDS=str(tmp_path / "none"))
    assert done.returncode == 1
    assert "nonsense is no part" in done.stderr
    lines = (tmp_path / "parts-cpu.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["profile", "loader"]
    assert all("failed" in line and "error: " in line for line in lines)
    assert json.loads((tmp_path / "environment-cpu.json").read_text())["gpus"]
    page = (tmp_path / "summary-cpu.md").read_text()
    assert page.startswith("# cpu\ngpus none, driver none, ")
    assert f"command bench/gpu.sh {tmp_path} nonsense profile loader\n" in page
    assert "\n- tests: not run\n" in page
    assert "\n- profile: failed (2) after" in page


@pytest.mark.slow
def test_a_test_that_crashes_is_named_on_the_page(tmp_path: Path) -> None:
    """And the other files have been run."""
    tests, out = tmp_path / "tests", tmp_path / "out"
    tests.mkdir()
    (tests / "test_gpu_batches.py").write_text(
        "import ctypes\ndef test_segv(): ctypes.string_at(0)\ndef test_b(): pass"
    )
    (tests / "test_gpu_step.py").write_text("def test_after(): pass\ndef test_wrong(): assert not 1, 'one\\ntwo'")
    done = run(out, "tests", FASTSEG_DEVICE="cpu", FASTSEG_TESTS=str(tests))
    assert done.returncode == 1
    assert "s: 2 passed, 1 crashed, 1 failed" in (out / "parts-cpu.txt").read_text()
    page = (out / "summary-cpu.md").read_text()
    assert (
        "  - 2 passed, 1 crashed, 1 failed\n  - crashed: test_gpu_batches.py::test_segv: Segmentation fault, in File"
        in page
    )
    assert "  - failed: test_gpu_step.py::test_wrong: AssertionError: one\n" in page
    assert "string_at" in (out / "logs" / "tests.log").read_text()


@pytest.mark.slow
def test_an_entry_that_crashes_is_a_row(tmp_path: Path, shards: Path) -> None:
    """A library, which its loader's processes import, kills it; the others are measured."""
    stub = tmp_path / "stub" / "albumentations"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("import os, signal\nos.kill(os.getppid(), signal.SIGSEGV)\n")
    settings = {"FASTSEG_SHARDS": str(shards), "PYTHONPATH": str(stub.parent), "FASTSEG_BUDGET": "3000"}
    done = run(tmp_path, "loader", FASTSEG_DEVICE="cpu", **settings)
    assert done.returncode == 0, done.stdout + (tmp_path / "logs/loader.log").read_text()
    rows = {row.entry: row for row in read_results(tmp_path / "throughput-cpu-loader.json").results}
    assert str(rows["notebook"].skipped).startswith("crashed (SIGSEGV); its last output: ")
    assert rows["fastseg"].windows
    assert sum(bool(row.windows) for row in rows.values()) > 2
    page = (tmp_path / "summary-cpu.md").read_text()
    assert "  - loader, notebook: crashed (SIGSEGV); its last output: " in page
    assert "  - loader: " in page  # our own rate
    assert "Fatal Python error: Segmentation fault" in (tmp_path / "logs" / "loader.log").read_text()


@pytest.mark.slow
def test_it_goes_on_with_what_is_not_done(tmp_path: Path) -> None:
    """Parts with a whole result are left alone unless they are named; those that went wrong come last."""
    tests, out = tmp_path / "tests", tmp_path / "out"
    for folder in (tests, out):
        folder.mkdir()
    (tests / "test_gpu_step.py").write_text("def test_one(): pass\n")
    files = result_files("cpu")
    for part in files.keys() - {"tests", "loader", "profile"}:  # the loader's file is missing
        Results({}, {}, ()).write(out / files[part])
    done_before = [f"{part}: done in 5 s" for part in files if part not in ("tests", "profile")]
    (out / "parts-cpu.txt").write_text("\n".join([*done_before, "tests: failed (1) after 9 s: x"]) + "\n")
    again = {"FASTSEG_DEVICE": "cpu", "FASTSEG_TESTS": str(tests), "FASTSEG_SHARDS": str(tmp_path / "none")}
    run(out, **again)
    lines = (out / "parts-cpu.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines[-3:]] == ["loader", "profile", "tests"]
    assert lines[-1].startswith("tests: done in ")
    assert lines[:-3] == [line for line in done_before if not line.startswith("loader")]
    before = (out / "tests-cpu.json").stat().st_mtime_ns
    run(out, **again)
    assert (out / "tests-cpu.json").stat().st_mtime_ns == before
    run(out, "tests", **again)
    assert (out / "tests-cpu.json").stat().st_mtime_ns > before
    assert "  - 1 passed\n" in (out / "summary-cpu.md").read_text()


def limited(folder: Path, *command: str, seconds: int = 60) -> str:
    """What bench/parts.sh tells of a part that is a command."""
    script = f"""
        . bench/parts.sh
        out={folder} report={folder}/report all=(part) seconds=(1)
        mkdir -p {folder}/logs
        share_out {seconds} part
        limited part "$@"
    """
    words = ["bash", "-c", script, "bash", *command]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout == (folder / "report").read_text()
    return done.stdout


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("echo fine", "part: done in "),
        ("echo 'error: no set'; echo; exit 2", r"part: failed \(2\) after \d s: error: no set\n"),
        ("echo begun; kill -SEGV $$", r"part: crashed \(SIGSEGV\) after \d s: begun\n"),
        ("echo begun; kill -KILL $$", r"part: crashed \(SIGKILL\) after \d s: begun\n"),
        pytest.param("exec sleep 60", r"part: stopped after 20 s, see .*/logs/part.log\n", marks=pytest.mark.slow),
    ],
    ids=["done", "failed", "crashed", "out of memory", "stopped"],
)
def test_a_part_tells_how_it_ended(tmp_path: Path, command: str, says: str) -> None:
    """In place of what an earlier call has told."""
    (tmp_path / "report").write_text("part: failed before\n")
    assert re.match(says, limited(tmp_path, "bash", "-c", command, seconds=20 if "sleep" in command else 60))


def test_no_part_starts_without_time(tmp_path: Path) -> None:
    done = run(tmp_path, "tests", FASTSEG_DEVICE="cpu", FASTSEG_BUDGET="10")
    assert done.returncode == 1
    assert "tests: no time left" in done.stdout


def test_the_parts_share_the_budget() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    names, seconds = (re.findall(rf"^{word}=\((.*)\)$", text, re.MULTILINE)[0].split() for word in ("all", "seconds"))
    assert len(names) == len(seconds)
    assert sum(map(int, seconds)) == int(re.findall(r"FASTSEG_BUDGET:-(\d+)", text)[0]) == 1200
    assert all(f"        {name})" in text for name in names)
    assert list(result_files("h200")) == names
    assert len(set(result_files("h200").values())) == len(names)
    assert " ".join(names) in text.partition("set -u")[0]  # What the head says.


def test_candidates_can_be_measured_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Request("cuda", (768, 768), (0.5, 2.0), 8, "deeplabv3_resnet50", (), 2)

    def names() -> list[str]:
        return [c.settings["added"] for c in variants.entries("candidates", wanted, "compute")[1:]]

    every = names()
    monkeypatch.setenv("FASTSEG_CANDIDATES", "-max-autotune")
    assert names() == [name for name in every if name != "max-autotune"] != every
    monkeypatch.setenv("FASTSEG_CANDIDATES", "max-autotune")
    assert names() == ["max-autotune"]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA H200 MIG 1g.18gb", "h200-mig"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)
def test_files_are_named_by_the_gpu(name: str, short: str) -> None:
    assert summary.short_name(name) == short


@pytest.mark.parametrize(("device", "frames"), [("cuda", 32), ("cpu", 8), ("cuda", 5), ("cuda", 500)])
def test_a_profile_takes_few_steps(device: str, frames: int) -> None:
    _, config = parse(profiled.flags(device, frames))
    steps = config.optim.epochs * max(1, frames // config.data.batch)
    assert steps == 40 or config.optim.epochs == 2


@pytest.mark.slow
def test_a_profile_is_all_that_is_left(tmp_path: Path, shards: Path) -> None:
    """On frames of a set, and without a place of this machine."""
    done = run(tmp_path, "profile", FASTSEG_DEVICE="cpu", FASTSEG_SHARDS=str(shards))
    assert done.returncode == 0, done.stdout + (tmp_path / "logs/profile.log").read_text()
    text = (tmp_path / "profile-cpu.json").read_text()
    assert json.loads(text)["step"]["steps"] == 5
    assert str(tmp_path) not in text
    assert "--shards" not in text
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".gz")]


def test_the_page_has_tests_and_tables(tmp_path: Path) -> None:
    rows = (
        Row("compute", "fastseg", "images/s", {}, (210.0,), None, {"tflops": 490.5, "mfu_datasheet": 0.496}),
        Row("compute", "notebook", "images/s", {}, skipped="not installed: x"),
        Row("compute", "SPDL", "images/s", {}, skipped="crashed (SIGSEGV); its last output: x"),
    )
    Results({}, {}, rows).write(tmp_path / "throughput-h200-compute.json")
    verdicts = [
        Verdict("a::b", "passed"),
        Verdict("a::c", "failed", reason="no"),
        Verdict("a::d", "skipped", reason="x"),
    ]
    document = {"environment": {}, "tests": [asdict(verdict) for verdict in verdicts]}
    (tmp_path / "tests-h200.json").write_text(json.dumps(document))
    (tmp_path / "parts-h200.txt").write_text("tests: failed (1) after 9 s: one: two\n")
    text = "\n".join(summary.page(tmp_path, "h200", result_files("h200")))
    assert "- tests: failed (1) after 9 s: one: two\n  - 1 passed, 1 failed, 1 skipped\n  - failed: a::c: no\n" in text
    assert "- compute: not run\n  - compute: 210 images/s, 50 % of the datasheet's peak\n" in text
    assert "| compute | fastseg | 210 |  | 490 | 50 % |  |  |" in text
    assert "- notebook: not installed: x" in text
    assert "  - compute, notebook" not in text
    assert "  - compute, SPDL: crashed (SIGSEGV); its last output: x" in text
