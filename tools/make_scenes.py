"""Make procedural street scenes in the layout of Cityscapes."""

import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastseg.data.scenes import write_scene
from fastseg.errors import UserError, run_command

SMALLEST, LARGEST = (64, 32), (8192, 4096)
SPEAK_EVERY = 10.0
"""Seconds between two lines where stderr is no terminal."""


@dataclass(frozen=True)
class Options:
    """Make procedural street scenes in the layout of Cityscapes: for tests, benchmarks, and for trying things out.

    Writes OUT/leftImg8bit and OUT/gtFine, as the official archives unpack. The same seed gives the same bytes.
    """

    out: Path
    """Folder to write to; scenes of an earlier run are written again."""
    train: int = 0
    """Scenes in the train split."""
    val: int = 0
    """Scenes in the val split."""
    test: int = 0
    """Scenes in the test split, which get pictures only."""
    size: str = "2048x1024"
    """Width x height in pixels, from 64x32 to 8192x4096; a smaller picture shows the same street."""
    seed: int = 0
    """Another seed gives other streets."""
    workers: int = 0
    """Processes; 0: one for each core."""


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) from "2048x1024"."""
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if not match:
        raise UserError(f"--size is {text!r}; give it as width x height, such as 2048x1024")
    width, height = int(match[1]), int(match[2])
    if not (SMALLEST[0] <= width <= LARGEST[0] and SMALLEST[1] <= height <= LARGEST[1]):
        raise UserError(f"--size is {text}; a scene has from 64x32 to 8192x4096 pixels")
    return width, height


def check(options: Options) -> tuple[int, int]:
    """The size, after everything else has been looked at too."""
    counts = {"train": options.train, "val": options.val, "test": options.test}
    for split, count in counts.items():
        if count < 0:
            raise UserError(f"--{split} is {count}; give the number of scenes, 0 or more")
    if not any(counts.values()):
        raise UserError("no scenes are asked for; say how many, such as --train 64 --val 16")
    if options.seed < 0:
        raise UserError(f"--seed is {options.seed}; give a whole number, 0 or more")
    if options.workers < 0:
        raise UserError(f"--workers is {options.workers}; give the number of processes, or 0 for one each core")
    for path in (options.out, *options.out.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"--out is {options.out}, but {path} is a file; name a folder")
    return parse_size(options.size)


def finished(options: Options, size: tuple[int, int]) -> Iterator[None]:
    """Make the scenes in processes; yields after each."""
    jobs = [(split, index) for split in ("train", "val", "test") for index in range(getattr(options, split))]
    workers = min(options.workers or len(os.sched_getaffinity(0)), len(jobs))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(write_scene, options.out, options.seed, split, index, size) for split, index in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BrokenProcessPool:
            raise UserError("a worker process was ended from outside (out of memory?); try fewer --workers") from None
        finally:
            pool.shutdown(cancel_futures=True)


def make(options: Options) -> None:
    size = check(options)
    total = options.train + options.val + options.test
    start = time.perf_counter()
    columns = (
        TextColumn("scenes"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not sys.stderr.isatty()) as bar:
        task, spoken = bar.add_task("", total=total, rate=""), start
        for done, _ in enumerate(finished(options, size), start=1):
            now = time.perf_counter()
            rate = done / (now - start)
            bar.update(task, completed=done, rate=f"{rate:.1f} frames/s")
            if not sys.stderr.isatty() and now - spoken > SPEAK_EVERY:
                spoken = now
                print(
                    f"scenes: {done}/{total}, {rate:.1f} frames/s, {(total - done) / rate:.0f} s to go", file=sys.stderr
                )
    took = time.perf_counter() - start
    print(f"{total} scenes of {options.size} in {options.out}: {took:.1f} s, {total / took:.1f} frames/s")


def main() -> None:
    make(tyro.cli(Options))


if __name__ == "__main__":
    run_command(main)
