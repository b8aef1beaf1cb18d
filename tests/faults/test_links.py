"""Links, pipes and devices where fastseg puts its own files, and two processes that write to one folder.

Whoever may write to a folder can have put them there: nothing that they point to is emptied, removed or waited for.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from victims import Victim

import layouts
import zygote
from fastseg import storage
from fastseg.errors import UserError
from fastseg.files import LOCK, write_atomic
from fastseg.storage import Cache
from tools import make_shards

Tally = Callable[[str, int, int], None]
KIND = "a link, a pipe or a device in the place of a file of fastseg's"
PLANTED = ("link", "pipe", "device", "dangling", "folder")


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of the user's."""
    path = tmp_path / "home" / "precious"
    path.parent.mkdir(exist_ok=True)
    path.write_text("three years of work")
    return path


def plant(path: Path, kind: str, precious: Path) -> None:
    """Put something else in the place of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"link": precious, "device": "/dev/zero", "dangling": precious.with_name("nothing")}[kind])


def unharmed(precious: Path) -> bool:
    return precious.read_text() == "three years of work" and not precious.with_name("nothing").exists()


@pytest.mark.parametrize("kind", PLANTED)
def test_the_lock_of_a_run(victim: Victim, precious: Path, tally: Tally, kind: str) -> None:
    lock = victim.folder / "runs" / "x" / LOCK
    plant(lock, kind, precious)
    victim.refuses(victim.trains("--model.weights", "none"), str(lock.relative_to(victim.folder)), "remove it")
    assert unharmed(precious)
    tally(KIND, 1, 1)


@pytest.mark.parametrize("kind", PLANTED)
def test_the_lock_of_a_packing(victim: Victim, precious: Path, tally: Tally, kind: str) -> None:
    source = layouts.write_folder_dataset(victim.folder / "source", 1, 1)
    plant(victim.folder / "out" / ".packing" / "lock", kind, precious)
    victim.refuses(victim.packs(source), "out/.packing/lock", "remove it")
    assert unharmed(precious)
    tally(KIND, 1, 1)


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_the_folder_of_a_packing(victim: Victim, tally: Tally, flags: tuple[str, ...]) -> None:
    source, other = layouts.write_folder_dataset(victim.folder / "source", 1, 1), victim.folder / "other"
    other.mkdir()
    (other / "thesis.json").write_text("{}")
    (victim.folder / "out").mkdir()
    (victim.folder / "out" / ".packing").symlink_to(other)
    victim.refuses(victim.packs(source, *flags), "out/.packing is a link")
    assert [path.name for path in other.iterdir()] == ["thesis.json"]
    tally(KIND, 1, 1)


def test_the_folder_of_a_part(victim: Victim, tally: Tally) -> None:
    source = layouts.write_folder_dataset(victim.folder / "source", 4, 1)
    for number in ("1/2", "2/2"):
        ended = victim.packs(source, "--samples-per-shard", 2, "--part", number)
        assert ended.code == 0, ended.stderr
    (victim.folder / "out" / "part-1-of-2" / ".packing").rename(victim.folder / "other")
    (victim.folder / "out" / "part-1-of-2" / ".packing").symlink_to(victim.folder / "other")
    kept = sorted(path.name for path in (victim.folder / "other").iterdir())
    victim.refuses(victim.run("tools.make_shards", "--merge", "--out", "out"), "part-1-of-2/.packing is a link")
    assert sorted(path.name for path in (victim.folder / "other").iterdir()) == kept
    tally(KIND, 1, 1)


@pytest.mark.parametrize("kind", PLANTED)
def test_the_files_of_a_cache(
    tmp_path: Path, precious: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The ledger is refused; what is cached replaces whatever lies there."""
    monkeypatch.setattr(storage, "look_up", lambda _path: storage.Listing(4, "etag"))
    monkeypatch.setattr(storage, "read_range", lambda *_: b"data")
    folder = tmp_path / storage.FOLDER
    plant(folder / "used", kind, precious)
    with pytest.raises(UserError, match=f"{storage.FOLDER}/used is not the plain file"):
        Cache(tmp_path, 1 << 20)
    shutil.rmtree(folder)
    cache = Cache(tmp_path, 1 << 20)
    assert cache.read("s3://bucket/key", 0, 4) == b"data"
    (file,) = folder.glob("??/*")
    file.unlink()
    if kind != "folder":
        plant(file, kind, precious)
        assert cache.read("s3://bucket/key", 0, 4) == b"data"
        assert not file.is_symlink()
        assert file.read_bytes().startswith(b"data")
    assert unharmed(precious)
    tally(KIND, 2, 2)


