"""What a run writes down about where and how it ran."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fastseg.device import command_line, environment


def test_the_command_can_be_typed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--name", "a b"]
    for script, typed in (
        ("fastseg/train.py", "python fastseg/train.py"),
        (str(tmp_path / "fastseg" / "train.py"), "python fastseg/train.py"),
        ("/elsewhere/train.py", "python /elsewhere/train.py"),
        ("/elsewhere/.venv/bin/fastseg-eval", "fastseg-eval"),
    ):
        assert command_line([script, *flags]) == f"{typed} --name 'a b'"


def test_the_command_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my script.py").write_text("import sys; print(sys.argv[1:])")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "my script.py"), "a b", "$HOME"])
    words = shlex.split(environment()["command"])
    assert words[0] == "python"
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=True)
    assert done.stdout == "['a b', '$HOME']\n"
