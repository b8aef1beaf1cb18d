"""Pack Cityscapes, or your own images and masks, into tar shards for training: ``python tools/make_shards.py``."""

import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastseg.cli_help import shown_as
from fastseg.errors import USER_ERROR, UserError, run_command, unwind_on_sigterm
from fastseg.packing.guess_classes import write_guess
from fastseg.packing.pack import MEASURED, PackOptions, pack, pack_part
from fastseg.packing.parts import merge, parse_part
from fastseg.packing.sources import open_source
from fastseg.progress import show_progress
from fastseg.shards.manifest import NAME as MANIFEST
from fastseg.shards.manifest import Manifest
from fastseg.shards.verify import verify
from fastseg.storage import is_remote, join

DEFAULT = "shards/cityscapes"
"""Default folder of --verify and --merge."""
MODES = ("guess-classes", "part", "merge", "verify")
"""Flags that exclude each other."""
MANY = 64
"""Number of values above which masks look resized or JPEG-compressed."""


@dataclass(frozen=True)
class Options:
    """Pack a data set into tar shards; if interrupted, run the same command again to resume.

    Example: python tools/make_shards.py mydata --out shards/mydata (more in docs/data.md)
    """

    source: Annotated[Path | None, tyro.conf.Positional, shown_as("SOURCE")] = None
    """Folder with Cityscapes' two zips, or with {train,val,test}/{images,masks} and classes.json.
    Default: $CITYSCAPES_DATASET, then data/."""
    classes: Annotated[Path | None, shown_as("FILE")] = None
    """Classes of the masks' values. Default: Cityscapes' labels, or SOURCE/classes.json."""
    guess_classes: bool = False
    """Pack nothing: write a draft of SOURCE/classes.json from the masks, for you to edit."""
    splits: Annotated[tuple[str, ...] | None, shown_as("SPLIT ...")] = None
    """Splits to pack: train, val, test. Default: all that exist."""
    out: Annotated[str | None, shown_as("DIR")] = None
    """Folder for the shards. Default: shards/NAME, after the name in classes.json, not the folder's."""
    pack: tyro.conf.OmitArgPrefixes[PackOptions] = field(default_factory=PackOptions)
    workers: Annotated[int | None, shown_as("N")] = None
    """Encoding processes. Default: one per core."""
    overwrite: bool = False
    """Remove the set in OUT and pack anew."""
    part: Annotated[str | None, shown_as("I/N")] = None
    """Pack only the I-th of N parts, on each of N machines: OUT/part-I-of-N."""
    merge: bool = False
    """Pack nothing: make one set of the N parts in OUT."""
    verify: bool = False
    """Pack nothing: compare every byte and pixel in OUT (also s3://) with its manifest."""


def main() -> None:
    """Run the command of tools/make_shards.py."""
    run_command(_main)


def _main() -> None:
    unwind_on_sigterm()
    options = tyro.cli(Options, config=(tyro.conf.FlagCreatePairsOff,))
    _check(options)
    if options.verify:
        _verify(options.out or DEFAULT, options.workers)
    elif options.guess_classes:
        _guess(options.source or Path("data"), options.workers)
    elif options.merge:
        _merge(Path(options.out or DEFAULT), options.overwrite)
    else:
        _pack(options)


def _check(options: Options) -> None:
    alone = [f"--{name}" for name in MODES if getattr(options, name.replace("-", "_"))]
    if len(alone) > 1:
        raise UserError(f"{alone[0]} and {alone[1]} exclude each other; run one after the other")
    if options.out and is_remote(options.out) and not options.verify:
        raise UserError(
            f"--out is {options.out}; it must be a local folder: pack into {DEFAULT}, then run "
            f"aws s3 sync {DEFAULT} {options.out} --exclude '.*' --exclude {MANIFEST} && "
            f"aws s3 cp {DEFAULT}/{MANIFEST} {join(options.out, MANIFEST)}"
        )


def _pack(options: Options) -> None:
    number = parse_part(options.part) if options.part else None
    source = open_source(options.source, options.classes, options.splits)
    print(f"recognized {source.summary()}")
    out = Path(options.out) if options.out else Path("shards") / _slug(source.table.name)
    start, counts = time.monotonic(), list[int]()
    with show_progress(f"packing into {out}", "frames") as show:

        def count(done: int, total: int) -> None:
            counts.append(done)
            show(done, total)

        how = (options.pack, options.workers, options.overwrite, count)
        manifest = pack_part(source, out, number, *how) if number else pack(source, out, *how)
    seconds = time.monotonic() - start
    if manifest:
        _show(manifest, out)
    if not counts:
        print(f"{out} already holds this set; nothing to do")
    else:
        packed = counts[-1] - counts[0]
        kept = f", {counts[0]} frames were already packed" if counts[0] else ""
        print(f"packed {packed} frames in {seconds:.1f} s: {packed / seconds:.1f} frames/s{kept}")
    if manifest:
        print(f"see what training will see: fastseg-inspect {out}")


def _guess(source: Path, workers: int | None) -> None:
    with show_progress(f"reading the masks of {source}", "masks") as show:
        guess, path = write_guess(source, workers, show)
    table = Table(
        "value", "", "class", "% of the pixels", title=f"{guess.masks} masks of {source}", title_justify="left"
    )
    for value, count in guess.pixels.items():
        red, green, blue = guess.colors[value]
        name = guess.name(value) if value in guess.classes else "(ignored)"
        share = f"{100 * count / sum(guess.pixels.values()):.3f}"
        table.add_row(str(value), Text("■■", style=f"rgb({red},{green},{blue})"), name, share)
    Console(markup=False).print(table)
    if len(guess.classes) > MANY:
        print(f"{len(guess.classes)} values are many: masks resized or stored as JPEG hold mixtures of labels")
    print(f'wrote {path}: write the names in, move values that are no class to "ignore", then pack {source}')


def _merge(out: Path, overwrite: bool) -> None:
    _show(merge(out, overwrite), out)
    print(f"{out} is one set now; check that every byte arrived with: make_shards.py --verify --out {out}")


def _show(manifest: Manifest, out: Path) -> None:
    console = Console(markup=False)  # names may hold square brackets
    console.print(_set_table(manifest, out))
    console.print(_class_table(manifest))


def _verify(out: str, workers: int | None) -> None:
    with show_progress(f"verifying {out}", "frames") as show:
        damages = verify(out, workers, show)
    for damage in damages:
        print(f"error: {damage}", file=sys.stderr)
    if damages:
        cure = "copy the whole set there again" if is_remote(out) else "pack it again with --overwrite"
        print(f"error: {out} is damaged ({len(damages)} faults); {cure}", file=sys.stderr)
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
    labeled = {name: split.pixels for name, split in manifest.splits.items() if split.labeled}
    table = Table("class", title="pixels in %", title_justify="left")
    for name in labeled:
        table.add_column(name, justify="right")
    for index, name in enumerate([*(entry.name for entry in manifest.classes), "(ignored)"]):
        table.add_row(name, *(f"{100 * pixels[index] / sum(pixels):.2f}" for pixels in labeled.values()))
    return table


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "custom"
