"""Every number of the documents comes from a committed result file, and every such file says where it comes from."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.docs import evidence
from bench.docs.documents import BEGIN, END, SECTIONS
from bench.docs.evidence import RERUN, problems, typed_by_hand, unproven
from bench.runner.processes import ROOT

FILES = sorted((ROOT / "bench" / "results").rglob("*.json"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ALLOWED = {
    "78.8": "published; docs/cityscapes.md has the links",
    "arithmetic": "no measurement, and says so",
    "989 TFLOP/s": "arithmetic",
    "312 TFLOP/s": "arithmetic",
    "published | 6.2": "published by that project; the times are arithmetic",
    "| 1 % | 10 % |": "parts of a schedule",
    "over one 100 Gbit/s card": "arithmetic",
    "to 25 ms. To measure": "arithmetic",
    "174 images/s": "predicted by bench/roofline.py",
    "`join_timeout`": "torch's default",
    "in 20 minutes": "the limit that bench/gpu.sh keeps",
    "95 %": "the level of an interval",
    "logits within": "a tolerance that a test holds",
    "needs over 6 GiB": "a setting",
    "near 2 %": "a score by chance",
}
"""Part of a line that looks measured → why it may stand there without a result file or a link."""
THRESHOLDS = re.compile(r"\| .*(at|near|above|below) \d+ %.* \|")
"""A symptom in a table: no result of ours."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_result_names_commit_machine_and_raw_samples(path: Path) -> None:
    forgiven = ["commit"] if path.name in RERUN else []
    assert problems(path) == forgiven, f"measure {path.name} again, or take it out of RERUN"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_measured_number_is_typed_by_hand(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    typed = [
        line
        for line in typed_by_hand(text)
        if not any(part in line for part in ALLOWED) and not THRESHOLDS.search(line)
    ]
    assert not typed, "generate these lines from a result file (bench/docs), link their source, or leave them out"


@pytest.mark.parametrize("name", SECTIONS)
def test_generated_numbers_have_a_result_file(name: str) -> None:
    assert list(unproven((ROOT / name).read_text(encoding="utf-8"))) == []


def test_everything_allowed_is_needed() -> None:
    lines = [line for document in DOCUMENTS for line in typed_by_hand(document.read_text(encoding="utf-8"))]
    assert [part for part in ALLOWED if not any(part in line for line in lines)] == []


@pytest.mark.parametrize(
    ("line", "measured"),
    [
        ("the loader makes 255 crops a second", True),
        ("1.5× the fastest peer", True),
        ("it takes 3.92 ms", True),
        ("mIoU 56.1 %", True),
        ("Dice brought +1.6 (+1.0 to +2.2)", True),
        ("memory peaks at 1.43 GiB", True),
        ("in 62 minutes", True),
        ("frames of 2048×1024, N×H×W×3 and 3×H×W", False),
        ("on 2 CPU cores, torch 2.14.1, stride 16", False),
        ("[78.47 mIoU at 25 ms](https://example.org)", False),
        ("a step of 400 ms, [as quoted][them]", False),
    ],
)
def test_what_looks_measured(line: str, measured: bool) -> None:
    assert list(typed_by_hand(f"# Speed\n{line}\n")) == ([line] if measured else [])


def test_a_section_without_a_proof_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    where = {"processor": "Chip", "cores": "2", "command": "x", "commit": "abcdef0123"}

    def section(text: str) -> str:
        return f"before\n{BEGIN.format('speed')}\n{text}\n{END}\n"

    def write(document: dict[str, Any]) -> None:
        (tmp_path / "a.json").write_text(json.dumps(document))

    said = section("255 images/s ([a.json](../bench/results/a.json))")
    write({"environment": where, "results": [{"entry": "fastseg", "windows": [1.0]}]})
    assert list(unproven(said)) == []
    assert list(unproven(section("255 images/s"))) == ["speed: no result file"]
    assert list(unproven(section("a table of settings"))) == []
    write({"environment": where, "results": [{"entry": "fastseg", "median": 1.0}]})
    assert problems(tmp_path / "a.json") == ["raw samples"]
    write({"environment": {**where, "commit": "unknown", "cores": ""}, "windows": {"real": [1.0]}})
    assert problems(tmp_path / "a.json") == ["commit", "machine"]
    assert list(unproven(said)) == ["speed: a.json"]
    (tmp_path / "a.json").unlink()
    assert list(unproven(said)) == ["speed: a.json"]
