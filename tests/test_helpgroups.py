"""Options in groups: boxes of ``--help``, and one flat dataclass for everybody else."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from fastseg.cli_help import parse

GROUPS = {"speed": "batch", "result": "out"}


@dataclass(frozen=True)
class Options:
    """What it does."""

    source: Annotated[Path, tyro.conf.Positional]
    """Where from."""
    split: str = "val"
    batch: int | None = None
    """Frames at a time."""
    fast: bool = False
    out: Path = Path("out")


def test_options_stay_flat() -> None:
    assert Options(Path("a"), batch=3) == Options(Path("a"), "val", 3, False, Path("out"))
    typed = ["a", "--fast", "--batch", "3", "--out", "b", "--split", "test"]
    parsed = parse(Options, typed, **GROUPS)
    assert parsed == Options(Path("a"), "test", 3, True, Path("b"))
    assert parse(Options, ["a"], **GROUPS) == Options(Path("a"))


def test_help_has_a_box_for_each_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Options, ["--help"], **GROUPS)
    usage, _, boxes = capsys.readouterr().out.partition("positional arguments")
    assert "What it does." in usage
    words = ("Where from.", "options", "--split", "speed options", "--batch", "Frames at a time.", "--fast")
    places = [boxes.index(word) for word in (*words, "result options", "--out")]
    assert places == sorted(places)
