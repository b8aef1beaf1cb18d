"""Packing that is killed at any instant, or runs out of disk, and is started again: an undisturbed run's bytes."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from soak import THOROUGH, TIMES

import commands
import zygote
from fastseg.shards.verify import verify
from layouts import write_cityscapes
from tools import make_shards

Tally = Callable[[str, int, int], None]
KILLS = (20 if THOROUGH else 6) * TIMES
ROOMS = (100, 600, 1100)
"""KiB free for a set of some 1,500."""


def start(source: Path, out: Path, log: Path) -> zygote.Command:
    """``python tools/make_shards.py``, forked from a process without threads that has imported all it needs."""
    words = ("make_shards.py", source, "--out", out, "--samples-per-shard", 4, "--workers", 1)
    return zygote.start(pack, *words, output=log)


def pack() -> None:
    make_shards.main()


def contents(out: Path) -> dict[str, bytes]:
    """All files, hidden ones included."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_killed_at_any_instant_and_started_again(tmp_path: Path, tally: Tally) -> None:
    source = write_cityscapes(tmp_path / "source", train=24, val=8, size=(256, 128))
    begin = time.monotonic()
    assert start(source, tmp_path / "alone", tmp_path / "log").finish() == 0
    seconds, expected = time.monotonic() - begin, contents(tmp_path / "alone")
    assert verify(tmp_path / "alone", workers=1) == []
    draw, killed, survived, stages = random.Random(8), 0, 0, set[int]()
    while killed < KILLS:
        out, log = tmp_path / "set", tmp_path / "again"
        running = start(source, out, log)
        time.sleep(seconds * draw.random())
        running.process.kill()
        if running.finish() != -signal.SIGKILL:
            seconds *= 0.9  # it was quicker: the machine had more to do before
        else:
            killed += 1
            # Killed just behind the manifest, it leaves its notes in .packing beside the whole set.
            assert not (out / "manifest.json").exists() or expected.items() <= contents(out).items()
            stages.add(len(list(out.glob("*.tar"))))
            assert start(source, out, log).finish() == 0, log.read_text()
            survived += contents(out) == expected
        shutil.rmtree(out, ignore_errors=True)
    tally("SIGKILL while packing", KILLS, survived)
    assert survived == KILLS
    assert len(stages) > 1, "every kill came before the first shard"


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path, tally: Tally, again: int) -> None:
    """Really full: a file system of its own. What is finished is kept, and with more room the same command resumes."""
    source = write_cityscapes(tmp_path / "source", train=16, val=4, size=(512, 256))
    assert start(source, tmp_path / "alone", tmp_path / "log").finish() == 0
    expected, disk, survived, finished = contents(tmp_path / "alone"), tmp_path / "disk", 0, list[int]()
    disk.mkdir()
    inside = ["unshare", "--mount", "--map-root-user", "bash", "-c"]
    if subprocess.run([*inside, f"mount -t tmpfs none {disk}"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    pack = f"{sys.executable} tools/make_shards.py {source} --out {disk}/set --samples-per-shard 4 --workers 1"
    for room in (room - 8 * again for room in ROOMS):
        result = tmp_path / str(room)
        mount = f"mount -t tmpfs -o size={room}k none {disk}"
        full = f"{mount} && {pack} > /dev/null 2> {result}.err; echo $?; ls -A {disk}/set"
        more = f"mount -o remount,size=10m {disk} && {pack} > {result}.log && cp -a {disk}/set {result}"
        script = subprocess.run(
            [*inside, f"{full}; {more}"], cwd=commands.ROOT, capture_output=True, text=True, check=False
        )
        code, *kept = script.stdout.splitlines()
        errors = Path(f"{result}.err").read_text()
        assert code == "2", errors
        assert errors.splitlines()[-1].startswith("error: the disk is full")
        assert "Traceback" not in errors
        finished.append(len([name for name in kept if name.endswith(".tar")]))
        assert not [name for name in kept if name.endswith(".tmp") or name == "manifest.json"]
        survived += contents(result) == expected
    tally("disk full while packing", len(ROOMS), survived)
    assert survived == len(ROOMS)
    assert finished == sorted(set(finished)), "the disk was full at the same instant"
