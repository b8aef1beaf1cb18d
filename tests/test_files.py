"""Files that are whole or absent."""

import errno
import hashlib
from pathlib import Path

import pytest

from fastseg.errors import UserError
from fastseg.files import atomic_path, check_writable, check_writable_file, remove_temporary, sha256, write_atomic


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, "old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
    assert sha256(path) == hashlib.sha256(b"old").hexdigest()


def test_the_longest_names_are_written(tmp_path: Path) -> None:
    for name in ("a" * 251 + ".png", "ü" * 127):
        write_atomic(tmp_path / name, name)
        with atomic_path(tmp_path / name) as temporary:
            temporary.touch()
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = []
    for name in ("last.pt", "a" * 251 + ".png"):
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_text("half")
            left.append(temporary)
    for path in left:
        path.write_text("half")
    (tmp_path / ".mine.123.tmp").touch()
    remove_temporary(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "a" * 251 + ".png", ".mine.123.tmp"}
    remove_temporary(tmp_path / "missing")


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    refused = [
        (check_writable, "file", "--out is .*/file, which is a file; name a folder"),
        (check_writable, "gone", "--out is .*/gone, which is a file; name a folder"),
        (check_writable, "file/deep/er", "--out is .*/er, but .*/file is a file; name another folder"),
        (check_writable, "/proc/x", r"--out /proc/x cannot be written: nothing can be made in /proc \(.+\); name"),
        (check_writable_file, "", "--out is .*, which is a folder; name a file"),
        (check_writable_file, "file/x.json", "--out is .*/x.json, but .*/file is a file; name another file"),
        (check_writable_file, "/proc/x/y", "--out /proc/x/y cannot be written: .* name another file"),
    ]
    for check, path, says in refused:
        with pytest.raises(UserError, match=says):
            check(tmp_path / path, "--out")
    check_writable(tmp_path, "--out")
    check_writable(tmp_path / "new" / "folder", "--out")
    check_writable_file(tmp_path / "new" / "file", "--out")
    check_writable_file(tmp_path / "file", "--out")
    check_writable_file("x.json", "--out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "gone"]


def fill(path: Path, given: str | None) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", given)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """What writes and flushes names no file of its own."""
    (tmp_path / "a").write_text("before")
    for given, named in ((None, str(tmp_path / "a")), ("elsewhere", "elsewhere")):
        with pytest.raises(OSError, match="No space left") as full:
            fill(tmp_path / "a", given)
        assert full.value.filename == named
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "before")]
