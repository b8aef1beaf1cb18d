"""One set packed as parts, at once and by real processes, killed and started again: the bytes of a single machine's."""

import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from soak import THOROUGH, TIMES

from commands import ROOT, environment
from fastseg.errors import UserError
from fastseg.packing.pack import PackOptions, pack, pack_part
from fastseg.packing.parts import PartNumber, merge, parse_part
from fastseg.packing.sources import DataSet, open_source
from layouts import write_cityscapes, zip_cityscapes

COMMAND = [sys.executable, str(ROOT / "tools" / "make_shards.py")]
SMALL = PackOptions(samples_per_shard=3)
PARTS = [PartNumber(index, 3) for index in range(3)]
KILLS = (20 if THOROUGH else 6) * TIMES
Tally = Callable[[str, int, int], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cityscapes(tmp_path_factory.mktemp("cityscapes"), train=8, val=4, test=2)


@pytest.fixture(scope="module")
def source(folder: Path) -> DataSet:
    return open_source(folder)


@pytest.fixture(scope="module")
def undisturbed(source: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "undisturbed"
    pack(source, out, SMALL, workers=1)
    return out


@pytest.fixture
def packed(source: DataSet, tmp_path: Path) -> Path:
    """A folder with three finished parts."""
    for number in PARTS:
        assert pack_part(source, tmp_path / "set", number, SMALL, workers=1) is None
    return tmp_path / "set"


def contents(out: Path) -> dict[str, bytes]:
    """All files, hidden ones included."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_parts_of_several_machines(folder: Path, undisturbed: Path, tmp_path: Path, tally: Tally, again: int) -> None:
    """The commands, at once, each on a copy of the zips of its own; the first is killed and started again."""
    out, command = tmp_path / "out", [*COMMAND, "--samples-per-shard", "3", "--workers", "1"]
    zips = [zip_cityscapes(folder, tmp_path / f"machine{index}") for index in range(3)]
    lines = [[*command, str(zips[part.index]), "--out", str(out), "--part", str(part)] for part in PARTS]
    pack(open_source(zips[0]), tmp_path / "alone", SMALL, workers=1)
    running = [start(line) for line in lines]
    while not list(out.glob("part-1-of-3/*.tar")) and running[0].poll() is None:
        time.sleep(0.002)
    time.sleep(0.005 * again)
    running[0].kill()
    errors = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running[1:]] == [0, 0], errors
    unfinished = finish(start([*COMMAND, "--merge", "--out", str(out)]))
    assert (unfinished.returncode, unfinished.stderr.count("\n")) == (2, 1)
    assert "part-1-of-3 is not finished; run --part 1/3 again" in unfinished.stderr

    assert finish(start(lines[0])).returncode == 0
    merged = finish(start([*COMMAND, "--merge", "--out", str(out)]))
    assert merged.returncode == 0, merged.stderr
    assert contents(out) == contents(tmp_path / "alone")
    folders = {name: data for name, data in contents(undisturbed).items() if name != ".request"}
    assert {name: data for name, data in contents(out).items() if name != ".request"} == folders
    assert finish(start([*COMMAND, "--verify", "--out", str(out)])).returncode == 0
    tally("one of three machines killed while packing its part", 1, 1)


def test_a_merge_killed_at_any_instant_goes_on(packed: Path, undisturbed: Path, tmp_path: Path, tally: Tally) -> None:
    alone, copy = shutil.copytree(packed, tmp_path / "alone"), tmp_path / "copy"
    process, begin = merging(alone), time.monotonic()
    process.join()
    seconds, draw, killed, survived = time.monotonic() - begin, random.Random(5), 0, 0
    while killed < KILLS:
        process = merging(shutil.copytree(packed, copy))
        time.sleep(draw.random() * seconds)
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            seconds *= 0.9  # it was quicker: the machine had more to do before
        else:
            killed += 1
            merge(copy)
            survived += contents(copy) == contents(undisturbed)
        shutil.rmtree(copy)
    tally("SIGKILL while parts are merged", killed, survived)
    assert survived == killed


def merging(out: Path) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=merge, args=(out,))
    process.start()
    return process


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors.split("\r")[-1])


def test_merged_parts_are_the_set_of_one_machine(packed: Path, undisturbed: Path, source: DataSet) -> None:
    merge(packed)
    assert contents(packed) == contents(undisturbed)
    assert [path for path in packed.iterdir() if path.is_dir()] == []
    manifest = merge(packed)  # nothing left to do
    assert pack_part(source, packed, PARTS[0], SMALL, workers=1) == manifest
    assert pack(source, packed, SMALL, workers=1) == manifest


def test_what_cannot_be_merged(packed: Path, source: DataSet, tmp_path: Path) -> None:
    def refused(sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            merge(packed)
        assert not (packed / "manifest.json").exists()

    (packed / "part-2-of-3").rename(tmp_path / "elsewhere")
    refused(r"set lacks part-2-of-3; pack it with --part 2/3, or copy it there")
    pack_part(source, packed, PartNumber(1, 2), SMALL, workers=1)
    refused(r"holds both part-1-of-3 and part-2-of-2; remove the parts that do not belong")
    shutil.rmtree(packed / "part-2-of-2")
    pack_part(source, packed, PARTS[1], replace(SMALL, seed=1), workers=1)
    refused(r"part-2-of-3 was packed from other inputs or with other options than part-1-of-3; pack it again")
    shutil.rmtree(packed / "part-2-of-3")
    (tmp_path / "elsewhere").rename(packed / "part-2-of-3")
    note = packed / "part-2-of-3" / ".packing" / "part.json"
    whole = note.read_bytes()
    note.write_bytes(whole[:100])
    refused(r"part\.json is damaged .*; copy the part again, or pack it again")
    note.unlink()
    refused(r"part-2-of-3 is not finished; run --part 2/3 again")
    note.write_bytes(whole)
    tar = next((packed / "part-2-of-3").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1])
    refused(rf"part-2-of-3 lacks {tar.name} or its index, or part of it; copy the folder again")
    # Only what was cut is packed again.
    pack_part(source, packed, PARTS[1], SMALL, workers=1)
    merge(packed)


def test_a_set_of_another_request_is_left_alone(packed: Path, source: DataSet, undisturbed: Path) -> None:
    pack(source, packed, replace(SMALL, seed=1), workers=1)
    before = contents(packed)
    with pytest.raises(UserError, match="holds a set packed from other inputs or with other options"):
        merge(packed)
    with pytest.raises(UserError, match="holds a set packed from other inputs or with other options"):
        pack_part(source, packed, PARTS[0], SMALL, workers=1)
    assert contents(packed) == before
    merge(packed, overwrite=True)
    assert contents(packed) == contents(undisturbed)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "a/b", "-1/3", "1/3/5", ""])
def test_a_part_is_one_of_several(text: str) -> None:
    with pytest.raises(UserError, match=r"--part is .*; it must be I/N with I from 1 to N, such as 1/4"):
        parse_part(text)
    assert parse_part("2/3") == PartNumber(1, 3)


def test_no_more_parts_than_shards(source: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--part is 1/7, but there are only 6 shards"):
        pack_part(source, tmp_path, PartNumber(0, 7), SMALL, workers=1)
    with pytest.raises(UserError, match="holds no parts of a set; pack them with --part 1/N"):
        merge(tmp_path)
    assert not list(tmp_path.iterdir())
