"""Two runs in one folder: the second is refused, and a process that was killed refuses nobody."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastseg.errors import UserError
from fastseg.files import LOCK, check_free, lock_run_folder

HOLDER = """
import sys, time
from pathlib import Path
from fastseg.files import lock_run_folder
held = lock_run_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(1000)
"""


def test_one_run_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    check_free(folder)
    assert not folder.exists()
    with lock_run_folder(folder):
        for ask in (lock_run_folder, check_free):
            with pytest.raises(UserError, match=f"another process is training in {folder}; wait until it"):
                ask(folder)
    check_free(folder)
    lock_run_folder(folder).close()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process is training"):
        check_free(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / LOCK).exists()
    lock_run_folder(tmp_path).close()


@pytest.mark.parametrize("how", ["refused", "granted twice"])
def test_where_there_are_no_locks(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on, and it is said once."""

    def none(*_: object) -> None:
        if how == "refused":
            raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    lock_run_folder(tmp_path).close()
    check_free(tmp_path)
    lock_run_folder(tmp_path).close()
    said = capsys.readouterr().err
    assert said.count("warning: ") == said.count("\n") == 1
    assert f"the file system of {tmp_path} keeps no locks" in said


def test_where_there_are_locks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock_run_folder(tmp_path).close()
    assert capsys.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
