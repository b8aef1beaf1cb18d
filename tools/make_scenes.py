"""Make procedural street scenes in the layout of Cityscapes: python tools/make_scenes.py --help"""

import re
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import tyro

from fastseg.cli_help import command_name
from fastseg.errors import UserError, run_command, unwind_on_sigterm
from fastseg.files import check_writable
from fastseg.parallel import ordered_map, worker_count
from fastseg.progress import show_progress
from tools.scenes import write_name, write_scene

SMALLEST, LARGEST = (64, 32), (8192, 4096)


@dataclass(frozen=True)
class Options:
    """Make procedural street scenes in the layout of Cityscapes: for tests, benchmarks and trials.

    Writes OUT/leftImg8bit and OUT/gtFine, as the official archives unpack, and leftImg8bit/name.txt, which says that
    these are procedural streets. The same seed gives the same bytes.

    Example: python tools/make_scenes.py --out data/streets --train 200 --val 40 --size 2048x1024
    """

    out: Path
    """Folder to write to; existing scenes are overwritten."""
    train: int = 0
    """Scenes in the train split."""
    val: int = 0
    """Scenes in the val split."""
    test: int = 0
    """Scenes in the test split, without annotations."""
    size: str = "2048x1024"
    """Width x height in pixels, from 64x32 to 8192x4096; a smaller image shows the same street."""
    seed: int = 0
    """Seed of the streets."""
    workers: int | None = None
    """Processes. Default: all cores."""


def main() -> None:
    """Parse the command line and make the scenes."""
    unwind_on_sigterm()
    make(tyro.cli(Options, prog=command_name()))


def make(options: Options) -> None:
    """Check the request, then write its scenes."""
    counts = {"train": options.train, "val": options.val, "test": options.test}
    size = check(options, counts)
    tasks = [
        (options.out, options.seed, split, index, size) for split, count in counts.items() for index in range(count)
    ]
    workers = min(worker_count(options.workers), len(tasks))
    start = time.monotonic()
    write_name(options.out)
    with (
        show_progress(f"making scenes in {options.out}", "frames") as show,
        closing(ordered_map(write_scene, tasks, workers)) as written,
    ):
        show(0, len(tasks))
        for done, _ in enumerate(written, start=1):
            show(done, len(tasks))
    seconds = time.monotonic() - start
    print(f"made {len(tasks)} scenes of {options.size} in {seconds:.1f} s: {len(tasks) / seconds:.1f} frames/s")


def check(options: Options, counts: dict[str, int]) -> tuple[int, int]:
    """Return the size (width, height); raise :class:`UserError` for an invalid request."""
    for split, count in counts.items():
        if count < 0:
            raise UserError(f"--{split} is {count}; give the number of scenes, 0 or more")
    if not any(counts.values()):
        raise UserError("no scenes are asked for; say how many, such as --train 64 --val 16")
    if options.seed < 0:
        raise UserError(f"--seed is {options.seed}; give a whole number, 0 or more")
    check_writable(options.out, "--out")
    return parse_size(options.size)


def parse_size(text: str) -> tuple[int, int]:
    """Return (width, height) from "2048x1024"."""
    match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text)
    if not match:
        raise UserError(f"--size is {text!r}; give it as width x height, such as 2048x1024")
    width, height = int(match[1]), int(match[2])
    if not (SMALLEST[0] <= width <= LARGEST[0] and SMALLEST[1] <= height <= LARGEST[1]):
        raise UserError(f"--size is {text}; a scene has from 64x32 to 8192x4096 pixels")
    return width, height


if __name__ == "__main__":
    run_command(main)
