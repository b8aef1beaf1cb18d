"""Videos in and out: sizes, rates, turned ones, and files that are whole or absent."""

import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import layouts
from fastseg.deploy import video
from fastseg.deploy.video import Video, probe, read_video
from fastseg.errors import UserError
from videos import write_video


def written(path: Path, size: tuple[int, int], rate: float, frames: int) -> Path:
    """A video of noise by our writer; ``size`` is width, height."""
    with video.write_video(path, Video(path, size[1], size[0], rate, frames)) as writer:
        for i in range(frames):
            writer.write(np.asarray(layouts.noise(i, size)))
    return path


@pytest.mark.parametrize("rate", [0.02, 0.5, 23.976, 29.97, 65.535, 119.881, 239.761, 999.99])
@pytest.mark.parametrize(("name", "size"), [("even.mp4", (64, 40)), ("odd.avi", (51, 33))])
def test_rates_are_kept(tmp_path: Path, name: str, size: tuple[int, int], rate: float) -> None:
    there = probe(written(tmp_path / name, size, rate, 2))
    assert (there.width, there.height, there.frames) == (*size, 2)
    assert there.rate == pytest.approx(rate, rel=1e-4)


def test_a_turned_video_is_read_upright(tmp_path: Path) -> None:
    """Telephones turn a video by the matrix of its track header (ISO/IEC 14496-12, tkhd)."""
    source = write_video(tmp_path / "plain.mp4", (64, 40), 10, 2)
    data = bytearray(source.read_bytes())
    place = data.find(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[place : place + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 40 << 16, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    there = probe(tmp_path / "turned.mp4")
    assert (there.width, there.height) == (40, 64)
    for plain, turned in zip(read_video(source), read_video(there.path), strict=True):
        np.testing.assert_array_equal(turned, np.rot90(plain, -1))


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file gets longer than ``room`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("name", "size"), [("even.mp4", (640, 400)), ("odd.avi", (641, 401))])
def test_a_full_disk_leaves_no_video(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    with full_disk(60_000), pytest.raises(UserError, match=rf"{name} is not written: its 9 frames .* the disk is full"):
        written(tmp_path / name, size, 10, 9)
    assert not list(tmp_path.iterdir())


def test_a_video_that_cannot_be_begun_is_called_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path}/huge.mp4 cannot be written as a video of 0×0 pixels"):
        written(tmp_path / "huge.mp4", (0, 0), 10, 0)
    assert not list(tmp_path.iterdir())
