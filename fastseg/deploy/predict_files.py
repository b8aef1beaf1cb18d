"""Predict files: decoded by threads ahead of the network, written by threads behind it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fastseg.deploy.predict_io import Input, Outputs, read_image
from fastseg.deploy.predictor import Predictor
from fastseg.deploy.video import Video, Writer, read_video, write_video
from fastseg.errors import UserError, disk_full
from fastseg.report.overlays import classes_by_size

Item = TypeVar("Item")
Picture = NDArray[np.uint8]
NAMED = 1e-3
"""Smallest share of a frame for a class to enter the legend of its video."""


@dataclass(frozen=True)
class Job:
    """Predictor, outputs, batch size, threads and callbacks, which all files share."""

    predictor: Predictor
    outputs: Outputs
    batch: int
    """Pictures of one size that go through the network together."""
    threads: int
    """Number of threads that read, and of those that write."""
    tell: Callable[[int], None]
    """Called with the number of pictures just done."""
    lose: Callable[[int], None]
    """Called with the number of counted pictures that will not come."""
    complain: Callable[[str], None]
    """Called with a sentence for each damaged file; the others are still predicted."""
    white: int | None = None
    """White of 16-bit images; None: that of training, else 65535."""

    def answer(self, pictures: Sequence[Picture]) -> Iterator[tuple[Picture, Any]]:
        """Yield each picture with its mask and, if wanted, its probabilities."""
        kind = torch.float16 if self.outputs.probabilities else None
        masks, shares = self.predictor.answer(torch.from_numpy(np.stack(pictures)), kind)
        return zip(masks.numpy(), [None] * len(masks) if shares is None else shares.numpy(), strict=True)


class Behind:
    """Run work in background threads with a bounded queue; all of it is done at the end."""

    def __init__(self, threads: int) -> None:
        self._pool, self._most = ThreadPoolExecutor(threads), 2 * threads
        self._pending: deque[Future[None]] = deque()

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Queue a call; raise what an earlier one raised."""
        self._pending.append(self._pool.submit(function, *arguments))
        while len(self._pending) > self._most:
            self._pending.popleft().result()

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self._pending and kind is None:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)


def predict_images(job: Job, inputs: Iterable[Input]) -> None:
    """Predict images; consecutive ones of one size share a batch."""
    with Behind(job.threads) as behind:
        for group in _alike(_decoded(job, inputs), job.batch):
            for (file, picture), (mask, shares) in zip(group, job.answer([p for _, p in group]), strict=True):
                behind.submit(_write_image, job, file, picture, mask, shares)
            job.tell(len(group))


def _write_image(job: Job, file: Input, picture: Picture, mask: Picture, shares: Any) -> None:
    try:
        with _writing(file):
            job.outputs.write_image(file.name, picture, mask, shares)
    except UserError as error:
        job.complain(str(error))


@contextmanager
def _writing(file: Input) -> Iterator[None]:
    """Turn a system error about one file's results into a :class:`UserError`, but not a full disk, which hits all."""
    try:
        yield
    except OSError as error:
        if disk_full(error):
            raise
        raise UserError(
            f"the results of {file.path} cannot be written ({error.strerror}); rename it, or name another --out"
        ) from None


def predict_videos(job: Job, files: Sequence[Input], videos: Mapping[Path, Video]) -> None:
    """Predict one video after the other; a :class:`UserError` of one is a complaint, and the next follows."""
    for file in files:
        try:
            predict_video(job, file, videos[file.path])
        except UserError as error:
            job.complain(str(error))


def predict_video(job: Job, file: Input, video: Video) -> None:
    """Write a video of overlays with the same size and rate; masks and probabilities frame by frame, in a folder."""
    outputs, done, named = job.outputs, 0, list[int]()
    overlays = outputs.overlay_path(file.name, video.suffix)
    try:
        written = write_video(overlays, video) if outputs.overlays else nullcontext()
        with _writing(file), written as writer, Behind(1) as behind:
            frames = _ahead(_same_size(video), 2 * job.batch)
            while group := list(islice(frames, job.batch)):
                for picture, (mask, shares) in zip(group, job.answer(group), strict=True):
                    # A legend that only grows does not flicker.
                    named += [i for i in classes_by_size(mask, len(outputs.classes)) if _enters(i, mask, named)]
                    name = outputs.frame_name(file.name, done)
                    behind.submit(_write_frame, outputs, writer, name, picture, mask, shares, tuple(named))
                    done += 1
                job.tell(len(group))
    finally:
        job.lose(max(video.frames - done, 0))
    with _writing(file):
        outputs.drop_frames(file.name, done)
    if done < video.frames - max(2, video.frames // 50):  # headers may be off by one or two
        job.complain(f"{file.path} ends after {done} of its {video.frames} frames, and so do its results")


def _enters(train_id: int, mask: Picture, named: Sequence[int]) -> bool:
    """Return whether a class is new in a legend and large enough for it."""
    return train_id not in named and bool((mask == train_id).mean() >= NAMED)


def _write_frame(
    outputs: Outputs,
    writer: Writer | None,
    name: Path,
    picture: Picture,
    mask: Picture,
    shares: Any,
    named: Sequence[int],
) -> None:
    if writer:
        writer.write(outputs.overlay(picture, mask, named))
    outputs.write_raw(name, mask, shares)


def _same_size(video: Video) -> Iterator[Picture]:
    for frame in read_video(video.path):
        if frame.shape[:2] != (video.height, video.width):
            raise UserError(
                f"{video.path} changes from {video.width}×{video.height} to {frame.shape[1]}×{frame.shape[0]} pixels; "
                "cut it into videos of one size each"
            )
        yield frame


def _decoded(job: Job, inputs: Iterable[Input]) -> Iterator[tuple[Input, Picture]]:
    """Yield images in order, reading ahead as many as the threads and a batch need."""
    with ThreadPoolExecutor(job.threads) as pool:
        files, waiting = iter(inputs), deque[tuple[Input, Future[Picture]]]()
        while True:
            for file in islice(files, job.threads + job.batch - len(waiting)):
                waiting.append((file, pool.submit(_read, file.path, job.white, job.predictor.white)))
            if not waiting:
                return
            file, future = waiting.popleft()
            try:
                yield file, future.result()
            except UserError as error:
                job.complain(str(error))
                job.lose(1)


def _read(path: Path, white: int | None, trained_white: int | None) -> Picture:
    return np.array(read_image(path, white, trained_white))


def _alike(pictures: Iterable[tuple[Input, Picture]], most: int) -> Iterator[list[tuple[Input, Picture]]]:
    group: list[tuple[Input, Picture]] = []
    for pair in pictures:
        if group and (len(group) == most or group[0][1].shape != pair[1].shape):
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def _ahead(items: Iterator[Item], number: int) -> Iterator[Item]:
    """Yield the same items, prefetched by a thread."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, None) for _ in range(number))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item
