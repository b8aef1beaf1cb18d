"""Evaluate a checkpoint on packed shards by the official metric: ``fastseg-eval ckpt.pt``."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from fastseg.cli_help import parse, shown_as
from fastseg.config import Arch
from fastseg.data.reader import Files, Reader
from fastseg.errors import UserError, run_command
from fastseg.files import check_writable
from fastseg.labels import cityscapes_ids, class_difference
from fastseg.model.checkpoint_file import check_checkpoint
from fastseg.progress import show_progress
from fastseg.shards.manifest import Manifest, read_manifest
from fastseg.storage import is_remote

if TYPE_CHECKING:
    from fastseg.data.loader import EvalLoader
    from fastseg.distributed.ranks import Ranks
    from fastseg.evaluation.cityscapes import PredictionFolder
    from fastseg.evaluation.metrics import Sample
    from fastseg.evaluation.results import CheckpointResult
    from fastseg.model.inference import TtaViews


@dataclass(frozen=True)
class Options:
    """Score whole frames: IoU by class; of two models, the differences beyond noise.

    Example: fastseg-eval runs/cityscapes/checkpoints/best.pt --tta --report runs/best_val
    """

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional, shown_as("CKPT")]
    """Checkpoint (averaged weights, if any), or two to compare."""
    baseline: Annotated[Literal["coco"] | None, shown_as("coco")] = None
    """Compare with torchvision's network as published."""
    arch: Annotated[Arch | None, shown_as("NAME")] = None
    """Network of the baseline. Default: the checkpoint's."""
    shards: Annotated[str | None, shown_as("DIR")] = None
    """Packed set (also s3://). Default: the checkpoint's."""
    split: str = "val"
    """Split to score; without masks: to predict."""
    max_images: Annotated[int | None, shown_as("N")] = None
    """Score only the first N frames."""
    tta: Annotated[bool, shown_as("")] = False
    """Average over 6 scales and mirrors: 17 times the work."""
    window: Annotated[tuple[int, int] | None, shown_as("H W")] = None
    """Size of sliding windows, which overlap by a third."""
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
    batch: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Whole frames per GPU and step."""
    threads: Annotated[int | None, shown_as("N")] = None
    """Decoding threads per GPU. Default: its share of all cores."""
    gpus: Annotated[int | None, shown_as("N")] = None
    """Processes, one per GPU or CPU share. Default: all GPUs."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPUs if there are any."""
    decoder: Literal["auto", "gpu", "cpu"] = "auto"
    """JPEG decoder on a machine with a GPU."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: the fastest that the hardware has."""
    verify_shards: bool = False
    """Compare files with their SHA-256 first."""
    max_corrupt_samples: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Maximum damaged frames to leave out."""

    @property
    def alone(self) -> bool:
        """Return whether one checkpoint is evaluated, without a comparison."""
        return len(self.checkpoints) == 1 and not self.baseline


def check(options: Options) -> None:
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
    for name, least in (("batch", 1), ("max_corrupt_samples", 0), ("max_images", 1), ("threads", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be {least} or more")


def check_files(options: Options) -> None:
    """Refuse files that are no checkpoints, and outputs that exist or cannot be written."""
    for i, path in enumerate(options.checkpoints):
        check_checkpoint(path, options.checkpoints[i + 1 :])
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
    options = parse(Options, result="save_predictions", speed="batch", damage="verify_shards")
    check(options)
    if os.environ.get("RANK", "0") == "0":  # one rank's test file in a folder would look like a result to another
        check_files(options)
    if options.shards:
        read_manifest(options.shards)
    # torch takes seconds to import: --help, wrong flags and wrong files are handled before.
    from fastseg.data.loader import open_files
    from fastseg.distributed.ranks import become_ranks, joined_ranks
    from fastseg.model import checkpoint

    saved = [checkpoint.load(path) for path in options.checkpoints]
    shards = shards_of(options, saved)
    manifest = read_manifest(shards)
    check_classes(options, saved, manifest, shards)
    check_split(options, manifest, shards)
    files = open_files(shards, manifest, options.split, unlabeled=True)
    views = views_of(options)
    for document in saved:
        views.check(document["stretch_to"])
    check_official(options, manifest, files)
    become_ranks(options.gpus, options.device)
    with joined_ranks(options.device) as ranks, explain_memory_error(options, ranks):
        if options.alone:
            evaluate_checkpoint(options, saved[0], shards, manifest, ranks)
        else:
            compare_models(options, saved, shards, manifest, ranks)


@contextmanager
def explain_memory_error(options: Options, ranks: "Ranks") -> Iterator[None]:
    """Turn torch's error about a GPU's memory into a :class:`UserError` that says what to change."""
    import torch

    from fastseg.device import too_little

    try:
        yield
    except torch.OutOfMemoryError:
        work, cure = "evaluate whole frames", "look through smaller windows with --window H W"
        if options.batch > 1:
            work, cure = f"evaluate with --batch {options.batch}", "lower it"
        elif options.window:
            work, cure = f"evaluate with --window {options.window[0]} {options.window[1]}", "name a smaller one"
        raise too_little(ranks.device, work, cure) from None


def shards_of(options: Options, saved: list[dict[str, Any]]) -> str:
    """Return the packed set to score."""
    shards = options.shards or str(saved[0]["shards"])
    if not options.shards and not is_remote(shards) and not Path(shards).is_dir():
        raise UserError(f"the checkpoint was trained on {shards}, which is not here; name the set with --shards")
    return shards


def check_classes(options: Options, saved: list[dict[str, Any]], manifest: Manifest, shards: str) -> None:
    """Refuse two checkpoints of different classes, and shards of others than the checkpoint's."""
    if not saved:
        return
    trained, *others = ([c["name"] for c in document["classes"]] for document in saved)
    if others and others[0] != trained:
        what, a, b = class_difference(trained, others[0])
        raise UserError(
            f"the {what} of {options.checkpoints[0]} is {a}, of {options.checkpoints[1]} {b}; "
            "only models of the same classes can be compared"
        )
    packed = [c.name for c in manifest.classes]
    if trained != packed:
        what, a, b = class_difference(trained, packed)
        raise UserError(
            f"the {what} of {options.checkpoints[0]} is {a}, of {shards} {b}; "
            "name the set it was trained for with --shards"
        )


