"""``fastseg-report``: a run's page anew, a page about two runs, and what it refuses."""

import json
from pathlib import Path

import pytest

import commands
from fastseg.commands.report import Options, check
from fastseg.errors import UserError


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    folders = (tmp_path / "one", tmp_path / "other")
    for i, folder in enumerate(folders):
        folder.mkdir()
        line = {"event": "eval", "step": 3, "epoch": 1, "miou": 0.25 + i / 10, "classes": {"road": 0.25}, "images": 2}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return folders


def test_one_run_and_two(runs: tuple[Path, Path], tmp_path: Path) -> None:
    done = commands.run("fastseg-report", "one", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "the report is one/report.html\n"), done.stderr
    assert "25.00 %" in (runs[0] / "report.html").read_text()
    done = commands.run("fastseg-report", "one", "other", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "the report is one/compare-other.html\n"), done.stderr
    assert "+10.00 points" in (runs[0] / "compare-other.html").read_text()
    again = commands.run("fastseg-report", "one", "other", "--out", "pages/both.html", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, "the report is pages/both.html\n"), again.stderr
    assert commands.run("fastseg-report", "one", "nowhere", cwd=tmp_path).returncode == 2


def test_what_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = runs
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    mine = tmp_path / "mine.html"
    mine.write_text("<title>mine</title>")
    for options, said in (
        (Options(()), "no run is named; fastseg-report takes one, or two to compare"),
        (Options((one, other, one)), "3 runs are named"),
        (Options((one, tmp_path / "nowhere")), "nowhere does not exist; name the folder of a run"),
        (Options((tmp_path / "file",)), "file is a file; name the folder of a run"),
        (Options((tmp_path / "empty",)), "empty holds no run; name the folder of a run"),
        (Options((one, one)), "one is named twice"),
        (Options((one,), mine), "mine.html exists and is no page of fastseg; name another --out or add --overwrite"),
        (Options((one,), other), "--out is .*, which is a folder; name a file"),
    ):
        with pytest.raises(UserError, match=said):
            check(options)
    assert check(Options((one,), mine, overwrite=True)) == mine
    assert check(Options((one, other))) == one / "compare-other.html"
