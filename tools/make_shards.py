"""Pack Cityscapes, or your own images and masks, into tar shards for training: python tools/make_shards.py --help"""

import re
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from fastseg.data.manifest import Manifest
from fastseg.data.packing import MEASURED, PackOptions, pack
from fastseg.data.sources import open_source
from fastseg.data.verify import verify
from fastseg.errors import USER_ERROR, UserError, run_command
from fastseg.progress import show_progress


def _shown_as(name: str) -> object:
    """How the help names a value whose default its text explains."""
    return tyro.conf.arg(metavar=name, help_behavior_hint="")


@dataclass(frozen=True)
class Options:
    """Pack a data set into tar shards, their DALI indexes and a manifest.

    Interrupt it whenever you like: the same command goes on after the last finished shard.
    """

    source: Annotated[Path | None, tyro.conf.Positional, _shown_as("SOURCE")] = None
    """Folder with leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (as downloaded), or with the extracted
    leftImg8bit/ and gtFine/, or with {train,val,test}/{images,masks}/STEM.*.
    Default: $CITYSCAPES_DATASET, then data/."""
    classes: Annotated[Path | None, _shown_as("FILE")] = None
    """JSON {"name", "classes": [{"value", "name", "color"}], "ignore": [values]}: what the masks' pixels mean.
    Default: Cityscapes' own labels, or SOURCE/classes.json."""
    splits: Annotated[tuple[str, ...] | None, _shown_as("SPLIT ...")] = None
    """Which of train, val, test. Default: all there are; a split without masks is packed for prediction."""
    out: Annotated[Path | None, _shown_as("DIR")] = None
    """Folder for the shards. Default: shards/NAME, NAME being that of the classes, so shards/cityscapes."""
    pack: tyro.conf.OmitArgPrefixes[PackOptions] = field(default_factory=PackOptions)
    workers: Annotated[int | None, _shown_as("N")] = None
    """Processes that encode. Default: all cores."""
    overwrite: bool = False
    """Remove the set that OUT holds and pack anew."""
    verify: bool = False
    """Pack nothing: read the set in OUT again, every byte and pixel, and compare it with its manifest."""


def main() -> None:
    """Parse the command line, then pack or verify."""
    # A service manager's or a batch system's way to say Ctrl-C: unwind, so that workers and half files go.
    signal.signal(signal.SIGTERM, _terminate)
    options = tyro.cli(Options, config=(tyro.conf.FlagCreatePairsOff,))
    if str(options.out).startswith("s3:"):
        raise UserError(f"--out is {options.out}; it must be a local folder (copy the finished set to the storage)")
    if options.verify:
        _verify(options.out or Path("shards/cityscapes"), options.workers)
    else:
        _pack(options)


def _terminate(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _pack(options: Options) -> None:
    source = open_source(options.source, options.classes, options.splits)
    out = options.out or Path("shards") / _slug(source.table.name)
    start, counts = time.monotonic(), list[int]()
    with show_progress(f"packing into {out}", "frames") as show:

        def count(done: int, total: int) -> None:
            counts.append(done)
            show(done, total)

        manifest = pack(source, out, options.pack, options.workers, options.overwrite, count)
    seconds = time.monotonic() - start
    console = Console()
    console.print(_set_table(manifest, out))
    console.print(_class_table(manifest))
    if not counts:
        print(f"{out} already holds this very set; nothing to do")
    else:
        packed = counts[-1] - counts[0]
        kept = f", {counts[0]} frames were there already" if counts[0] else ""
        print(f"packed {packed} frames in {seconds:.1f} s: {packed / seconds:.1f} frames/s{kept}")


def _verify(out: Path, workers: int | None) -> None:
    with show_progress(f"verifying {out}", "frames") as show:
        damages = verify(out, workers, show)
    for damage in damages:
        print(f"error: {damage}", file=sys.stderr)
    if damages:
        print(f"error: {out} is damaged ({len(damages)} faults); pack it again with --overwrite", file=sys.stderr)
        sys.exit(USER_ERROR)
    print(f"{out} is whole: every byte and pixel is as its manifest says")


def _set_table(manifest: Manifest, out: Path) -> Table:
    table = Table("split", title=f"{manifest.name} in {out}", title_justify="left")
    for column in ("samples", "shards", "bytes", "bytes/sample", "sizes (height×width)"):
        table.add_column(column, justify="right")
    for name, split in manifest.splits.items():
        size = sum(shard.bytes for shard in split.shards)
        sizes = ", ".join(f"{height}×{width}" for height, width, _ in split.sizes[:3])
        more = f" and {len(split.sizes) - 3} more" if len(split.sizes) > 3 else ""
        row = (split.samples, len(split.shards), size, size // split.samples)
        table.add_row(name, *(f"{value:,}" for value in row), sizes + more)
    if psnr := manifest.options.get("psnr"):
        table.caption = f"PSNR of the images {psnr} dB (measured on every {MEASURED}nd)"
    return table


def _class_table(manifest: Manifest) -> Table:
    labelled = {name: split.pixels for name, split in manifest.splits.items() if split.labelled}
    table = Table("class", title="pixels in %", title_justify="left")
    for name in labelled:
        table.add_column(name, justify="right")
    for index, name in enumerate([*(entry.name for entry in manifest.classes), "(ignored)"]):
        table.add_row(name, *(f"{100 * pixels[index] / sum(pixels):.2f}" for pixels in labelled.values()))
    return table


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "custom"


if __name__ == "__main__":
    run_command(main)