def test_a_linked_cache(tmp_path: Path, tally: Tally) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / storage.FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        Cache(tmp_path, 1 << 20)
    assert not list((tmp_path / "elsewhere").iterdir())
    tally(KIND, 1, 1)


@pytest.mark.parametrize("kind", ["link", "pipe", "device", "dangling"])
def test_files_that_are_written_anew(tmp_path: Path, precious: Path, tally: Tally, kind: str) -> None:
    """Neither what lies in a file's place nor at a name that might be its temporary one is written to."""
    path = tmp_path / "metrics.jsonl"
    for planted in (path, tmp_path / f".metrics.jsonl.{os.getpid()}.tmp"):
        plant(planted, kind, precious)
    write_atomic(path, "line")
    assert path.read_text() == "line"
    assert not path.is_symlink()
    assert unharmed(precious)
    tally(KIND, 2, 2)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_the_pictures_of_a_run(victim: Victim, precious: Path, tally: Tally, kind: str) -> None:
    flags = ("--model.weights", "none", "--optim.epochs", 0.2, "--optim.warmup", 0)
    ended = victim.trains(*flags)
    assert ended.code == 0, ended.stderr
    pictures = sorted((victim.folder / "runs" / "x" / "overlays").glob("*.*g"))
    for picture in pictures:
        picture.unlink()
        plant(picture, kind, precious)
    (victim.folder / "runs" / "x" / "overlays" / "gallery.json").unlink()
    ended = victim.trains(*flags, "--optim.epochs", 0.4, "--resume", "changed")
    assert ended.code == 0, ended.stderr
    assert unharmed(precious)
    assert pictures
    tally(KIND, len(pictures), len(pictures))


def held_at_the_lock() -> None:
    """The process has opened the lock, and locks it once the file HELD is gone."""
    flock = fcntl.flock

    def later(file: object, kind: int) -> None:
        fcntl.flock = flock
        Path(os.environ["HELD"]).touch()
        while Path(os.environ["HELD"]).exists():
            time.sleep(0.01)
        flock(file, kind)  # type: ignore[arg-type]

    fcntl.flock = later


def held_before_the_lock() -> None:
    """The process has looked for a finished set, and opens the lock once the file HELD is gone."""
    from fastseg.packing import workspace

    made = workspace.check_writable

    def later(path: Path, flag: str) -> None:
        Path(os.environ["HELD"]).touch()
        while Path(os.environ["HELD"]).exists():
            time.sleep(0.01)
        made(path, flag)

    workspace.check_writable = later


def pack() -> None:
    make_shards.main()


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("held", [held_before_the_lock, held_at_the_lock])
def test_two_packings_into_one_folder(held: zygote.Hook, same: bool, tmp_path: Path, tally: Tally) -> None:
    """The second one has begun before the first has finished, which is another set, or the same: it stays whole."""
    first = layouts.write_folder_dataset(tmp_path / "first", 3, 1)
    second = first if same else layouts.write_folder_dataset(tmp_path / "second", 5, 1)
    out, mark, words = tmp_path / "out", tmp_path / "held", ("--workers", 1, "--out", tmp_path / "out")
    late = zygote.start(pack, "make_shards.py", second, *words, output=tmp_path / "late", before=held, HELD=str(mark))
    while not mark.exists():
        assert late.running, late.output
        time.sleep(0.01)
    job = zygote.start(pack, "make_shards.py", first, *words, output=tmp_path / "early")
    assert job.finish() == 0, job.output
    there = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    mark.unlink()
    assert late.finish() == 2, late.output
    says = "another process has just finished this set" if same else "holds a set packed from other inputs"
    assert says in late.output
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == there
    assert not (out / ".packing").exists()
    tally("two packings into one folder at once", 1, 1)
