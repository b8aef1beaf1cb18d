"""Evaluate a checkpoint on packed shards by the official metric: ``fastseg-eval ckpt.pt``."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    # Run as a script, sys.path starts with this folder, whose modules are not for the top level.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import tyro
from rich.console import Console

from fastseg.data.manifest import Manifest, read_manifest
from fastseg.errors import UserError, run_command
from fastseg.evalconfig import Options, check, check_files
from fastseg.files import write_atomic
from fastseg.helptext import command_name
from fastseg.labels import class_difference
from fastseg.progress import show_progress
from fastseg.reading import is_remote

if TYPE_CHECKING:
    from fastseg.data.loader import EvalLoader
    from fastseg.loop.distributed import Ranks
    from fastseg.model.inference import Views
    from fastseg.score.outcome import Outcome
    from fastseg.score.submission import PredictionFolder


def main() -> None:
    """The command ``fastseg-eval``."""
    run_command(_main)


def _main() -> None:
    options = tyro.cli(Options, prog=command_name())
    check(options)
    if os.environ.get("RANK", "0") == "0":  # what one rank tries in a folder would be another's finding
        check_files(options)
    if options.shards:
        read_manifest(options.shards)
    # torch takes seconds to import: --help, wrong flags and wrong files are answered before.
    from fastseg.data.loader import open_files
    from fastseg.loop import checkpoint
    from fastseg.loop.distributed import become_ranks, joined_ranks
    from fastseg.score.evalchecks import check_official, check_split

    saved = [checkpoint.load(path) for path in options.checkpoints]
    shards = shards_of(options, saved)
    manifest = read_manifest(shards)
    check_classes(options, saved, manifest, shards)
    check_split(options, manifest, shards)
    files = open_files(shards, manifest, options.split, unlabelled=True)
    views = views_of(options)
    for document in saved:
        views.check(document["squeeze"])
    check_official(options, manifest, files)
    become_ranks(options.gpus, options.device)
    with joined_ranks(options.device) as ranks, memory_explained(options, ranks):
        if options.alone:
            evaluate_checkpoint(options, saved[0], shards, manifest, ranks)
        else:
            compare_models(options, saved, shards, manifest, ranks)


@contextmanager
def memory_explained(options: Options, ranks: "Ranks") -> Iterator[None]:
    """Turn torch's error about a GPU's memory into a :class:`UserError` that says what to ask for instead."""
    import torch

    from fastseg.loop.memory import too_little

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
    """The packed set to score."""
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


def views_of(options: Options) -> "Views":
    """How frames are looked at."""
    from fastseg.model.inference import MULTI_SCALE, ONCE

    return replace(MULTI_SCALE if options.tta else ONCE, window=options.window)


def open_loader(options: Options, shards: str, manifest: Manifest, ranks: "Ranks") -> "EvalLoader":
    """This rank's frames of the split."""
    from fastseg.data.loader import EvalLoader, cpu_threads, open_files
    from fastseg.loop.build import verify_shards
    from fastseg.loop.decoder import choose_decoder_for_ranks

    choice = choose_decoder_for_ranks(options.decoder, shards, options.split, manifest, ranks)
    if choice.warning and ranks.first:
        print(f"warning: {choice.warning}", file=sys.stderr)
    if options.verify_shards:
        verify_shards(shards, manifest, [options.split], ranks)
    return EvalLoader(
        open_files(shards, manifest, options.split, ranks.rank, ranks.world, options.max_bad_samples, unlabelled=True),
        manifest.split(options.split),
        batch=options.batch,
        device=ranks.device,
        threads=cpu_threads(ranks.local_world),
        decoder=choice.decoder,
        most=options.max_images,
    )


