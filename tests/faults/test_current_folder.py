"""Modules of somebody else's in the working directory, where users unpack what they have downloaded: none is run."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import commands
import layouts

Tally = Callable[[str, int, int], None]
STRANGERS = (
    *sorted(name for name in sys.stdlib_module_names if not name.startswith("_")),
    *("fastseg", "torch", "torchvision", "numpy", "nvidia", "PIL", "rich", "tyro", "webdataset", "sitecustomize"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a module of every name; each would leave a file in ``ran`` and end the process."""
    folder = tmp_path / "downloads"
    (folder / "ran").mkdir(parents=True)
    for name in STRANGERS:
        text = f"open({str(folder / 'ran' / name)!r}, 'w').close()\nraise SystemExit('{name} ran')\n"
        (folder / f"{name}.py").write_text(text)
        if name in ("fastseg", "torch"):
            (folder / f"{name}.py").rename(folder / f"_{name}.py")
            (folder / name).mkdir()
            (folder / f"_{name}.py").rename(folder / name / "__init__.py")
    return folder


def succeeds(ended: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert ended.returncode == 0, ended.stderr
    assert not list((folder / "ran").iterdir()), ended.stderr


def train(shards: Path) -> tuple[object, ...]:
    short = ("--optim.epochs", 0.2, "--optim.warmup", 0, "--model.weights", "none")
    return (*commands.TINY, "--shards", shards, "--device", "cpu", *short)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [("fastseg-train",), ("torchrun", commands.ROOT / "fastseg" / "train.py")])
def test_training_on_two_ranks(folder: Path, shards: Path, tally: Tally, launcher: tuple[object, ...]) -> None:
    succeeds(commands.typed(*launcher, *train(shards), "--gpus", 2, cwd=folder), folder)
    tally("modules of another's in the working directory", 1, 1)


@pytest.mark.parametrize("command", [("fastseg-pack",), (sys.executable, commands.ROOT / "tools" / "make_shards.py")])
def test_packing_by_two_processes(folder: Path, tmp_path: Path, tally: Tally, command: tuple[object, ...]) -> None:
    source = layouts.write_folder_dataset(tmp_path / "source", 4, 1)
    succeeds(commands.typed(*command, source, "--out", tmp_path / "out", "--workers", 2, cwd=folder), folder)
    tally("modules of another's in the working directory", 1, 1)


@pytest.mark.slow
def test_checking_the_machine(folder: Path, tally: Tally) -> None:
    """Each group of checks is a process of its own, the compiler another, and so are the ranks."""
    ended = commands.typed("fastseg-doctor", cwd=folder)
    assert "torch.compile" in ended.stdout
    assert not list((folder / "ran").iterdir()), ended.stdout
    tally("modules of another's in the working directory", 1, 1)


def test_a_module_that_is_run_by_its_path(folder: Path, tally: Tally) -> None:
    """Also by a Python that was told to keep the current folder off itself."""
    path = commands.ROOT / "fastseg" / "run_module.py"
    for variables in ({}, {"PYTHONSAFEPATH": "1"}):
        ended = commands.typed(sys.executable, path, "json.tool", "--help", cwd=folder, **variables)
        succeeds(ended, folder)
        assert "usage: " in ended.stdout
        tally("modules of another's in the working directory", 1, 1)
