"""The table of faults: written where every test passed, and then with what was skipped; not at all otherwise."""

import json
import subprocess
import sys
from pathlib import Path

import commands

TESTS = """
import pytest

def test_held(tally):
    tally("a kill", 3, 3)
    tally("a kill", 2, 2)

def test_left_out():
    pytest.skip("no disk here")
"""


def count(folder: Path, tests: str) -> tuple[str, Path]:
    """What a real pytest says that counts ``tests``, and the file it may have written."""
    (folder / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (folder / "test_faults.py").write_text(tests)
    path = folder / "faults.json"
    path.unlink(missing_ok=True)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)],
        env=commands.environment() | {"FASTSEG_FAULTS_JSON": str(path)},
        cwd=commands.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout, path


def test_only_a_session_that_passed_is_counted(tmp_path: Path) -> None:
    output, path = count(tmp_path, TESTS)
    document = json.loads(path.read_text())
    assert document["faults"] == [{"fault": "a kill", "tries": 5, "survived": 5}], output
    assert document["tests"] == {"passed": 1, "failed": 0, "skipped": 1}
    assert document["skipped"] == [{"test": "test_left_out", "reason": "no disk here"}]
    for wrong in ("def test_lost(tally):\n    tally('a kill', 1, 0)\n    assert False\n", "import no_such_module\n"):
        output, path = count(tmp_path, TESTS + wrong)
        assert not path.exists()
        assert f"{path} is not written: not every test passed" in output
