"""Score a trained network on a split: what ``fastseg-eval`` and :func:`fastseg.evaluate` do."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import isqrt
from pathlib import Path
from typing import Literal

from fastseg.arguments import naming_arguments
from fastseg.data.decoder_probe import choose_decoder_for_ranks
from fastseg.data.loader import EvalLoader, open_files
from fastseg.device import autocast, precision_of
from fastseg.distributed.ranks import Ranks, joined_ranks
from fastseg.errors import UserError, out_of_memory
from fastseg.evaluation.evaluator import EvaluatedModel, Infer
from fastseg.evaluation.evaluator import evaluate as evaluate_models
from fastseg.evaluation.metrics import ConfusionMatrix, Metric, class_metrics, class_scores
from fastseg.evaluation.results import CheckpointResult
from fastseg.evaluation.settings import EvalSettings
from fastseg.labels import class_difference
from fastseg.memory import abandon, blank, pixels_that_fit, too_little
from fastseg.model.trained import TrainedNetwork, open_network
from fastseg.parallel import cpu_threads
from fastseg.progress import show_progress
from fastseg.shards.manifest import Manifest, read_manifest
from fastseg.shards.verify_ranks import verify_shards as verify
from fastseg.storage import is_remote


def evaluate(
    checkpoint: str | os.PathLike[str],
    shards: str | os.PathLike[str] | None = None,
    *,
    split: str = "val",
    max_images: int | None = None,
    tta: bool = False,
    window: tuple[int, int] | None = None,
    batch: int = 1,
    threads: int | None = None,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    decoder: Literal["auto", "gpu", "cpu"] = "auto",
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
    verify_shards: bool = False,
    max_corrupt_samples: int = 0,
) -> CheckpointResult:
    """Score a trained network on whole frames of a packed split by the official metric, as ``fastseg-eval`` does.

    ``checkpoint``: whatever :func:`fastseg.load` takes, or an exported .onnx or .pt2 file. ``shards``: default: those
    that it was trained on. ``tta``: average over six scales and mirrors. ``window``: height and width of sliding
    windows. ``max_images``: score only the first. ``verify_shards``: compare files with their SHA-256 first.
    ``max_corrupt_samples``: damaged frames to leave out. ``device``: auto (a GPU if there is one), cuda, cpu. The
    result prints as a table and has ``miou``, ``accuracy``, ``classes`` (name → IoU, 0…1), ``matrix`` and
    ``to_json()``. Raises :class:`fastseg.UserError` for what cannot be scored.

    >>> import fastseg
    >>> scores = fastseg.evaluate("ckpt.pt", "shards/demo", device="cpu")
    >>> 0 <= scores.miou <= 1, len(scores.classes), scores.matrix.shape
    (True, 19, (19, 19))
    """
    settings = EvalSettings(
        split, max_images, tta, window, batch, threads, decoder, precision, verify_shards, max_corrupt_samples
    )
    with naming_arguments():
        settings.check()
        network = open_network(checkpoint)
        where = shards_of([network], shards)
        manifest = read_manifest(where)
        check_networks([network], settings, manifest, where)
        if not manifest.split(split).labeled:
            raise UserError(f"the split {split!r} of {where} has no masks, so that it cannot be scored; name another")
        with joined_ranks(device) as ranks:
            loader = open_loader(settings, where, manifest, ranks)
            result = score_network(network, settings, loader, where, manifest, ranks)
    return result


def shards_of(networks: Sequence[TrainedNetwork], shards: str | os.PathLike[str] | None) -> str:
    """Return the packed set to score: the named one, else that of the first network that says its own."""
    if shards:
        return os.fspath(shards)
    trained = next((network.shards for network in networks if network.shards), "")
    if not trained:
        raise UserError(f"{networks[0].name} does not say what it was trained on; name a packed set with --shards")
    if not is_remote(trained) and not Path(trained).is_dir():
        raise UserError(f"the checkpoint was trained on {trained}, which is not here; name the set with --shards")
    return trained


def check_networks(networks: Sequence[TrainedNetwork], settings: EvalSettings, manifest: Manifest, shards: str) -> None:
    """Refuse networks of other classes than the set's and each other's, and those that do not take its frames."""
    packed = tuple(c.name for c in manifest.classes)
    known = [network for network in networks if network.classes is not None]
    if len(known) == 2 and known[0].classes != known[1].classes:
        what, a, b = class_difference(known[0].classes or (), known[1].classes or ())
        raise UserError(
            f"the {what} of {known[0].name} is {a}, of {known[1].name} {b}; "
            "only models of the same classes can be compared"
        )
    if known and known[0].classes != packed:
        what, a, b = class_difference(known[0].classes or (), packed)
        raise UserError(
            f"the {what} of {known[0].name} is {a}, of {shards} {b}; name the set it was trained for with --shards"
        )
    sizes = [(height, width) for height, width, _ in manifest.split(settings.split).sizes]
    for network in networks:
        settings.views().check(network.stretch_to)
        network.check_frames(settings.batch, sizes, len(packed))


def open_loader(settings: EvalSettings, shards: str, manifest: Manifest, ranks: Ranks) -> EvalLoader:
    """Return the loader of this rank's frames."""
    choice = choose_decoder_for_ranks(settings.decoder, shards, settings.split, manifest, ranks)
    if choice.warning and ranks.first:
        print(f"warning: {choice.warning}", file=sys.stderr)
    if settings.verify_shards:
        verify(shards, manifest, [settings.split], ranks)
    most = settings.max_corrupt_samples
    return EvalLoader(
        open_files(shards, manifest, settings.split, ranks.rank, ranks.world, most, unlabeled=True),
        manifest.split(settings.split),
        batch=settings.batch,
        device=ranks.device,
        threads=settings.threads or cpu_threads(ranks.local_world),
        decoder=choice.processor,
        most=settings.max_images,
    )


