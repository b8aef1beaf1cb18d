"""What becomes of errors at the end of a command."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastseg.errors import UserError, run_command, shown


def fail_with(error: BaseException) -> None:
    def main() -> None:
        raise error

    run_command(main)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("x is 3; it must be 4"), 2, "error: x is 3; it must be 4\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), 2, "error: the disk is full at /a/b; "),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
    ],
)
def test_one_sentence_and_a_code(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        fail_with(error)
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(says)


def test_ranks_say_who_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit):
        fail_with(UserError("no"))
    assert capsys.readouterr().err == "error: [rank 3] no\n"


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(PermissionError):
        fail_with(PermissionError(errno.EACCES, "denied"))
    with pytest.raises(ZeroDivisionError):
        fail_with(ZeroDivisionError())


def test_every_command_has_a_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fastseg-predict", "--version"])
    run_command(lambda: pytest.fail("the command has no such flag"))
    assert re.fullmatch(r"fastseg-deeplab \d+\.\d+\S*\n", capsys.readouterr().out)


def test_a_reader_that_leaves_is_no_error() -> None:
    script = "from fastseg.errors import run_command\nrun_command(lambda: print('line\\n' * 100_000))"
    command = f'{sys.executable} -c "$0" | head -1'
    result = subprocess.run(["bash", "-c", command, script], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "line\n"
    assert result.stderr == ""


def test_output_that_cannot_be_written_is_an_error_at_the_end(tmp_path: Path) -> None:
    """The work is done all the same, with no log either."""
    script = f"""
import sys
from pathlib import Path
from fastseg.errors import run_command
def main():
    print("result")
    print("log", file=sys.stderr)
    Path({str(tmp_path / "done")!r}).touch()
run_command(main)
"""
    full = "error: the output cannot be written (No space left on device); what is written to files is kept\n"
    for redirected, code, says in (
        (">/dev/full", 2, f"log\n{full}"),
        (">/dev/full 2>/dev/full", 2, ""),
        ("2>/dev/full", 0, ""),
        (">&- 2>&-", 0, ""),
    ):
        command = ["bash", "-c", f'{sys.executable} -c "$0" {redirected}', script]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, result.stderr) == (code, says), redirected
        (tmp_path / "done").unlink()


def test_a_sentence_is_one_line_whatever_names_are_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail_with(UserError("a\nb\x1b[2Jc\udcffd é is no file"))
    assert capsys.readouterr().err == "error: a b\\x1b[2Jc\\udcffd é is no file\n"


def test_values_are_shown_shortly() -> None:
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, "a" * 10**6, 10**5000, [10**5000] * 1000, {"k" * 1000: deep}, object()):
        assert len(shown(value)) < 300
    assert [shown(value) for value in (True, None, 1.5, -3, "a", [1, "b"])] == [
        *("True", "None", "1.5", "-3", "'a'", "[1, 'b']")
    ]
