"""``python tools/make_shards.py`` as a user types it: killed, stopped, wrong, verified; a full disk: tests/faults."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layouts import write_cityscapes, write_folder_dataset

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "tools" / "make_shards.py")]


def _run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "CITYSCAPES_DATASET"}
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def _files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cityscapes(tmp_path_factory.mktemp("cityscapes"), train=40, val=8, size=(512, 256))


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("cwd")
    shutil.copytree(folder, cwd / "data")  # copy2: with the times, which name the request.
    result = _run("--samples-per-shard", "4", cwd=cwd)
    assert result.returncode == 0, result.stderr
    assert "packed 48 frames" in result.stdout
    assert "48/48" in result.stderr
    return cwd / "shards" / "cityscapes"


CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_killed_in_the_middle_and_started_again(
    folder: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    arguments = [str(folder), "--out", str(tmp_path), "--samples-per-shard", "4", "--workers", "2"]
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(list(tmp_path.glob("*.tar"))) < 3 and process.poll() is None:
        time.sleep(0.002)
    # The terminal's Ctrl-C, and its end, reach the workers as well.
    everyone = number in (signal.SIGINT, signal.SIGHUP)
    os.killpg(process.pid, number) if everyone else process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert not (tmp_path / "manifest.json").exists()
    if number != signal.SIGKILL:
        assert not list(tmp_path.glob(".*.tmp"))
    kept = len(list((tmp_path / ".packing").glob("*.tar.json")))
    assert kept >= 2

    result = _run(*arguments)
    assert result.returncode == 0, result.stderr
    assert f"{4 * kept} frames were already packed" in result.stdout
    assert _files(tmp_path) == _files(undisturbed)
    result = _run(*arguments)
    assert "already holds this set; nothing to do" in result.stdout


def test_verify(undisturbed: Path, tmp_path: Path) -> None:
    assert _run("--verify", "--out", undisturbed).returncode == 0
    shutil.copytree(undisturbed, tmp_path / "out")
    tar = tmp_path / "out" / "val-000000.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    result = _run("--verify", "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "error: val-000000.tar has 5000 bytes" in result.stderr
    assert "faults); pack it again with --overwrite" in result.stderr


def test_wrong_input_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    own = write_folder_dataset(tmp_path / "own")
    (own / "train" / "masks" / "train_001.png").unlink()
    for arguments, sentence in (
        ((), "no Cityscapes"),
        ((own,), "train_001.png: the image has no mask; add it"),
        ((folder, "--quality", "0"), "--quality is 0"),
        ((folder, "--workers", "0"), "--workers is 0"),
        (
            (folder, "--out", "s3://bucket/x"),
            "aws s3 sync shards/cityscapes s3://bucket/x --exclude '.*' --exclude man",
        ),
        ((folder, "--merge", "--out", "s3://bucket/x"), "it must be a local folder"),
        ((folder, "--part", "3/2"), "--part is '3/2'"),
        ((folder, "--part", "1/2", "--verify"), "--part and --verify exclude each other"),
        (("--merge",), "holds no parts of a set"),
        ((folder, "--splits", "tset"), "--splits has 'tset'"),
        ((own, "--guess-classes"), "classes.json is there already"),
        ((folder, "--guess-classes"), "is Cityscapes, whose classes are known; pack it without"),
        ((folder, "--guess-classes", "--verify"), "--guess-classes and --verify exclude each other"),
        (("--verify",), "holds no finished set of shards"),
    ):
        result = _run(*arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert sentence in result.stderr
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "shards").exists()


def test_classes_are_guessed_and_shown(tmp_path: Path) -> None:
    own = write_folder_dataset(tmp_path / "own")
    (own / "classes.json").unlink()
    result = _run(own, "--guess-classes", "--workers", "1")
    assert result.returncode == 0, result.stderr
    for words in ("6 masks of", "class 4", "class 9", f"wrote {own}/classes.json: write the names in"):
        assert words in result.stdout
    assert _run(own, "--out", tmp_path / "shards", "--workers", "1").returncode == 0


def test_a_preview_names_each_kind_of_problem_once(tmp_path: Path) -> None:
    own = write_folder_dataset(tmp_path / "own", train=5)
    for number in range(1, 5):
        shutil.copy(own / "train" / "images" / "train_000.png", own / "train" / "masks" / f"train_00{number}.png")
    (own / "val" / "masks" / "val_000.png").write_bytes(b"no picture")
    result = _run(own, "--preview", "--workers", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    problems = [line for line in result.stdout.splitlines() if line.startswith("• the mask") or "val_000" in line]
    assert len(problems) == 2
    assert "train_001.png" in problems[0]
    assert problems[0].endswith("(and 3 more samples alike)")


def test_help_names_every_option() -> None:
    result = _run("--help")
    assert result.returncode == 0
    encoding = ("--image", "--quality", "--chroma", "--mask", "--height", "--samples-per-shard", "--seed")
    for option in (
        "--classes",
        "--guess-classes",
        "--splits",
        "--out",
        "--workers",
        "--overwrite",
        "--part",
        "--merge",
        "--verify",
        *encoding,
    ):
        assert option in result.stdout
