"""Show the training loader's crops: ``fastseg-inspect shards/mydata``."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastseg.cli_help import json_on_stdout, parse
from fastseg.config import AugmentConfig, Config, DataConfig, ModelConfig
from fastseg.errors import UserError, one_line, run_command
from fastseg.files import check_writable
from fastseg.inspection.output import check_replaceable
from fastseg.labels import SegmentationClass
from fastseg.progress import show_progress
from fastseg.recipe_table import RECIPES
from fastseg.shards.manifest import MAX_FILE, Manifest, read_manifest
from fastseg.shards.set_warnings import set_warnings
from fastseg.storage import read_bytes

if TYPE_CHECKING:
    from fastseg.inspection.measure import Crop, Inspection
    from fastseg.inspection.page import Share


THREADS = 8
"""Maximum decoding threads."""
PREVIEW = 3
"""Number of crops shown in a terminal."""
NAMED = 4
"""Number of a record's classes named in a terminal."""


def _like_training(name: str, metavar: str) -> object:
    """Return a flag that also has train.py's spelling."""
    return tyro.conf.arg(aliases=(f"--data.{name}",), metavar=metavar)


@dataclass(frozen=True)
class Options:
    """Show what training sees: augmented crops under their masks, class shares, records, and anything unusual.

    Example: fastseg-inspect shards/mydata --recipe cityscapes --crop 512 512
    """

    shards: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS")]
    """Folder (or s3:// prefix) of a packed set."""
    split: str = "train"
    """Split to draw from."""
    recipe: str | None = None
    """Settings of the augmentation. None: the set's."""
    config: Path | None = None
    """Settings of a run: its folder or config.json."""
    crop: Annotated[tuple[int, int] | None, _like_training("crop", "H W")] = None
    """Height and width of the crop, pixels. None, here and below: as the settings say."""
    scale: Annotated[tuple[float, float] | None, _like_training("scale", "LOW HIGH")] = None
    """Range of the ratio by which frames are resized."""
    batch: Annotated[int | None, _like_training("batch", "N")] = None
    """Images per step."""
    seed: int | None = None
    """Seed of the order and the augmentations."""
    samples: int = 256
    """Number of crops for the class shares."""
    show: int = 24
    """Number of crops on the contact sheet and the page."""
    out: Path | None = None
    """Folder for contact_sheet.png and index.html. None: runs/inspect/NAME of the set."""
    overwrite: bool = False
    """Replace files that fastseg-inspect did not write."""
    threads: Annotated[int | None, _like_training("threads", "N")] = None
    """CPU threads for decoding. None: one per core, 8 at most."""
    json: bool = False
    """Print facts, class shares and remarks as JSON; the tables go to stderr."""
    quiet: bool = False
    """Show no progress."""


def main() -> None:
    """Run the command ``fastseg-inspect``."""
    run_command(_main)


def _main() -> None:
    options = parse(Options, augmentation="recipe", result="samples", speed="threads")
    limits = {"samples": 1_000_000, "show": 200} | ({} if options.threads is None else {"threads": 1024})
    for name, most in limits.items():
        value = getattr(options, name)
        if not 1 <= value <= most:
            raise UserError(f"--{name} is {value}; it must be from 1 to {most}")
    manifest = read_manifest(options.shards)
    config = settings(options)
    with json_on_stdout(options.json) as tell:
        tell(run_inspection(options, config, manifest))


def settings(options: Options) -> Config:
    """Return the recipe's or the run's settings, overridden by the flags."""
    config = _of_run(options.config) if options.config else _of_recipe(options.recipe or _recipe_for(options.shards))
    given = {name: value for name in ("crop", "scale", "batch") if (value := getattr(options, name)) is not None}
    seed = config.seed if options.seed is None else options.seed
    return replace(config, data=replace(config.data, **given), seed=seed)


