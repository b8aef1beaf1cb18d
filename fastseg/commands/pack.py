"""Pack Cityscapes, or your own images and masks, into tar shards for training: ``fastseg-pack``."""

import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastseg.cli_help import (
    WIDTH,
    Setting,
    command_name,
    field_docs,
    help_lines,
    json_on_stdout,
    listed,
    settings,
    shown_as,
)
from fastseg.errors import USER_ERROR, UserError, one_line, run_command, unwind_on_sigterm
from fastseg.interface.packing import default_folder, slug
from fastseg.packing.check import Problem
from fastseg.packing.guess_classes import open_source_or_guess, write_guess
from fastseg.packing.pack import MEASURED, PackOptions, pack, pack_part
from fastseg.packing.parts import merge, parse_part
from fastseg.packing.relabel import relabel, write_classes
from fastseg.packing.sources import DataSet, FindOptions, open_source
from fastseg.parallel import worker_count
from fastseg.progress import be_quiet, show_progress
from fastseg.shards.manifest import NAME as MANIFEST
from fastseg.shards.manifest import Manifest
from fastseg.shards.set_warnings import set_warnings
from fastseg.shards.verify import verify
from fastseg.storage import is_remote, join

DEFAULT = "shards/cityscapes"
"""Default folder of a set without --out."""
MODES = ("preview", "guess-classes", "part", "merge", "relabel", "verify")
"""Flags that exclude each other."""
MANY = 64
"""Number of values above which masks look resized or JPEG-compressed."""


@dataclass(frozen=True)
class Options:
    """Pack a data set into tar shards. If interrupted, run the same command again to resume.

    Example: fastseg-pack mydata --preview, then fastseg-pack mydata (see docs/data.md)
    """

    source: Annotated[Path | None, tyro.conf.Positional, shown_as("SOURCE")] = None
    """Folder, zip or tar of images and masks, in the layout of a known data set or with names such as images, masks,
    train, val. Default: $CITYSCAPES_DATASET, then data/."""
    classes: Annotated[Path | None, shown_as("FILE|NAME")] = None
    """Classes of the masks: a classes.json, or a preset such as voc or camvid.
    Default: SOURCE/classes.json, or the layout's own."""
    find: tyro.conf.OmitArgPrefixes[FindOptions] = field(default_factory=FindOptions)
    preview: bool = False
    """Write a page of samples under their masks, with warnings about all samples."""
    guess_classes: bool = False
    """Write SOURCE/classes.json with classes guessed from the masks, for you to edit."""
    splits: Annotated[tuple[str, ...] | None, shown_as("SPLIT ...")] = None
    """Splits to pack: train, val, test. Default: all that exist."""
    out: Annotated[str | None, shown_as("DIR")] = None
    """Folder for the shards. Default: shards/NAME with the name in classes.json, not that of the folder."""
    pack: tyro.conf.OmitArgPrefixes[PackOptions] = field(default_factory=PackOptions)
    workers: Annotated[int | None, shown_as("N")] = None
    """Number of encoding processes. Default: all cores."""
    skip_bad: bool = False
    """Leave out samples that cannot be packed; OUT/skipped.txt lists them."""
    overwrite: bool = False
    """Replace the set in OUT."""
    part: Annotated[str | None, shown_as("I/N")] = None
    """Pack only the I-th of N parts, on each of N machines: OUT/part-I-of-N."""
    merge: bool = False
    """Merge the N parts in OUT into one set."""
    relabel: Annotated[Path | None, shown_as("FILE")] = None
    """Give the set in SOURCE new names, colors or merged classes. FILE is a classes.json whose values are
    the set's train ids; if it does not exist, it is written for you to edit. Merges need a new folder, --out."""
    verify: bool = False
    """Compare every byte and pixel in OUT (s3:// too) with its manifest."""
    json: bool = False
    """Print what was packed or found as JSON; the tables go to stderr."""
    quiet: bool = False
    """Show no progress."""