def evaluate_checkpoint(
    options: Options, saved: dict[str, Any], shards: str, manifest: Manifest, ranks: "Ranks"
) -> None:
    """Score (a split without masks: predict) as this rank; the first one says and writes what came out."""
    from fastseg.loop.distributed import barrier
    from fastseg.loop.step import autocast, precision_of
    from fastseg.model.deeplab import restore_model
    from fastseg.model.inference import predict
    from fastseg.score.boundary import BoundaryCounts
    from fastseg.score.evalfolder import WORST_IMAGES
    from fastseg.score.evaluator import evaluate
    from fastseg.score.outcome import Outcome
    from fastseg.score.submission import prediction_folder

    model = restore_model(saved).to(ranks.device)
    loader = open_loader(options, shards, manifest, ranks)
    precision = precision_of(options.precision, ranks.device)
    progress = show_progress("evaluating", "images") if ranks.first else nullcontext()
    boundaries = BoundaryCounts(len(manifest.classes), ranks.device)
    folder, temporary = options.save_predictions, bool(options.official)
    keys = loader.sample_keys()
    with prediction_folder(folder, temporary, keys, manifest.classes, ranks.first) as saving:
        with saving or nullcontext(), autocast(precision, ranks.device), progress as show:
            result = evaluate(
                partial(predict, model, views=views_of(options)),
                loader,
                len(manifest.classes),
                keep_worst=WORST_IMAGES if options.report else 0,
                watchers=[boundaries, *([saving.save] if saving else [])],
                progress=show,
            )
        boundary = boundaries.iou()
        barrier()  # all predictions are written
        if ranks.first and result:
            outcome = Outcome(
                checkpoint=str(options.checkpoints[0]),
                step=saved["step"],
                weights="ema" if saved["ema"] else "model",
                shards=shards,
                split=options.split,
                manifest=manifest,
                result=result,
                boundary=boundary,
                precision=precision,
                views=views_of(options),
            )
            finish(options, outcome, keys, saved["config"], saving)


def finish(
    options: Options,
    outcome: "Outcome",
    keys: list[str],
    config: dict[str, Any],
    saved: "PredictionFolder | None",
) -> None:
    """Print and write what was asked for; ``keys`` of the split's frames by their place."""
    from fastseg.score.evalfolder import write_evaluation
    from fastseg.score.official import compare_official

    console = Console(markup=False)
    outcome.show(console)
    document = outcome.to_json()
    frames = range(min(len(keys), options.max_images or len(keys)))
    if options.save_predictions and saved:
        saved.tell(console, frames, zipped=not outcome.labelled)
    if options.official and saved:
        document["official"] = compare_official(options.official, outcome.scores, saved.present(frames), console)
    if options.json:
        write_atomic(options.json, json.dumps(document, indent=1) + "\n")
    if options.report:
        classes = outcome.manifest.classes
        page = write_evaluation(options.report, outcome.result, keys, classes, outcome.record(), config)
        console.print(f"the report is {page}", highlight=False, soft_wrap=True)


def compare_models(
    options: Options, saved: list[dict[str, Any]], shards: str, manifest: Manifest, ranks: "Ranks"
) -> None:
    """Score two models, or the baseline alone, as this rank; the first one says and writes what came out."""
    from fastseg.loop.step import autocast, precision_of
    from fastseg.model.baseline import ARCH, Baseline
    from fastseg.score.contest import contestants, count_frames, show_contest
    from fastseg.score.outcome import looks

    arch = options.arch or (saved[0]["arch"] if saved else ARCH)
    baseline = Baseline(arch, [c.name for c in manifest.classes]) if options.baseline else None
    views, precision = views_of(options), precision_of(options.precision, ranks.device)
    checkpoints = list(zip(map(str, options.checkpoints), saved, strict=True))
    models = contestants(checkpoints, baseline, views, ranks.device)
    loader = open_loader(options, shards, manifest, ranks)
    progress = show_progress("evaluating", "images") if ranks.first else nullcontext()
    with autocast(precision, ranks.device), progress as show:
        counted = count_frames([model.infer for model in models], loader, len(manifest.classes), show)
    if counted is None:
        return
    console = Console(markup=False)
    document = show_contest(console, models, counted, manifest.classes, baseline)
    if counted.bad_samples:
        console.print(f"{counted.bad_samples} damaged frames were left out", highlight=False)
    console.print(
        f"{counted.images} images of {shards} ({options.split}) at {counted.images_per_second:.2f} images/s, "
        f"{', '.join([precision, *looks(views)])}",
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
            "images": counted.images,
            "bad_samples": counted.bad_samples,
        }
        write_atomic(options.json, json.dumps({**about, **document}, indent=1) + "\n")


if __name__ == "__main__":
    main()
