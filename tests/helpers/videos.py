"""Videos for tests."""

from pathlib import Path

import cv2
import numpy as np

import layouts


def write_video(path: Path, size: tuple[int, int], rate: float, frames: int) -> Path:
    """A video of noise; ``size`` is width, height. Odd sizes are possible in an .avi."""
    api, code = (cv2.CAP_OPENCV_MJPEG, "MJPG") if path.suffix == ".avi" else (cv2.CAP_FFMPEG, "mp4v")
    writer = cv2.VideoWriter(str(path), api, cv2.VideoWriter_fourcc(*code), rate, size)
    for i in range(frames):
        writer.write(np.asarray(layouts.noise(i, size))[..., ::-1].copy())
    writer.release()
    return path
