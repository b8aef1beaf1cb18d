"""The table of faults: written where every test passed, and then with what was skipped; not at all otherwise."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import commands
from bench.docs import documents as readme

TESTS = """
import pytest

@pytest.mark.parametrize("n", [3, 2])
def test_held(tally, n):
    tally("a kill", n, n)
    tally("a stop", 1, 1)
    tally("a stop", 1, 1)

def test_left_out():
    pytest.skip("no disk here")
"""


OTHERS = """
def test_another(tally, again):
    tally("a cut", 1, 1)
"""


def count(folder: Path, tests: str, *flags: str, add: bool = False) -> tuple[str, Path]:
    """What a real pytest says that counts ``tests``, and the file it may have written."""
    for name in ("conftest.py", "soak.py"):
        shutil.copy(Path(__file__).parent / name, folder)
    (folder / "test_another.py").write_text(OTHERS)
    (folder / "test_faults.py").write_text(tests)
    path = folder / "faults.json"
    if not add:
        path.unlink(missing_ok=True)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, *flags, folder],
        env=commands.environment() | {"FASTSEG_FAULTS_JSON": str(path), "FASTSEG_SOAK": ""},
        cwd=commands.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout, path


@pytest.mark.slow
def test_only_a_session_that_passed_is_counted(tmp_path: Path) -> None:
    output, path = count(tmp_path, TESTS)
    document = json.loads(path.read_text())
    assert [list(row.values()) for row in document["faults"]] == [["a cut", 1, 1], ["a kill", 5, 5], ["a stop", 4, 4]]
    assert document["tests"] == {"passed": 3, "failed": 0, "skipped": 1}
    assert 0 < document["seconds"] < 600, output
    assert document["skipped"] == [{"test": "test_left_out", "reason": "no disk here"}]
    _, path = count(tmp_path, TESTS, "--numprocesses", "2", "--dist", "loadfile")
    assert json.loads(path.read_text()) | {"seconds": 0} == document | {"seconds": 0}
    _, path = count(tmp_path, TESTS, add=True)  # the commit is the same
    twice = json.loads(path.read_text())
    assert [list(row.values()) for row in twice["faults"]] == [["a cut", 2, 2], ["a kill", 10, 10], ["a stop", 8, 8]]
    assert twice["tests"] == {"passed": 6, "failed": 0, "skipped": 2}
    other = twice | {"environment": twice["environment"] | {"commit": "another"}}
    path.write_text(json.dumps(other))
    _, path = count(tmp_path, TESTS, add=True)
    assert json.loads(path.read_text()) | {"seconds": 0} == document | {"seconds": 0}
    for wrong in ("def test_lost(tally):\n    tally('a kill', 1, 0)\n    assert False\n", "import no_such_module\n"):
        output, path = count(tmp_path, TESTS + wrong)
        assert not path.exists()
        assert f"{path} is not written: not every test passed" in output


def test_the_table_says_how_long_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    document = {
        "environment": {"processor": "Chip", "cores": "2", "command": "make faults", "torch": "9.8", "commit": "abc"},
        "faults": [{"fault": "a kill", "tries": 5, "survived": 5}],
    }
    for known, said in (({"seconds": 754.8}, "; all of it in 12.6 minutes"), ({}, "")):
        (tmp_path / "faults.json").write_text(json.dumps(document | known))
        assert readme.faults().endswith(f": Chip, 2 cores; `make faults` at abc with torch 9.8{said}.*")
