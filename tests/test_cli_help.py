"""--help: everything on one screen, and nothing left out."""

from dataclasses import dataclass, field

import pytest

import commands
from fastseg.cli_help import (
    WIDTH,
    Setting,
    command_name,
    cut,
    field_docs,
    first_sentence,
    help_lines,
    listed,
    settings,
)
from fastseg.commands.train import Launch, one_screen
from fastseg.config import Config

SCREEN = 48
"""Lines."""
COMMANDS = (
    "fastseg/train.py",
    "fastseg-eval",
    "fastseg-predict",
    "fastseg-report",
    "fastseg-export",
    "fastseg-inspect",
    "fastseg-doctor",
    "tools/make_shards.py",
    "tools/make_scenes.py",
    "bench/throughput.py",
    "bench/compare.py",
    "bench/accuracy.py",
)


def command_words(command: str) -> list[str]:
    return ["python", command] if command.endswith(".py") else [command]


@dataclass(frozen=True)
class Inner:
    """A part."""

    size: tuple[int, int] = (3, 4)
    """Height
    and width. In pixels."""


@dataclass(frozen=True)
class Outer:
    """Settings."""

    good_name: str | None = None
    bare: bool = True
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_shows_an_example(command: str) -> None:
    result = commands.run(*command_words(command), "--help")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) <= SCREEN
    assert "xample: " in result.stdout
    assert any(words in result.stdout for words in ("efault", "values of the recipe", "(required)"))


@pytest.mark.parametrize("command", ["eval", "predict", "export", "inspect"])
def test_help_in_groups_fits_a_narrow_screen(command: str) -> None:
    text = commands.run(f"fastseg-{command}", "--help", columns=80).stdout
    assert sum(len(line) // 81 + 1 for line in text.splitlines()) <= 50
    assert text.count(" options ─") >= 3


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_printed(shell: str) -> None:
    done = commands.run("fastseg-eval", "--tyro-print-completion", shell)
    assert done.returncode == 0
    assert "--max-corrupt-samples" in done.stdout


def test_one_screen_names_every_setting_once() -> None:
    text = one_screen(Launch(), Config())
    flags = [row.flag for tree in (Launch(), Config()) for row in settings(tree)]
    assert len(flags) > 50
    words = text.split()
    # The recipe and others are in the usage and the example, too.
    assert all(words.count(flag) >= 1 for flag in flags)
    assert [flag for flag in flags if text.count(f" {flag} ") > 1] == ["--recipe", "--gpus", "--data.batch"]
    assert max(map(len, text.splitlines())) <= WIDTH


def test_settings_follow_the_parts() -> None:
    assert list(settings(Outer())) == [
        Setting("--good-name", "None", ""),
        Setting("--bare", "True", ""),
        Setting("--inner.size", "3 4", "Height and width"),
    ]
    assert field_docs(Inner) == {"size": "Height and width. In pixels."}


def test_lines_are_cut_between_words() -> None:
    rows = [Setting("--a", "1", "x" * 50 + " " + "y" * 80), Setting("--long", "2 3", "z")]
    assert help_lines(rows) == [f"  --a 1       {'x' * 50} …", "  --long 2 3  z"]
    assert cut("short") == "short"
    assert first_sentence("One.\nTwo. Three.") == "One"


def test_a_flag_keeps_its_value_beside_it() -> None:
    lines = listed("data", [Setting(f"--flag-{i}", "1 2", "") for i in range(20)])
    assert lines[0].startswith("  data   --flag-0 1 2  --flag-1 1 2")
    assert all(line.startswith("         --flag-") and line.endswith(" 1 2") for line in lines[1:])
    assert max(map(len, lines)) <= WIDTH


def test_an_installed_command_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for typed, name in (("/home/me/.venv/bin/fastseg-eval", "fastseg-eval"), ("fastseg/train.py", None)):
        monkeypatch.setattr("sys.argv", [typed])
        assert command_name() == name
