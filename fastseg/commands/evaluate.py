"""Evaluate a trained network on packed shards by the official metric: ``fastseg-eval runs/mydata``."""

import json
import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from fastseg.cli_help import parse, shown_as
from fastseg.config import Arch
from fastseg.data.reader import Files, Reader
from fastseg.errors import UserError, run_command, unwind_on_signals
from fastseg.evaluation.settings import EvalSettings
from fastseg.files import check_writable
from fastseg.labels import cityscapes_ids
from fastseg.model.checkpoint_file import resolve_network
from fastseg.progress import show_progress
from fastseg.shards.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from fastseg.distributed.ranks import Ranks
    from fastseg.evaluation.cityscapes import PredictionFolder
    from fastseg.evaluation.metrics import Sample
    from fastseg.evaluation.results import CheckpointResult
    from fastseg.model.trained import TrainedNetwork


@dataclass(frozen=True)
class Options(EvalSettings):
    """Score whole frames: IoU by class; of two models, the differences beyond noise.

    Example: fastseg-eval runs/cityscapes --tta --report runs/best_val
    """

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional, shown_as("RUN")] = ()
    """Run, checkpoint, exported file or hf://USER/NAME; or two."""
    baseline: Annotated[Literal["coco"] | None, shown_as("coco")] = None
    """Compare with torchvision's network as published."""
    arch: Annotated[Arch | None, shown_as("NAME")] = None
    """Network of the baseline. Default: the checkpoint's."""
    shards: Annotated[str | None, shown_as("DIR")] = None
    """Packed set (also s3://). Default: the checkpoint's."""
    gpus: Annotated[int | None, shown_as("N")] = None
    """Processes, one per GPU or CPU share. Default: all GPUs."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPUs if there are any."""
    save_predictions: Annotated[Path | None, shown_as("DIR")] = None
    """Write PNGs for Cityscapes' server; of a test split also a zip."""
    official: Annotated[Path | None, shown_as("DIR")] = None
    """Also run cityscapesscripts; DIR holds gtFine/ or its zip."""
    report: Annotated[Path | None, shown_as("DIR")] = None
    """Write report.html there: scores, confusions, worst frames."""
    json: Annotated[bool, shown_as("")] = False
    """Print scores and matrix as JSON; tables go to stderr."""
    overwrite: Annotated[bool, shown_as("")] = False
    """Replace files in those folders."""
    quiet: Annotated[bool, shown_as("")] = False
    """Show no progress."""

    @property
    def alone(self) -> bool:
        """Return whether one checkpoint is evaluated, without a comparison."""
        return len(self.checkpoints) == 1 and not self.baseline


def check_options(options: Options) -> None:
    """Refuse contradictory options and invalid numbers."""
    models = len(options.checkpoints) + bool(options.baseline)
    if not models:
        raise UserError("no checkpoint is named; fastseg-eval takes one, or two to compare: fastseg-eval CKPT")
    if models > 2:
        raise UserError(f"{models} models are named, the baseline included; fastseg-eval compares two")
    if options.arch and not options.baseline:
        raise UserError(f"--arch {options.arch} is for the baseline; add --baseline coco, or leave it out")
    if options.baseline and not options.checkpoints and not options.shards:
        raise UserError("the baseline alone has no data set; name one with --shards DIR")
    for flag in ("save_predictions", "official", "report"):
        if not options.alone and getattr(options, flag):
            name = flag.replace("_", "-")
            raise UserError(f"--{name} takes a single checkpoint; leave it out, or the other model")
    options.check()


def check_files(options: Options) -> None:
    """Refuse files that are no checkpoints, and outputs that exist or cannot be written."""
    for i, source in enumerate(options.checkpoints):
        resolve_network(source, options.checkpoints[i + 1 :])
    if options.save_predictions:
        _check_folder(options.save_predictions, "--save-predictions", options.overwrite)
    if options.report and (options.report / "checkpoints").exists():
        raise UserError(
            f"--report is {options.report}, the folder of a run, whose records it would replace; name another"
        )
    if options.report:
        _check_folder(options.report, "--report", options.overwrite)


def _check_folder(folder: Path, flag: str, overwrite: bool) -> None:
    """Refuse a folder with files in it unless ``overwrite``; ``flag`` is the one that named it."""
    check_writable(folder, flag)
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if found and not overwrite:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise UserError(f"{folder} holds files already ({found[0]}{more}); name another {flag} or add --overwrite")


def main() -> None:
    """Run the command ``fastseg-eval``."""
    run_command(_main)


def _main() -> None:
    options = parse(Options, speed="batch", damage="verify_shards", first="checkpoints", result="save_predictions")
    check_options(options)
    unwind_on_signals()  # no half a file is left
    if os.environ.get("RANK", "0") == "0":  # one rank's test file in a folder would look like a result to another
        check_files(options)
    if options.shards:
        read_manifest(options.shards)
    # torch takes seconds to import: --help, wrong flags and wrong files are handled before.
    from fastseg.data.loader import open_files
    from fastseg.distributed.ranks import become_ranks, joined_ranks
    from fastseg.evaluation.scoring import check_networks, shards_of
    from fastseg.model.trained import open_network

    networks = [open_network(source) for source in options.checkpoints]
    shards = shards_of(networks, options.shards)
    manifest = read_manifest(shards)
    check_networks(networks, options, manifest, shards)
    check_split(options, manifest, shards)
    check_official(options, manifest, open_files(shards, manifest, options.split, unlabeled=True))
    become_ranks(options.gpus, options.device)
    with joined_ranks(options.device) as ranks:
        if options.alone:
            score_one(options, networks[0], shards, manifest, ranks)
        else:
            compare_models(options, networks, shards, manifest, ranks)


