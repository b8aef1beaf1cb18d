"""--help: everything on one screen, and nothing left out."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import commands
from changes import with_changes
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
    to_type,
)
from fastseg.commands import evaluate, export, inspect_shards, pack, predict
from fastseg.commands.train import Launch, one_screen, parse
from fastseg.config import Config
from fastseg.packing.pack import PackOptions
from fastseg.packing.sources import FindOptions
from fastseg.recipe_table import RECIPES

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
    flags = [to_type(row).split()[0] for tree in (Launch(), Config()) for row in settings(tree)]
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


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("/home/me/.venv/bin/fastseg-eval", "fastseg-eval"),
        ("fastseg/train.py", "python fastseg/train.py"),
        ("tools/make_shards.py", "python tools/make_shards.py"),
    ],
)
def test_usage_names_what_was_typed(typed: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [typed])
    assert command_name() == name
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert command_name() == name.replace("python ", "torchrun ")


@pytest.mark.parametrize("words", [["fastseg-train"], ["python", "fastseg/train.py"], ["torchrun", "fastseg/train.py"]])
@pytest.mark.parametrize("flag", ["--help", "--help-verbose"])
def test_the_usage_of_training_names_what_was_typed(words: list[str], flag: str) -> None:
    assert f"usage: {' '.join(words)} [" in commands.run(*words, flag).stdout.replace("\n", " ")


@pytest.mark.parametrize("words", [command_words(command) for command in COMMANDS if command != "fastseg/train.py"])
def test_every_usage_names_what_was_typed(words: list[str]) -> None:
    assert f"usage: {' '.join(words)} [" in commands.run(*words, "--help", columns=200).stdout


OPTIONS = {
    "train": (Launch, Config),
    "eval": (evaluate.Options,),
    "predict": (predict.Options,),
    "export": (export.Options,),
    "inspect": (inspect_shards.Options,),
    "pack": (pack.Options, FindOptions, PackOptions),
}
"""The settings of every command."""
NUMBERS = {"batch": int, "threads": int, "crop": tuple, "seed": int, "max_corrupt_samples": int, "window": tuple}
"""Flags that mean the same in all commands that have them: how many, or the two of them."""


def hints() -> Iterator[tuple[str, str, Any]]:
    """Command, field and type of every flag; of nested settings by the field's own name."""

    def walk(command: str, cls: type) -> Iterator[tuple[str, str, Any]]:
        for name, kind in get_type_hints(cls).items():
            inner = kind if is_dataclass(kind) else None
            if inner:
                yield from walk(command, inner)
            else:
                yield command, name, kind

    for command, classes in OPTIONS.items():
        for cls in classes:
            yield from walk(command, cls)


def test_flags_mean_the_same_in_every_command() -> None:
    """A number is a number everywhere, and what is on or off is a bare flag."""
    for command, name, kind in hints():
        parts = {get_origin(part) or part for part in (get_args(kind) or (kind,)) if part is not type(None)}
        if name in NUMBERS:
            kinds = parts if get_origin(kind) is not tuple else {tuple}
            assert kinds - {Literal} == {NUMBERS[name]}, f"{command} --{name} is {kind}"
        if name in ("json", "quiet", "overwrite", "verify_shards", "profile", "preview", "merge", "skip_bad"):
            assert kind is bool, f"{command} --{name} is {kind}"


@pytest.mark.parametrize("command", [*OPTIONS, "doctor", "report"])
def test_every_command_has_a_version_and_can_be_quiet(command: str) -> None:
    version = commands.run(f"fastseg-{command}", "--version")
    assert version.stdout.startswith("fastseg-deeplab ")
    assert "--quiet" in commands.run(f"fastseg-{command}", "--help").stdout


def test_switches_are_typed_without_a_value() -> None:
    rows = [Setting("--a.fast", "True", ""), Setting("--a.slow", "False", ""), Setting("--n", "3", "")]
    assert [to_type(row) for row in rows] == ["--a.no-fast", "--a.slow", "--n 3"]
    assert parse(["--verify-shards", "--model.no-channels-last", "--model.compile", "--model.no-sync-bn"])[1] == (
        with_changes(
            Config(), verify_shards=True, model__channels_last=False, model__compile=True, model__sync_bn=False
        )
    )
    assert parse(["--recipe", "notebook", "--model.compile", "None", "--sync-bn"])[1] == (
        with_changes(RECIPES["notebook"](), model__compile=None, model__sync_bn=True)
    )


def test_a_flag_needs_its_first_word_only_where_two_have_the_name() -> None:
    line = ["--epochs", "3", "--no-channels-last", "--name", "x", "--threads=2"]
    short = parse(["--batch", "4", "--crop", "64", "96", *line])[1]
    assert short == with_changes(
        Config(name="x"),
        data__batch=4,
        data__crop=(64, 96),
        data__threads=2,
        optim__epochs=3.0,
        model__channels_last=False,
    )
    assert parse(["--optim.name", "adamw"])[1].optim.name == "adamw"


def test_json_has_stdout_for_itself(shards: Path, tmp_path: Path) -> None:
    """Tables and sentences go to stderr; and it is said in the exit code what was found."""
    whole = commands.run("fastseg-pack", "--verify", "--out", shards, "--json")
    assert json.loads(whole.stdout) == {"out": str(shards), "damages": []}
    assert f"{shards} is whole" in whole.stderr
    copy = shutil.copytree(shards, tmp_path / "copy")
    (copy / "val-000000.tar").write_bytes(b"")
    damaged = commands.run("fastseg-pack", "--verify", "--out", copy, "--json", "--quiet")
    assert damaged.returncode == 2
    assert json.loads(damaged.stdout)["damages"]
    flags = ("--crop", 64, 64, "--samples", 4, "--show", 2, "--batch", 2, "--threads", 1, "--out", tmp_path / "page")
    crops = commands.run("fastseg-inspect", shards, *flags, "--json", "--quiet")
    document = json.loads(crops.stdout)
    assert [c["class"] for c in document["classes"]][:2] == ["road", "sidewalk"]
    assert document["facts"]["split"].startswith("train: 11 frames")
    assert "pixels of each class" in crops.stderr
    assert "crops/s" not in crops.stderr
