"""Read and write videos by OpenCV, of the same size and rate, without sound.

OpenCV is imported where it is used: that takes time, which `fastseg-predict --help` and images do not need.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.deploy.predict_io import Input
from fastseg.errors import UserError
from fastseg.files import atomic_path

Picture = NDArray[np.uint8]
"""RGB, H×W×3."""
LARGEST = 65535
"""Largest numerator or denominator of a frame rate in MPEG-4 (vop_time_increment_resolution: ISO/IEC 14496-2)."""


class Video(NamedTuple):
    """Properties of a video file."""

    path: Path
    height: int
    width: int
    rate: float
    """Frames per second."""
    frames: int
    """Number of frames by the header; 0 if it does not say."""

    @property
    def suffix(self) -> str:
        """Return the suffix of a format that holds this size: OpenCV's FFmpeg crops odd sizes to even ones."""
        return ".avi" if self.height % 2 or self.width % 2 else ".mp4"


def probe(path: Path) -> Video:
    """Read size, rate and length. Raises :class:`UserError` for other files,"""
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        good, frame = capture.read()
        if not good:
            raise UserError(f"{path} is no video that can be read, or damaged; get the file again")
        rate, frames = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        # The frame itself is already turned as the file says, the header's size is not.
        return Video(path, frame.shape[0], frame.shape[1], rate if 0.01 <= rate <= 1000 else 25.0, max(frames, 0))
    finally:
        capture.release()


def probe_videos(inputs: Iterable[Input], complain: Callable[[str], None]) -> dict[Path, Video]:
    """Probe the videos among ``inputs``; return them by path, without damaged ones."""
    videos = {}
    for file in inputs:
        if file.is_video:
            try:
                videos[file.path] = probe(file.path)
            except UserError as error:
                complain(str(error))
    return videos


def read_video(path: Path) -> Iterator[Picture]:
    """Yield the frames in order, as far as they can be decoded."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        while True:
            good, frame = capture.read()
            if not good:
                return
            yield np.ascontiguousarray(frame[..., ::-1])  # OpenCV's order is B, G, R
    finally:
        capture.release()


class Writer:
    """Write frames of one size to a file: MPEG-4 part 2 in an .mp4, or Motion JPEG in an .avi for odd sizes."""

    def __init__(self, path: Path, video: Video) -> None:
        """Open ``path``, which ends in the suffix of ``video``. Raises :class:`OSError` if OpenCV cannot open it."""
        import cv2

        self._path, self._video = path, video
        odd = path.suffix == ".avi"
        backend = cv2.CAP_OPENCV_MJPEG if odd else cv2.CAP_FFMPEG
        code = cv2.VideoWriter.fourcc(*("MJPG" if odd else "mp4v"))
        size = (video.width, video.height)
        rate = max(video.rate, 1.0) if odd else _writable(video.rate)
        self._writer = cv2.VideoWriter(str(path), backend, code, rate, size)
        self.frames = 0
        """Number of frames written so far."""
        if not self._writer.isOpened():
            raise OSError(f"OpenCV writes no {path.suffix} there")

    def write(self, picture: Picture) -> None:
        """Append a frame."""
        self._writer.write(np.ascontiguousarray(picture[..., ::-1]))  # OpenCV's order is B, G, R
        self.frames += 1

    def close(self) -> None:
        """Finish the file."""
        self._writer.release()
        if self._path.suffix == ".avi":
            _set_rate(self._path, self._video.rate)


@contextmanager
def write_video(path: Path, video: Video) -> Iterator[Writer]:
    """Yield a writer whose file appears at ``path`` when it is complete, and not at all after an error.

    Raises :class:`UserError` if the file cannot be opened, or not read back.
    """
    with atomic_path(path) as temporary:
        hidden = temporary.with_suffix(path.suffix)  # OpenCV chooses the format by the suffix
        try:
            try:
                writer = Writer(hidden, video)
            except OSError:
                raise UserError(
                    f"{path} cannot be written as a video of {video.width}×{video.height} pixels by this OpenCV; "
                    "check whether the disk is full"
                ) from None
            try:
                yield writer
            finally:
                writer.close()
            _check_whole(hidden, writer.frames, path)
            hidden.replace(temporary)
        finally:
            hidden.unlink(missing_ok=True)


def _check_whole(written: Path, frames: int, path: Path) -> None:
    """Refuse a file without its last frame, since OpenCV does not report a full disk. ``path``: its final name."""
    import cv2

    capture = cv2.VideoCapture(str(written))
    try:
        there = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.set(cv2.CAP_PROP_POS_FRAMES, frames - 1)
        if there != frames or not capture.read()[0]:
            raise UserError(
                f"{path} is not written: its {frames} frames cannot all be read back, as when the disk is full; free "
                "some space and predict the video again"
            )
    finally:
        capture.release()


def _writable(rate: float) -> float:
    """Return the rate with as many decimals as MPEG-4 can hold: OpenCV writes 119.881 as 119881 / 1000."""
    decimals = max(digits for digits in range(4) if rate * 10**digits <= LARGEST)
    return round(rate, decimals)


def _set_rate(path: Path, rate: float) -> None:
    """Write the exact rate into an AVI's header: OpenCV's Motion JPEG rounds it to whole frames per second, 1 at least.

    Fields are those of Microsoft's AVISTREAMHEADER (dwScale, dwRate) and AVIMAINHEADER (dwMicroSecPerFrame).
    """
    with path.open("r+b") as file:
        header = file.read(4096)
        stream, main = header.find(b"strh"), header.find(b"avih")
        if stream < 0 or main < 0:
            return
        file.seek(stream + 8 + 20)
        file.write((1000).to_bytes(4, "little") + round(rate * 1000).to_bytes(4, "little"))
        file.seek(main + 8)
        file.write(round(1e6 / rate).to_bytes(4, "little"))
