"""The commands on damaged sets: one sentence that names the place, or damaged records skipped and counted."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import commands
import runs
import zygote
from checkpoints import write_checkpoint
from fastseg.commands import evaluate, train
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.sources import open_source
from fastseg.shards.manifest import read_manifest
from fastseg.shards.tar import read_index
from layouts import write_cityscapes

Tally = Callable[[str, int, int], None]
RUN = (*commands.TINY, "--gpus", 1, "--device", "cpu", "--optim.epochs", 3, "--name", "run")


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "set"))


def overwrite(folder: Path, shard: str, record: int, extension: str) -> str:
    """Damage one file of a record, silently for its decoder; returns how it is named."""
    entry = read_index((folder / f"{shard}.idx").read_text())[record]
    part = next(part for part in entry.components if part.extension == extension)
    with (folder / f"{shard}.tar").open("r+b") as tar:
        tar.seek(part.offset + int(part.size * 0.7))
        tar.write(b"\xff" * 5)
    return f"{shard}.tar, record {entry.key} at byte {part.offset}: its {'image' if extension == 'jpg' else 'mask'} is"


def exchange(one: Path, other: Path) -> None:
    """Swap two files."""
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def exchanged_tars(folder: Path) -> None:
    """Two tars of one size, each with as many records as the other."""
    exchange(folder / "train-000000.tar", folder / "train-000001.tar")


def exchanged_indexes(folder: Path) -> None:
    exchange(folder / "train-000000.idx", folder / "train-000001.idx")


def other_tar(folder: Path) -> None:
    shutil.copy(folder / "val-000001.tar", folder / "val-000000.tar")


def other_manifest(folder: Path) -> None:
    """Of a set of the same images in another order."""
    source = open_source(folder.parent / "source")
    pack(source, folder.parent / "other", PackOptions(samples_per_shard=4, seed=1), workers=1)
    shutil.copy(folder.parent / "other" / "manifest.json", folder)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a missing tar": (
        lambda folder: (folder / "train-000002.tar").unlink(),
        r"/train-000002\.tar is missing, though the manifest names it",
    ),
    "a missing index": (
        lambda folder: (folder / "val-000001.idx").unlink(),
        r"/val-000001\.idx is missing, though the manifest names it",
    ),
    "an empty tar": (
        lambda folder: (folder / "train-000001.tar").write_bytes(b""),
        r"/train-000001\.tar has 0 bytes, the manifest says \d+, within or before record aachen_\d+_000019 at byte 512",
    ),
    "the index of another tar": (
        exchanged_indexes,
        r"/train-00000[01]\.idx is damaged or the index of another tar than .*/train-00000[01]\.tar: its SHA-256",
    ),
    "another tar": (other_tar, r"/val-000000\.tar has \d+ bytes, the manifest says \d+"),
    "two tars of one size exchanged": (
        exchanged_tars,
        r"/train-00000[01]\.tar, record aachen_\d+_000019 at byte \d+: its JSON is not as it was packed",
    ),
    "a missing manifest": (
        lambda folder: (folder / "manifest.json").unlink(),
        r"holds no finished set of shards \(no manifest\.json\)",
    ),
    "the manifest of another set": (
        other_manifest,
        r"(train|val)-0.*its SHA-256 is not the manifest's|the manifest says",
    ),
}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A set whose tars have one size."""
    source = open_source(write_cityscapes(tmp_path / "source", 11, 5, size=(96, 64)))
    pack(source, tmp_path / "set", PackOptions(samples_per_shard=4), workers=1)
    shards = read_manifest(tmp_path / "set").splits["train"].shards
    assert shards[0].bytes == shards[1].bytes
    return tmp_path / "set"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_set_that_is_not_whole_is_refused(whole: Path, tmp_path: Path, tally: Tally, fault: str) -> None:
    """By training, before its first step or with its first batch."""
    damage, says = FAULTS[fault]
    damage(whole)
    started = zygote.start(
        train.main, "train.py", *RUN, "--shards", whole, "--runs", tmp_path, output=tmp_path / "output"
    )
    code, output = started.finish(), started.output
    refused = code == 2 and output.count("error: ") == 1 and "Traceback" not in output
    assert refused, output
    assert re.search(f"error: .*{says}", output), output
    tally(fault, 1, 1)


TYPED = {
    "fastseg-eval": ("val", ("fastseg-eval", "{checkpoint}", "--gpus", 1, "--device", "cpu")),
    "torchrun fastseg/train.py": ("train", ("torchrun", "--nproc-per-node", 1, "fastseg/train.py", *RUN)),
}