def views_of(options: Options) -> "TtaViews":
    """Return the requested views of a frame."""
    from fastseg.model.inference import MULTI_SCALE, ONCE

    return replace(MULTI_SCALE if options.tta else ONCE, window=options.window)


def open_loader(options: Options, shards: str, manifest: Manifest, ranks: "Ranks") -> "EvalLoader":
    """Return the loader of this rank's frames."""
    from fastseg.data.decoder_probe import choose_decoder_for_ranks
    from fastseg.data.loader import EvalLoader, open_files
    from fastseg.parallel import cpu_threads
    from fastseg.shards.verify_ranks import verify_shards

    choice = choose_decoder_for_ranks(options.decoder, shards, options.split, manifest, ranks)
    if choice.warning and ranks.first:
        print(f"warning: {choice.warning}", file=sys.stderr)
    if options.verify_shards:
        verify_shards(shards, manifest, [options.split], ranks)
    return EvalLoader(
        open_files(
            shards, manifest, options.split, ranks.rank, ranks.world, options.max_corrupt_samples, unlabeled=True
        ),
        manifest.split(options.split),
        batch=options.batch,
        device=ranks.device,
        threads=options.threads or cpu_threads(ranks.local_world),
        decoder=choice.processor,
        most=options.max_images,
    )


def evaluate_checkpoint(
    options: Options, saved: dict[str, Any], shards: str, manifest: Manifest, ranks: "Ranks"
) -> None:
    """Score (a split without masks: predict) as this rank; the first one prints and writes the results."""
    from fastseg.device import autocast, precision_of
    from fastseg.distributed.ranks import barrier
    from fastseg.evaluation.cityscapes import prediction_folder
    from fastseg.evaluation.evaluator import EvaluatedModel, evaluate
    from fastseg.evaluation.frames import ReportFrames
    from fastseg.evaluation.metrics import ConfusionMatrix, class_metrics, class_scores
    from fastseg.evaluation.results import CheckpointResult
    from fastseg.model.inference import predict
    from fastseg.model.network import restore_model

    model = restore_model(saved).to(ranks.device)
    loader = open_loader(options, shards, manifest, ranks)
    precision = precision_of(options.precision, ranks.device)
    progress = show_progress("evaluating", "images") if ranks.first else nullcontext()
    classes = len(manifest.classes)
    confusion, by_class = ConfusionMatrix(classes, ranks.device), class_metrics(classes, ranks.device)
    folder, temporary = options.save_predictions, bool(options.official)
    keys = loader.sample_keys()
    frames = ReportFrames(keys) if options.report else None
    with prediction_folder(folder, temporary, keys, manifest.classes, ranks.first) as saving:
        with saving or nullcontext(), autocast(precision, ranks.device), progress as show:
            metrics = [confusion, *by_class.values(), *filter(None, (frames, saving))]
            evaluated = EvaluatedModel(partial(predict, model, views=views_of(options)), metrics)
            result = evaluate([evaluated], loader, classes, progress=show)
        matrix, scores = confusion.compute(), class_scores(by_class)
        shown = frames.compute() if frames else []
        barrier()  # all predictions are written by now
        if ranks.first and result:
            scored = CheckpointResult(
                checkpoint=str(options.checkpoints[0]),
                step=saved["step"],
                weights="ema" if saved["ema"] else "model",
                shards=shards,
                split=options.split,
                manifest=manifest,
                result=result,
                matrix=matrix,
                class_scores=scores,
                precision=precision,
                views=views_of(options),
            )
            write_results(options, scored, shown, keys, saved["config"], saving)


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
    options: Options, saved: list[dict[str, Any]], shards: str, manifest: Manifest, ranks: "Ranks"
) -> None:
    """Score two models, or the baseline alone, as this rank; the first one prints and writes the results."""
    from fastseg.device import autocast, precision_of
    from fastseg.evaluation.baseline import ARCH, Baseline
    from fastseg.evaluation.compare_models import count_frames, load_models, show_comparison
    from fastseg.evaluation.results import describe_views

    arch = options.arch or (saved[0]["arch"] if saved else ARCH)
    baseline = Baseline(arch, [c.name for c in manifest.classes]) if options.baseline else None
    views, precision = views_of(options), precision_of(options.precision, ranks.device)
    checkpoints = list(zip(map(str, options.checkpoints), saved, strict=True))
    models = load_models(checkpoints, baseline, views, ranks.device)
    loader = open_loader(options, shards, manifest, ranks)
    progress = show_progress("evaluating", "images") if ranks.first else nullcontext()
    with autocast(precision, ranks.device), progress as show:
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
            "checkpoints": [str(path) for path in options.checkpoints],
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