def one_screen() -> str:
    """Return the text of ``--help``: every flag, grouped by purpose."""
    options = Options()
    own = {row.flag: row for row in settings(options) if "." not in row.flag}
    instead = [own[f"--{name}"] for name in MODES]
    packing = [row for flag, row in own.items() if flag.removeprefix("--") not in (*MODES, "source", "quiet")]
    stored = [*settings(options.pack.codec), *(row for row in settings(options.pack) if "." not in row.flag)]
    return "\n".join(
        [
            f"usage: {command_name()} [SOURCE] [--FLAG VALUE ...]\n",
            *(getdoc(Options) or "").splitlines(),
            "",
            *textwrap.wrap(f"SOURCE: {field_docs(Options)['source']}", WIDTH),
            "\npacking",
            *help_lines(_bare(packing)),
            "\ninstead of packing",
            *help_lines(_bare(instead)),
            "\nimages, masks and splits",
            *help_lines(_bare(settings(options.find))),
            "\nreading of masks and images",
            *help_lines(_bare(settings(options.pack.reading))),
            "\nstorage, with the defaults",
            *listed("", _bare(stored)),
            "\n--quiet shows no progress; -H, --help-verbose explains every flag.",
        ]
    )


def _bare(rows: Iterable[Setting]) -> list[Setting]:
    """Return the flags without uninformative defaults."""
    return [row._replace(value="") if row.value in ("None", "False", "", "()") else row for row in rows]


def main() -> None:
    """Run fastseg-pack; ``python tools/make_shards.py`` is the same command."""
    run_command(_main)


def _main() -> None:
    unwind_on_sigterm()
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(one_screen())
        return
    options = tyro.cli(Options, prog=command_name(), config=(tyro.conf.FlagCreatePairsOff,), compact_help=True)
    be_quiet(options.quiet)
    _check(options)
    with json_on_stdout(options.json) as tell:
        document = _run(options)
        tell(document)
    if document.get("damages"):
        sys.exit(USER_ERROR)


def _run(options: Options) -> dict[str, Any]:
    """Do what the flags ask for; return what ``--json`` prints."""
    if options.verify:
        return _verify(options.out or DEFAULT, options.workers)
    if options.relabel:
        return _relabel(options, options.relabel)
    if options.preview:
        return _preview(options)
    if options.guess_classes:
        return _guess(options)
    if options.merge:
        return _merge(Path(options.out or DEFAULT), options.overwrite)
    return _pack(options)


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


def _pack(options: Options) -> dict[str, Any]:
    number = parse_part(options.part) if options.part else None
    source = open_source(options.source, options.classes, options.splits, options.find, options.skip_bad)
    print(_recognized(source))
    for sentence in source.warnings():
        print(f"warning: {one_line(sentence)}", file=sys.stderr)
    out = Path(options.out) if options.out else default_folder(source)
    start, counts = time.monotonic(), list[int]()
    with show_progress(f"packing into {out}", "frames") as show:

        def count(done: int, total: int) -> None:
            if counts and done < counts[-1]:  # samples are read again to list all that cannot be packed
                counts.clear()
            counts.append(done)
            show(done, total)

        how = (options.pack, options.workers, options.overwrite, count, options.skip_bad)
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
    return _document(manifest, out) if manifest else {"out": str(out), "part": options.part}


def _relabel(options: Options, classes: Path) -> dict[str, Any]:
    if options.source is None:
        raise UserError("--relabel needs the folder of a packed set: fastseg-pack --relabel FILE SHARDS")
    if not classes.exists():
        write_classes(options.source, classes)
        print(f"wrote {classes}: edit names and colors, give classes one value list to merge them, then run this again")
        return {"file": str(classes)}
    out = Path(options.out) if options.out else None
    with show_progress(f"relabeling {options.source}", "frames") as show:
        manifest = relabel(options.source, classes, out, show)
    _show(manifest, out or options.source)
    return _document(manifest, out or options.source)


def _preview(options: Options) -> dict[str, Any]:
    from fastseg.inspection.preview import preview, write_preview  # slow to import

    path = options.source or Path("data")
    with show_progress(f"reading {path}", "samples") as show:
        source = open_source_or_guess(
            options.source,
            options.classes,
            options.splits,
            options.workers,
            options.find,
            options.skip_bad,
            options.pack.reading.mask_values,
        )
        found = preview(source, options.pack.reading, worker_count(options.workers), show)
    page = Path("runs") / "preview" / f"{slug(source.table.name)}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_preview(page, found, source.summary(), path)
    print(_recognized(source))
    remarks = [one_line(sentence) for sentence in (*_summarize(found.problems), *found.warnings)]
    for sentence in remarks:
        print(f"• {sentence}")
    print(f"wrote {page}")
    return {"file": str(page), "remarks": remarks}