def _recipe_for(shards: str) -> str:
    """Return the recipe whose default set has this folder's name, such as demo for shards/demo."""
    name = Path(shards).name
    return next((recipe for recipe, make in RECIPES.items() if Path(make().shards).name == name), "cityscapes")


def _of_recipe(name: str) -> Config:
    if name not in RECIPES:
        raise UserError(f"--recipe is {name!r}; it must be one of: {', '.join(RECIPES)}")
    return RECIPES[name]()


def _of_run(path: Path) -> Config:
    path = path / "config.json" if path.is_dir() else path
    try:
        document = json.loads(read_bytes(path, MAX_FILE))
        data, model = (_tuples(document[part]) for part in ("data", "model"))
        return Config(name=document["name"], seed=document["seed"], data=DataConfig(**data), model=ModelConfig(**model))
    except OSError as error:
        raise UserError(f"--config {path} cannot be read ({error.strerror}); name a run's folder") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"--config {path} holds no settings of a run ({error}); name a run's folder") from None


def _tuples(document: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}


def run_inspection(options: Options, config: Config, manifest: Manifest) -> dict[str, Any]:
    """Draw crops, measure, show and write; return what was found, for ``--json``."""
    out = options.out or Path("runs") / "inspect" / (Path(options.shards.rstrip("/")).name or manifest.name)
    check_writable(out, "--out")
    check_replaceable(out, options.overwrite)
    # torch takes seconds to import: --help and wrong flags are handled before.
    from fastseg.data.augment import fill_color
    from fastseg.data.loader import open_files
    from fastseg.inspection.measure import findings, inspect
    from fastseg.inspection.page import shares, write_page
    from fastseg.model.network import normalization
    from fastseg.parallel import cpu_threads

    split = manifest.split(options.split)
    images = DataConfig().micro_batch if config.data.batch == "auto" else config.data.batch
    files = open_files(options.shards, manifest, options.split)
    with show_progress(f"drawing from {options.shards}", "crops") as progress:
        inspection = inspect(
            files,
            split,
            config.data,
            len(manifest.classes),
            fill=fill_color(normalization(config.model.weights, manifest.mean, manifest.std)[0]),
            seed=config.seed,
            batch=min(images, split.samples),  # also for a set of a few images
            threads=options.threads or min(cpu_threads(1), THREADS),
            crops=options.samples,
            show=options.show,
            progress=progress,
        )
    facts = _facts(options, config, manifest, inspection)
    sentences = [*set_warnings(manifest, options.split), *findings(inspection, split, manifest.classes)]
    if split.samples < images:
        sentences.append(f"{split.samples} frames make no batch of {images}: train with a smaller --data.batch")
    console = Console(markup=False, highlight=False)
    console.print(_facts_table(facts))
    if console.is_terminal and console.color_system:
        console.print(_preview(inspection.shown[:PREVIEW], manifest.classes, console.width))
    by_class = shares(inspection, split, manifest.classes)
    console.print(_class_table(by_class, inspection.crops))
    console.print(_record_table(inspection, manifest))
    for sentence in sentences or ["nothing stands out: masks lie on their images, and every class appears"]:
        console.print(f"• {one_line(sentence)}", soft_wrap=True)
    title = f"{manifest.name}, {options.split}"
    pages = list(write_page(out, title, facts, sentences, inspection, split, manifest.classes))
    for path in pages:
        console.print(f"wrote {path}", soft_wrap=True)
    shown = [{"class": c.name, "in_set": c.before, "in_crops": c.after, "crops": c.crops} for c in by_class]
    return {"facts": dict(facts), "classes": shown, "remarks": sentences, "files": [str(path) for path in pages]}


