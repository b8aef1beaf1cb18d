"""bench/gpu.sh without a GPU, and the page that it ends with."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from bench.suite import candidates, profiled, summary
from bench.suite.request import Request
from bench.suite.rows import Results, Row
from commands import BIN, ROOT, environment
from fastseg.train import parse

SCRIPT = ROOT / "bench" / "gpu.sh"


def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script with this interpreter."""
    command = ["bash", str(SCRIPT), *map(str, words)]
    settings = environment() | {"FASTSEG_PYTHON": str(BIN / "python")} | variables
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
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
    assert (tmp_path / "summary-cpu.md").read_text().startswith("# cpu\n- profile: failed")


@pytest.mark.slow
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
    assert " ".join(names) in text.partition("set -u")[0]  # What the head says.


def test_candidates_can_be_measured_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Request("cuda", (768, 768), (0.5, 2.0), 8, "deeplabv3_resnet50", (), 2)

    def names() -> list[str]:
        return [c.settings["added"] for c in candidates.contestants(wanted, "compute")[1:]]

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
        Row("compute", "seed", "images/s", {}, skipped="not installed: x"),
    )
    Results({}, {}, rows).write(tmp_path / "throughput-h200-compute.json")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "tests-h200.xml").write_text(
        '<testsuites><testsuite><testcase classname="a" name="b"/>'
        '<testcase classname="a" name="c"><failure/></testcase>'
        '<testcase classname="a" name="d"><skipped/></testcase></testsuite></testsuites>'
    )
    text = "\n".join(summary.page(tmp_path, "h200"))
    assert "1 passed, 1 failed, 1 skipped" in text
    assert "failed: a::c" in text
    assert "| compute | fastseg | 210 |  | 490 | 50 % |  |  |" in text
    assert "- seed: not installed: x" in text
