"""The README says what is committed as measured, and nothing else."""

import dataclasses
from pathlib import Path

import pytest

from bench.suite import readme
from bench.suite.rows import Results, Row
from fastseg.errors import UserError


def test_the_readme_is_up_to_date() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.with_section(text, readme.section()) == text, "run: python -m bench.suite.readme"


def test_a_section_shows_every_stage_of_every_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    where = {"processor": "Chip", "cores": "2", "gpus": "none", "command": "x", "commit": "abcdef0123", "torch": "9.8"}
    rows = (
        Row("loader", "fastseg", "images/s", {}, (123.0, 124.0, 125.0)),
        Row("loader", "other", "images/s", {}, skipped="not installed: other"),
        Row("packing", "fastseg", "frames/s", {}, (7.25,)),
    )
    derived = ({"name": "loader/seed", "value": 2.0, "sentence": "twice"},)
    frames = {"origin": "procedural", "count": 5, "size": [1024, 2048]}
    cpu = Results(where, {"frames": frames}, rows, derived)
    cpu.write(tmp_path / "throughput-cpu.json")
    assert readme.section().startswith(readme.NO_GPU)
    of_a_set = {"frames": frames | {"origin": "cityscapes"}}
    gpu = dataclasses.replace(cpu, environment=where | {"gpus": "1 × Card"}, settings=of_a_set)
    gpu.write(tmp_path / "throughput-gpu.json")
    text = readme.section()
    assert readme.NO_GPU not in text
    assert "on 5 procedural frames of 2048×1024." in text
    assert "on 5 frames of 2048×1024 from cityscapes." in text
    for words in ("Throughput: Chip, 2 cores", "124", "7.25", "not installed: other", "*Twice.*", "torch 9.8"):
        assert words in text
    assert text.index("1 × Card") < text.index("Chip, 2 cores")


def test_without_results_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert readme.section() == readme.NO_GPU


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(UserError, match="lacks one of the lines"):
        readme.with_section("# nothing", "text")