def _summarize(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield the first problem of each kind, the most frequent kind first, and the number of others."""
    for kind, count in Counter(problem.kind for problem in problems).most_common():
        first = next(problem.message for problem in problems if problem.kind == kind)
        yield first + (f" (and {count - 1:,} more samples alike)" if count > 1 else "")


def _recognized(source: DataSet) -> str:
    """Return what was recognized, with one pair as an example."""
    return f"recognized {source.summary()}" + (f", such as {example}" if (example := source.example()) else "")


def _guess(options: Options) -> dict[str, Any]:
    source, out, by = options.source or Path("data"), options.classes, options.pack.reading.mask_values
    with show_progress(f"reading the masks of {source}", "masks") as show:
        guess, path = write_guess(source, options.workers, show, out, options.find, by, options.skip_bad)
    what = "color" if guess.by_color else "value"
    table = Table(what, "", "class", "% of the pixels", title=f"{guess.masks} masks of {source}", title_justify="left")
    total = sum(guess.pixels.values()) + guess.mixed
    for key, count in guess.pixels.items():
        red, green, blue = guess.colors[key]
        shown = "{:3d} {:3d} {:3d}".format(*key) if isinstance(key, tuple) else str(key)
        name = guess.name(key) if key in guess.classes else "(ignored)"
        table.add_row(shown, Text("■■", style=f"rgb({red},{green},{blue})"), name, f"{100 * count / total:.3f}")
    if guess.mixed:
        table.add_row("others", "", "(ignored: mixtures of others)", f"{100 * guess.mixed / total:.3f}")
    Console(markup=False).print(table)
    if not guess.by_color and len(guess.classes) > MANY:
        print(f"{len(guess.classes)} values are many: masks once resized or stored as JPEG hold mixtures of labels")
    tolerance = (
        f" --color-tolerance {guess.tolerance}, which reads mixtures as the nearest class" if guess.mixed else ""
    )
    where = f' "ignore", then pack {source}' + (f" --classes {out}" if out else "") + tolerance
    print(f"wrote {path}: write the names in, move what is no class to{where}")
    return {"file": str(path)}


def _merge(out: Path, overwrite: bool) -> dict[str, Any]:
    manifest = merge(out, overwrite)
    _show(manifest, out)
    print(f"{out} is one set now; check that every byte arrived with: fastseg-pack --verify --out {out}")
    return _document(manifest, out)


def _show(manifest: Manifest, out: Path) -> None:
    console = Console(markup=False)  # names may hold square brackets
    console.print(_set_table(manifest, out))
    console.print(_class_table(manifest))
    for sentence in set_warnings(manifest):
        print(f"warning: {sentence}", file=sys.stderr)


def _document(manifest: Manifest, out: Path) -> dict[str, Any]:
    """Return what ``--json`` prints of a set: counts by split, pixels by class, as in its manifest."""
    names = [*(entry.name for entry in manifest.classes), "(ignored)"]
    splits = {
        name: {
            "samples": split.samples,
            "shards": len(split.shards),
            "bytes": sum(shard.bytes for shard in split.shards),
            "pixels": dict(zip(names, split.pixels, strict=False)),
        }
        for name, split in manifest.splits.items()
    }
    return {"out": str(out), "name": manifest.name, "splits": splits}


def _verify(out: str, workers: int | None) -> dict[str, Any]:
    with show_progress(f"verifying {out}", "frames") as show:
        damages = verify(out, workers, show)
    for damage in damages:
        print(f"error: {damage}", file=sys.stderr)
    if damages:
        cure = "copy the whole set there again" if is_remote(out) else "pack it again with --overwrite"
        print(f"error: {out} is damaged ({len(damages)} faults); {cure}", file=sys.stderr)
    else:
        print(f"{out} is whole: every byte and pixel is as its manifest says")
    return {"out": out, "damages": [str(damage) for damage in damages]}


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