def score_one(options: Options, network: "TrainedNetwork", shards: str, manifest: Manifest, ranks: "Ranks") -> None:
    """Score (a split without masks: predict) as this rank; the first one prints and writes the results."""
    from fastseg.distributed.ranks import barrier
    from fastseg.evaluation.cityscapes import prediction_folder
    from fastseg.evaluation.frames import ReportFrames
    from fastseg.evaluation.scoring import open_loader, score_network

    loader = open_loader(options, shards, manifest, ranks)
    folder, temporary = options.save_predictions, bool(options.official)
    keys = loader.sample_keys()
    frames = ReportFrames(keys) if options.report else None
    with prediction_folder(folder, temporary, keys, manifest.classes, ranks.first) as saving:
        with saving or nullcontext():
            more = list(filter(None, (frames, saving)))
            scored = score_network(network, options, loader, shards, manifest, ranks, more)
        shown = frames.compute() if frames else []
        barrier()  # all predictions are written by now
        if ranks.first:
            write_results(options, scored, shown, keys, network.config, saving)


def write_results(
    options: Options,
    scored: "CheckpointResult",
    shown: "list[Sample]",
    keys: list[str],
    config: dict[str, Any],
    saved: "PredictionFolder | None",
) -> None:
    """Print and write the results; ``keys`` of the split's frames by index."""
    from fastseg.evaluation.cityscapes import compare_official
    from fastseg.report.evaluation_folder import write_evaluation

    console = Console(markup=False, stderr=options.json)
    scored.show(console)
    document = scored.to_json()
    frames = range(min(len(keys), options.max_images or len(keys)))
    if options.save_predictions and saved:
        saved.tell(console, frames, zipped=not scored.labeled)
    if options.official and saved:
        document["official"] = compare_official(options.official, scored.scores, saved.present(frames), console)
    if options.json:
        print(json.dumps(document, indent=1))
    if options.report:
        classes = scored.manifest.classes
        about = (classes, scored.record(), config, scored.manifest.name)
        page = write_evaluation(options.report, scored.matrix, shown, keys, *about)
        console.print(f"the report is {page}", highlight=False, soft_wrap=True)


def compare_models(
    options: Options, networks: "list[TrainedNetwork]", shards: str, manifest: Manifest, ranks: "Ranks"
) -> None:
    """Score two models, or the baseline alone, as this rank; the first one prints and writes the results."""
    from fastseg.device import autocast, precision_of
    from fastseg.evaluation.baseline import ARCH, Baseline
    from fastseg.evaluation.compare_models import count_frames, load_models, show_comparison
    from fastseg.evaluation.results import describe_views
    from fastseg.evaluation.scoring import explain_memory_error, explain_strange_classes, open_loader

    archs = [options.arch, *(network.arch for network in networks), ARCH]
    arch = next(filter(None, archs))
    baseline = Baseline(arch, [c.name for c in manifest.classes]) if options.baseline else None
    views, precision = options.views(), precision_of(options.precision, ranks.device)
    models = load_models(networks, baseline, views, ranks.device)
    loader = open_loader(options, shards, manifest, ranks)
    progress = show_progress("evaluating", "images") if ranks.first else nullcontext()
    explained = explain_memory_error(options, ranks, manifest, [model.infer for model in models])
    with autocast(precision, ranks.device), progress as show, explain_strange_classes(networks), explained:
        counted = count_frames(models, loader, len(manifest.classes), show)
    if counted is None:
        return
    console, result = Console(markup=False, stderr=options.json), counted.evaluation
    document = show_comparison(console, models, counted, manifest.classes, baseline)
    if result.corrupt_samples:
        console.print(f"{result.corrupt_samples} damaged frames were left out", highlight=False)
    console.print(
        f"{result.images} images of {shards} ({options.split}) at {result.images_per_second:.2f} images/s, "
        f"{', '.join([precision, *describe_views(views)])}",
        highlight=False,
        soft_wrap=True,
    )
    if options.json:
        about = {
            "checkpoints": list(options.checkpoints),
            "shards": shards,
            "split": options.split,
            "dataset": manifest.digest(),
            "precision": precision,
            **asdict(views),
            "images": result.images,
            "corrupt_samples": result.corrupt_samples,
        }
        print(json.dumps({**about, **document}, indent=1))


def check_split(options: Options, manifest: Manifest, shards: str) -> None:
    """Refuse to score a split without masks, and to score other classes by Cityscapes' evaluator."""
    if not manifest.split(options.split).labeled:
        if not options.save_predictions:
            raise UserError(
                f"the split {options.split!r} of {shards} has no masks, so that it cannot be scored; predict it with "
                "--save-predictions DIR, or score another with --split"
            )
        for flag, value in (("official", options.official), ("report", options.report), ("json", options.json)):
            if value:
                raise UserError(f"the split {options.split!r} has no masks, so that there is nothing for --{flag}")
    if options.official and cityscapes_ids(manifest.classes) is None:
        raise UserError(f"--official knows the 19 classes of Cityscapes alone, {shards} holds others; leave it out")
    if options.official and not options.official.exists():
        raise UserError(f"--official is {options.official}, which does not exist; it takes the set's ground truth")


def check_official(options: Options, manifest: Manifest, files: Files) -> None:
    """Refuse ground truth of other frames. Raises :class:`UserError`."""
    if options.official:
        from fastseg.evaluation.cityscapes import check_truth  # imports torch

        reader = Reader(files)
        keys = [reader.key(index) for index in range(min(len(reader), options.max_images or len(reader)))]
        sizes = {(height, width) for height, width, _ in manifest.split(options.split).sizes}
        check_truth(options.official, keys, sizes)


if __name__ == "__main__":
    main()