def score_network(
    network: TrainedNetwork,
    settings: EvalSettings,
    loader: EvalLoader,
    shards: str,
    manifest: Manifest,
    ranks: Ranks,
    more: Sequence[Metric] = (),
) -> CheckpointResult:
    """Score a network as this rank, showing every frame to the metrics ``more``, too; every rank has to call."""
    classes, views = len(manifest.classes), settings.views()
    precision = precision_of(settings.precision, ranks.device)
    confusion, by_class = ConfusionMatrix(classes, ranks.device), class_metrics(classes, ranks.device)
    model = EvaluatedModel(network.open(ranks.device, views), [confusion, *by_class.values(), *more])
    progress = show_progress("evaluating", "images") if ranks.first else nullcontext()
    explained = explain_memory_error(settings, ranks, manifest, [model.infer])
    with autocast(precision, ranks.device), progress as show, explain_strange_classes([network]), explained:
        stats = evaluate_models([model], loader, classes, progress=show)
    assert stats is not None  # nothing interrupts it
    return CheckpointResult(
        checkpoint=network.name,
        step=network.step,
        weights=network.weights,
        shards=shards,
        split=settings.split,
        manifest=manifest,
        result=stats,
        matrix=confusion.compute(),
        class_scores=class_scores(by_class),
        precision=precision,
        views=views,
    )


@contextmanager
def explain_strange_classes(networks: Sequence[TrainedNetwork]) -> Iterator[None]:
    """Turn the error about pixels of no class into a :class:`UserError` if one of the networks may be anybody's."""
    try:
        yield
    except ValueError as error:
        if foreign := [network.name for network in networks if network.program]:
            raise UserError(f"{foreign[0]} is a network for other classes than the set's: {error}") from None
        raise


@contextmanager
def explain_memory_error(
    settings: EvalSettings, ranks: Ranks, manifest: Manifest, infers: Sequence[Infer]
) -> Iterator[None]:
    """Turn an error about too little memory into a :class:`UserError` that says what to change, and what would fit."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        device, batch = ranks.device, settings.batch
        abandon(error, device)

        def infer(side: int) -> None:
            for each in infers:
                each(blank(side, device))

        pixels = pixels_that_fit(infer, device, ranks.local_world)
        largest = max(height * width for height, width, _ in manifest.split(settings.split).sizes)
        work = f"evaluate frames of {largest:,} pixels"
        if batch > 1:
            work, cure = f"evaluate with --batch {batch}", f"--batch {max(pixels // largest, 1)} fits"
            cure = cure if largest <= pixels < batch * largest else "lower it"
        elif settings.window:
            work, cure = f"evaluate with --window {settings.window[0]} {settings.window[1]}", "name a smaller one"
        else:
            side = isqrt(pixels) // 32 * 32
            window = f"--window {side} {side} fits" if side >= 32 and side**2 < largest else ""
            cure = window or "look through smaller windows with --window H W"
        raise too_little(device, work, cure) from None