@pytest.mark.parametrize("command", TYPED)
@pytest.mark.parametrize("fault", ["a cut tar", "a flipped byte in a mask"])
def test_damage_under_a_command_as_typed(copy: Path, tmp_path: Path, tally: Tally, command: str, fault: str) -> None:
    """The cut is found at the start, the byte as its record is read."""
    split, words = TYPED[command]
    tar, index = (copy / f"{split}-000000.{suffix}" for suffix in ("tar", "idx"))
    entry = read_index(index.read_text())[1]
    mask = next(part for part in entry.components if part.extension == "mask.tif")
    whole, at = tar.read_bytes(), mask.offset + mask.size // 2
    tar.write_bytes(whole[:at] + (b"" if fault == "a cut tar" else bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]))
    record = f"record {entry.key} at byte {mask.offset}"
    said = {
        "a cut tar": f"{tar} has {at} bytes, the manifest says {len(whole)}, within or before {record}",
        "a flipped byte in a mask": f"{tar}, {record}: its mask is not as it was packed",
    }
    checkpoint = write_checkpoint(tmp_path / "checkpoint.pt")
    runs_in = () if split == "val" else ("--runs", tmp_path)
    typed = [str(word).format(checkpoint=checkpoint) for word in (*words, "--shards", copy, *runs_in)]
    run = commands.typed if fault == "a cut tar" else commands.run
    commands.refused(run(*typed), said[fault])
    tally(f"{command} on {fault}", 1, 1)


def test_hashes_are_compared_before_the_first_step(copy: Path, tmp_path: Path) -> None:
    """Of both splits; by the evaluation, too, and by two ranks in one voice."""
    command = (*RUN, "--shards", copy, "--runs", tmp_path, "--verify-shards")
    started = zygote.start(train.main, "train.py", *command, output=tmp_path / "whole")
    assert started.finish() == 0, started.output
    assert "5/5" in started.output
    named = overwrite(copy, "val-000001", 0, "mask.tif")
    started = zygote.start(train.main, "train.py", *command, "--resume", "never", output=tmp_path / "damaged")
    assert started.finish() == 2
    assert f"error: {copy}/{named} not as it was packed (CRC-32); copy or pack the set again" in started.output
    checkpoint = next(tmp_path.glob("run*/checkpoints/last.pt"))
    command = (checkpoint, "--device", "cpu", "--shards", copy, "--verify-shards")
    started = zygote.start(evaluate.main, "fastseg-eval", *command, "--gpus", 1, output=tmp_path / "evaluation")
    assert started.finish() == 2
    assert f"error: {copy}/{named} not as it was packed" in started.output
    ranks = commands.run("fastseg-eval", *command, "--gpus", 2)
    commands.refused(ranks, f"{copy}/{named} not as it was packed")


@pytest.mark.slow
def test_damaged_records_are_passed_over(copy: Path, tmp_path: Path, tally: Tally) -> None:
    """Up to a number, by two ranks and by one; the score says of how many frames it is."""
    named = [
        overwrite(copy, "train-000000", 0, "jpg"),
        overwrite(copy, "train-000002", 1, "mask.tif"),
        overwrite(copy, "val-000000", 2, "jpg"),
    ]
    command = (*commands.TINY, "--device", "cpu", "--optim.epochs", 3, "--shards", copy, "--runs", tmp_path)
    once = commands.run("python", "fastseg/train.py", "--gpus", 2, *command, "--name", "once", "--max-restarts", 3)
    commands.refused(once, "not as it was packed (CRC-32); copy or pack the set again")
    assert once.returncode == 2
    assert once.stderr.count("peak learning rate") == 1  # started once
    two = ("python", "fastseg/train.py", "--gpus", 2, *command, "--name", "two", "--max-corrupt-samples", 2)
    result = commands.run(*two)
    assert result.returncode == 0, result.stderr
    assert all(f"warning: {copy}/{name} not as it was packed" in result.stderr for name in named)
    assert runs.lines(tmp_path / "two", "train")[-1]["corrupt_samples"] == 2
    assert all((line["images"], line["corrupt_samples"]) == (4, 1) for line in runs.lines(tmp_path / "two", "eval"))
    assert "on 4 images, 1 damaged ones left out" in result.stderr
    assert "damaged records" in (tmp_path / "two" / "report.html").read_text()
    one = ("train.py", "--gpus", 1, *command, "--name", "one", "--max-corrupt-samples", 1)
    ended = zygote.start(train.main, *one, output=tmp_path / "output")
    assert ended.finish() == 2
    assert "or raise --max-corrupt-samples, which is 1" in ended.output

    checkpoint = tmp_path / "two" / "checkpoints" / "last.pt"
    flags = (checkpoint, "--shards", copy, "--device", "cpu", "--max-corrupt-samples", 1, "--json")
    alone, together = (commands.run("fastseg-eval", *flags, *ranks) for ranks in ((), ("--gpus", 2)))
    for result in (alone, together):
        assert result.returncode == 0, result.stderr
        assert "1 damaged frames were left out" in result.stderr
    scores = [json.loads(result.stdout) for result in (alone, together)]
    assert scores[0]["matrix"] == scores[1]["matrix"]
    assert [(score["images"], score["corrupt_samples"]) for score in scores] == [(4, 1), (4, 1)]
    tally("a damaged record skipped (--max-corrupt-samples)", 3, 3)
