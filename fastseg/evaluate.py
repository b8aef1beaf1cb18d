"""Evaluate a checkpoint on packed shards by the official metric: ``fastseg-eval ckpt.pt``."""

import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

if __package__ in (None, ""):
    # Run as a script, sys.path starts with this folder, whose modules are not for the top level.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import tyro
from rich.console import Console

from fastseg.data.manifest import Manifest, read_manifest
from fastseg.errors import UserError, run_command
from fastseg.files import is_remote, write_atomic
from fastseg.progress import show_progress

if TYPE_CHECKING:
    from fastseg.loop.distributed import Ranks


@dataclass(frozen=True)
class Options:
    """Per-class IoU on whole frames at full resolution, from the checkpoint alone.

    Example: fastseg-eval runs/cityscapes/checkpoints/best.pt --json scores.json
    """

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT")]
    """Checkpoint of a training run. Averaged weights are used where it has them."""
    shards: str | None = None
    """Folder (or s3:// prefix) of the packed set. None: the one the checkpoint was trained on."""
    split: str = "val"
    """Split to score."""
    gpus: int | None = None
    """Processes on this machine, one per GPU or per share of the CPU. None: one for every GPU there is."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPUs if there are any."""
    batch: int = 1
    """Whole frames per GPU and step."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of convolutions and products; auto: the fastest that the hardware has."""
    json: Path | None = None
    """Write the scores and the confusion matrix to this file."""


def main() -> None:
    """The command ``fastseg-eval``."""
    run_command(_main)


def _main() -> None:
    options = tyro.cli(Options, config=(tyro.conf.FlagConversionOff,))
    if options.batch < 1:
        raise UserError(f"--batch is {options.batch}; it must be 1 or more")
    # torch takes seconds to import: --help and wrong flags are answered before.
    from fastseg.data.loader import open_files
    from fastseg.loop import checkpoint
    from fastseg.loop.distributed import become_ranks, joined_ranks

    saved = checkpoint.load(options.checkpoint)
    shards = options.shards or str(saved["shards"])
    if not options.shards and not is_remote(shards) and not Path(shards).is_dir():
        raise UserError(f"the checkpoint was trained on {shards}, which is not here; name the set with --shards")
    manifest = read_manifest(shards)
    check_classes(saved, manifest, shards)
    open_files(shards, manifest, options.split)
    become_ranks(options.gpus, options.device)
    with joined_ranks(options.device) as ranks:
        evaluate_checkpoint(options, saved, shards, manifest, ranks)


def check_classes(saved: dict[str, Any], manifest: Manifest, shards: str) -> None:
    """Refuse shards of other classes than the checkpoint's."""
    trained, packed = [c["name"] for c in saved["classes"]], [c.name for c in manifest.classes]
    if trained != packed:
        raise UserError(
            f"the checkpoint knows {len(trained)} classes ({', '.join(trained[:3])}, …), {shards} holds {len(packed)} "
            f"({', '.join(packed[:3])}, …); name the set it was trained for with --shards"
        )


def evaluate_checkpoint(
    options: Options, saved: dict[str, Any], shards: str, manifest: Manifest, ranks: "Ranks"
) -> None:
    """Score as this rank; the first one prints the table and writes the file."""
    from fastseg.data.loader import EvalLoader, cpu_threads, open_files
    from fastseg.loop.step import autocast, precision_of
    from fastseg.model.deeplab import restore_model
    from fastseg.score.evaluator import evaluate, predict
    from fastseg.score.metrics import score, score_table

    split = manifest.split(options.split)
    model = restore_model(saved).to(ranks.device)
    loader = EvalLoader(
        open_files(shards, manifest, options.split, ranks.rank, ranks.world),
        split,
        batch=options.batch,
        device=ranks.device,
        threads=cpu_threads(ranks.local_world),
    )
    precision = precision_of(options.precision, ranks.device)
    progress = show_progress("evaluating", "images") if ranks.first else nullcontext()
    with autocast(precision, ranks.device), progress as show:
        result = evaluate(partial(predict, model), loader, len(manifest.classes), progress=show)
    if not ranks.first or result is None:
        return
    scores = score(result.matrix, manifest.classes)
    console = Console()
    console.print(score_table(scores, manifest.classes))
    console.print(
        f"{options.checkpoint}: {result.images} images of {shards} ({options.split}) "
        f"at {result.images_per_second:.2f} images/s, {precision}",
        highlight=False,
        soft_wrap=True,
    )
    if options.json:
        document = {
            "checkpoint": str(options.checkpoint),
            "step": saved["step"],
            "shards": shards,
            "split": options.split,
            "dataset": manifest.digest(),
            "images": result.images,
            "images_per_second": result.images_per_second,
            **scores.to_json(),
            "matrix": result.matrix.tolist(),
        }
        write_atomic(options.json, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