def _facts(options: Options, config: Config, manifest: Manifest, inspection: "Inspection") -> list[tuple[str, str]]:
    from fastseg.inspection.measure import percent

    split, data = manifest.split(options.split), config.data
    shards = len(split.shards)
    sizes = ", ".join(f"{height}×{width}" for height, width, _ in split.sizes[:3])
    more = f" and {len(split.sizes) - 3} more" if len(split.sizes) > 3 else ""
    size = sum(shard.bytes for shard in split.shards)
    ratio = "whole frames stretched" if data.resize == "stretch" else f"ratio {data.scale[0]}–{data.scale[1]}"
    named = ("crop", "scale", "resize", "flip")
    changes = {each.name: getattr(data, each.name) for each in fields(AugmentConfig) if each.name not in named}
    return [
        ("set", options.shards),
        ("split", f"{options.split}: {split.samples:,} frames in {shards} shard{'s' if shards > 1 else ''}"),
        ("frames, height × width", sizes + more),
        ("bytes", f"{size:,}, {size // split.samples:,} a frame"),
        ("stored as", f"{manifest.image_codec} + {manifest.mask_codec}"),
        ("settings", str(options.config) if options.config else f"recipe {config.name}"),
        ("crops", f"{data.crop[0]}×{data.crop[1]}, {ratio}, mirrored {data.flip:.0%}"),
        ("changed", ", ".join(f"{name} ±{value}" for name, value in changes.items() if value) or "nothing else"),
        ("drawn", f"{options.samples} crops, seed {config.seed}"),
        (
            "a crop shows",
            f"{percent(inspection.seen)} of its frame; {percent(inspection.padding)} of a crop is padding",
        ),
    ]


def _facts_table(facts: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for fact in facts:
        table.add_row(*fact)
    return table


def _class_table(rows: "list[Share]", crops: int) -> Table:
    from fastseg.inspection.measure import percent

    table = Table("", "class", title=f"pixels of each class: in the set, and in {crops} crops", title_justify="left")
    for column in ("in the set", "in the crops", "ratio", "crops that show it"):
        table.add_column(column, justify="right")
    for row in rows:
        chip = Text("■", style=f"rgb({row.color[0]},{row.color[1]},{row.color[2]})")
        table.add_row(chip, row.name, percent(row.before), percent(row.after), row.ratio, percent(row.crops))
    return table


def _record_table(inspection: "Inspection", manifest: Manifest) -> Table:
    names = {i: c.name for i, c in enumerate(manifest.classes)}
    table = Table(title="a few records", title_justify="left")
    table.add_column("record", overflow="fold")
    for column in ("height×width", "image, bytes", "mask, bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("classes in it")
    for entry in inspection.entries:
        found = ", ".join(names.get(train_id, "(ignored)") for train_id in entry.train_ids[:NAMED])
        found += f" and {len(entry.train_ids) - NAMED} more" if len(entry.train_ids) > NAMED else ""
        size = f"{entry.size[0]}×{entry.size[1]}"
        table.add_row(entry.key, size, f"{entry.image_bytes:,}", f"{entry.mask_bytes:,}", found)
    return table


def _preview(crops: "tuple[Crop, ...]", classes: tuple[SegmentationClass, ...], columns: int) -> Text:
    """Return crops under their masks, side by side: a character shows two pixels, as foreground and background."""
    import numpy as np
    from PIL import Image

    from fastseg.report.pictures import blend

    width = min(columns // len(crops) - 1, 48)
    height = 2 * max(1, round(width * crops[0].label.shape[0] / crops[0].label.shape[1] / 2))
    tiles = []
    for crop in crops:
        small = Image.fromarray(blend(crop.image, crop.label, classes)).resize((width, height))
        tiles += [np.asarray(small), np.zeros((height, 1, 3), np.uint8)]
    picture, text = np.concatenate(tiles, 1).tolist(), Text(no_wrap=True)
    for upper, lower in zip(picture[::2], picture[1::2], strict=True):
        for ink, paper in zip(upper, lower, strict=True):
            text.append("▀", style=f"rgb({','.join(map(str, ink))}) on rgb({','.join(map(str, paper))})")
        text.append("\n")
    return text


if __name__ == "__main__":
    main()
