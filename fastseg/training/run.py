"""Run a training from its configuration to its end: check, build, resume, introduce, loop."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastseg.config import Config
from fastseg.data.augment import fill_color
from fastseg.data.decoder_probe import DecoderChoice, choose_decoder_for_ranks
from fastseg.data.loader import EvalLoader, Processor, TrainLoader, open_files
from fastseg.data.sampler import epoch_steps
from fastseg.device import environment
from fastseg.distributed.ranks import Ranks, barrier, barrier_no_timeout, gather_states, raise_on_first
from fastseg.errors import UserError
from fastseg.files import check_free, lock_run_folder, remove_temporary, set_aside
from fastseg.model import checkpoint
from fastseg.model.batchnorm import sync_batch_norms
from fastseg.model.loss import LossFunction, class_weights
from fastseg.model.network import SegmentationNetwork, check_logits, normalization
from fastseg.model.pretrained import load_weights
from fastseg.model.weights import Rgb, fitting
from fastseg.parallel import cpu_threads
from fastseg.report.report import write_report
from fastseg.report.run_folder import started
from fastseg.shards.manifest import Manifest
from fastseg.shards.set_warnings import nothing_to_score
from fastseg.shards.verify_ranks import verify_shards
from fastseg.storage import use_cache
from fastseg.training.callbacks import Callback, Callbacks, EarlyStopping, TimeLimit
from fastseg.training.compiled import check_compiler
from fastseg.training.deterministic import explain_nondeterminism, set_deterministic
from fastseg.training.memory import STREAMED, FrameCachePlan, explain_memory_error, plan_frame_cache, with_batch
from fastseg.training.optim import Average, peak_lr, total_steps, warmup_epochs, with_accumulation
from fastseg.training.own_parts import NONE, OwnParts
from fastseg.training.remote_checkpoints import Uploads, fetch_newer, uploading
from fastseg.training.run_log import RunLog, drop_records
from fastseg.training.state import (
    RunState,
    changed_settings,
    check_changes,
    checkpoint_path,
    continues_exactly,
    find_checkpoint,
    keep_best,
    own_checkpoint,
    resumes_own,
    whole_steps,
)
from fastseg.training.step import TrainStep, use_sync_bn
from fastseg.training.trackers import check_tracker, open_tracking
from fastseg.training.trainer import Trainer


def build_state(
    config: Config, manifest: Manifest, ranks: Ranks, resumed: bool = False, loss: LossFunction | None = None
) -> RunState:
    """Build network, optimizer and average with their initial values; a resumed run loads no pretrained ones.

    ``loss``: in place of the settings' cross-entropy.
    """
    torch.manual_seed(config.seed)  # the same weights on every rank …
    model = build_model(config, manifest, ranks, "none" if resumed else config.model.weights)
    torch.manual_seed(config.seed + 1 + ranks.rank)  # … and different dropout
    average = Average(model, config.optim.ema) if config.optim.ema else None
    weights = pixel_weights(config, manifest)
    step = TrainStep(model, config, ranks, None if weights is None else weights.to(ranks.device), loss)
    return RunState(model, step, average)


def pixel_weights(config: Config, manifest: Manifest) -> torch.Tensor | None:
    """Return the weight of a pixel of each class in the loss, float32 C; None if all are the same."""
    if not config.optim.class_weights:
        return None
    *pixels, _ = manifest.split(config.train_split).pixels
    return class_weights(pixels, config.optim.class_weights)


def build_model(config: Config, manifest: Manifest, ranks: Ranks, weights: str) -> SegmentationNetwork:
    """Build the network on the rank's device with the initial ``weights``."""
    settings = config.model
    mean, std = normalization(settings.weights, manifest.mean, manifest.std)
    model = SegmentationNetwork(
        settings.arch,
        len(manifest.classes),
        mean,
        std,
        config.aux_weight > 0,
        settings.channels_last,
        stretch_to=config.data.crop if config.data.resize == "stretch" else None,
    )
    # One process of a machine downloads, the others find the file.
    for turn in (True, False):
        if (ranks.local_rank == 0) == turn:
            said = load_weights(model, weights)
            if said and ranks.first:
                print(said, file=sys.stderr)
        barrier()
    if use_sync_bn(config, ranks):
        sync_batch_norms(model)
    model.freeze(settings.freeze)
    model = model.to(ranks.device)
    check_logits(model, len(manifest.classes), config.data.crop)
    return model


def build_loaders(
    config: Config,
    manifest: Manifest,
    ranks: Ranks,
    state: dict[str, Any] | None,
    cache_plan: FrameCachePlan = STREAMED,
    mean: Rgb | None = None,
    decoder: Processor = "gpu",
) -> tuple[TrainLoader, EvalLoader]:
    """Build this rank's training and evaluation loaders; ``state`` resumes a training loader in mid-epoch.

    ``decoder``: the processor that decodes, on a machine with a GPU. ``mean``: what the network subtracts, taken from
    the checkpoint that it starts from; None: as the settings say.
    """
    data = config.data
    threads = data.threads or cpu_threads(ranks.local_world)
    files = partial(
        open_files, config.shards, manifest, rank=ranks.rank, world=ranks.world, max_corrupt=config.max_corrupt_samples
    )
    train = TrainLoader(
        files(config.train_split),
        manifest.split(config.train_split),
        data,
        fill=fill_color(mean or normalization(config.model.weights, manifest.mean, manifest.std)[0]),
        batch=config.rank_batch,
        device=ranks.device,
        threads=threads,
        prefetch=data.prefetch,
        seed=config.seed,
        decoder=decoder,
        arena=cache_plan.arena,
        rank_local=cache_plan.rank_local,
        state=state,
    )
    evaluation = EvalLoader(
        files(config.eval_split),
        manifest.split(config.eval_split),
        batch=data.eval_batch,
        device=ranks.device,
        threads=threads,
        decoder=decoder,
    )
    return train, evaluation


def check(config: Config, manifest: Manifest, device: str = "auto") -> dict[str, Any] | None:
    """Raise :class:`UserError` for what cannot be trained, before any process is started.

    Returns the checkpoint to resume from (:func:`find_checkpoint`), which takes seconds to read.
    """
    check_compiler(config.model, cuda=device != "cpu" and torch.cuda.is_available())
    for split in (config.train_split, config.eval_split):
        open_files(config.shards, manifest, split)
    check_tracker(config.tracker)
    check_free(config.folder)
    return _own_checkpoint(config, manifest)


def _own_checkpoint(config: Config, manifest: Manifest) -> dict[str, Any] | None:
    """Return the checkpoint to resume from, checked; None to start fresh."""
    saved = find_checkpoint(config, manifest)
    if saved:
        check_changes(saved, config)
    return saved


def newest_checkpoint(
    config: Config, manifest: Manifest, ranks: Ranks, saved: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Return the checkpoint to resume from: ``saved``, that of :func:`check`, or a newer one from object storage."""
    if not config.checkpoints:
        return saved
    fetched = ranks.first and fetch_newer(config, saved)
    barrier_no_timeout()
    fetched = gather_states({"fetched": fetched})[0]["fetched"]
    return _own_checkpoint(config, manifest) if fetched else saved


def train(
    config: Config,
    manifest: Manifest,
    ranks: Ranks,
    saved: dict[str, Any] | None = None,
    profile: bool = False,
    own: OwnParts = NONE,
) -> None:
    """Train as this rank, on from the checkpoint ``saved`` if there is one and the storage has none that is newer."""
    limits = limits_of(config)  # the time counts from here
    set_deterministic(config.deterministic)
    torch.set_float32_matmul_precision("high")
    saved = newest_checkpoint(config, manifest, ranks, saved)
    agree(saved, manifest)
    config = with_accumulation(with_batch(config, manifest, ranks, saved), ranks.world)
    with uploading(config, ranks.first, saved) as uploads:
        if saved and nothing_left(config, manifest, ranks, saved):
            leave_finished(config, ranks, saved)
        else:
            build_and_fit(config, manifest, ranks, saved, profile, own, limits, uploads)


def build_and_fit(
    config: Config,
    manifest: Manifest,
    ranks: Ranks,
    saved: dict[str, Any] | None,
    profile: bool,
    own: OwnParts,
    limits: list[Callback],
    uploads: Uploads | None,
) -> None:
    """Choose the decoder, and run what takes a device's memory."""
    use_cache(config.cache, config.cache_gb)
    if config.verify_shards:
        verify_shards(config.shards, manifest, (config.train_split, config.eval_split), ranks)
    wanted = "cpu" if config.deterministic and ranks.device.type == "cuda" else config.data.decoder
    decoder = choose_decoder_for_ranks(wanted, config.shards, config.train_split, manifest, ranks)
    with explain_nondeterminism(), explain_memory_error(config, manifest, ranks):
        _fit(config, manifest, ranks, saved, decoder, profile, own, limits, uploads)


def _fit(
    config: Config,
    manifest: Manifest,
    ranks: Ranks,
    saved: dict[str, Any] | None,
    decoder: DecoderChoice,
    profile: bool,
    own: OwnParts,
    limits: list[Callback],
    uploads: Uploads | None,
) -> None:
    """Build everything that takes a device's memory, resume from ``saved`` if there is one, and run the loop."""
    state = build_state(config, manifest, ranks, resumed=saved is not None, loss=own.loss)
    cache_plan = plan_frame_cache(config, manifest, ranks, state.train_step)
    if state.train_step.network.untried:
        state.train_step.dry_run(config.data.micro_batch, config.data.crop)
    loaders, resumed = resume(config, manifest, ranks, state, saved, cache_plan, decoder.processor)
    # The loader now owns the frames' memory, or frees it if a resumed order does not allow it.
    cache_plan = STREAMED
    if not ranks.first:
        Trainer(config, manifest, ranks, state, loaders, None).fit()
        return
    with open_log(config, manifest, state, loaders[0].steps_per_epoch, ranks, decoder) as log:
        if goes_on := saved is not None and resumes_own(config):
            keep_best(config, saved)
        step = state.step if goes_on else 0
        tracking = open_tracking(config.tracker, config.folder, config.to_dict(), step, log.say, log.dropped_later)
        with Callbacks([*tracking, *own.callbacks]).ending() as callbacks:
            for sentence in (*introduction(config, manifest, ranks, state, loaders[0], decoder), *resumed):
                log.say(sentence)
            Trainer(config, manifest, ranks, state, loaders, log, profile, [*limits, callbacks], uploads).fit()


def limits_of(config: Config) -> list[Callback]:
    """Return the callbacks that the settings ask for."""
    patience = [EarlyStopping(config.patience)] if config.patience is not None else []
    return [*patience, *([TimeLimit(config.max_hours)] if config.max_hours is not None else [])]


@contextmanager
def open_log(
    config: Config,
    manifest: Manifest,
    state: RunState,
    steps_per_epoch: int,
    ranks: Ranks,
    decoder: DecoderChoice,
) -> Iterator[RunLog]:
    """Open the run's folder, new or resumed, and lock it against other runs.

    The records of a run that is not resumed from its own checkpoint are dropped: no weights are left of their steps.
    """
    own = resumes_own(config)
    how = {"decoder": decoder.description, "step": state.train_step.network.description}
    about = {"dataset": manifest.name, "started": started(config.folder, resumed=own)}
    documents = {
        "config": config.to_dict(),
        "environment": environment() | how | about,
        "classes": checkpoint.pack_classes(manifest.classes),
    }
    offset = state.step_offset(steps_per_epoch)
    total = offset + total_steps(config.optim, steps_per_epoch)
    epoch = (state.step - offset) / steps_per_epoch
    each = " per GPU" if ranks.device.type == "cuda" else " per process" if ranks.world > 1 else ""
    with ExitStack() as stack:
        best = config.folder / "checkpoints" / "best.pt"
        if config.folder.exists() and (config.resume == "never" or (not own and best.exists())):
            stack.enter_context(lock_run_folder(config.folder))  # fails while a run is in progress
            set_aside(config.folder)
        stack.enter_context(lock_run_folder(config.folder))
        remove_temporary(config.folder / "checkpoints")
        if not own:
            drop_records(config.folder)
        yield stack.enter_context(
            RunLog(config.folder, documents, state.step, total, each, epoch, repeats_eval=state.eval_pending)
        )


def agree(saved: dict[str, Any] | None, manifest: Manifest) -> None:
    """Refuse ranks that see different checkpoints or data, whose gradients would be mixed all the same."""
    seen = [state["seen"] for state in gather_states({"seen": [saved["step"] if saved else None, manifest.digest()]})]
    for rank, (step, digest) in enumerate(seen):
        if step != seen[0][0]:
            raise UserError(
                f"rank 0 finds a checkpoint of step {seen[0][0]}, rank {rank} of step {step}; "
                "put --runs on storage that all machines share"
            )
        if digest != seen[0][1]:
            raise UserError(f"rank 0 and rank {rank} read different data sets; give all machines the same --shards")


def nothing_left(config: Config, manifest: Manifest, ranks: Ranks, saved: dict[str, Any]) -> bool:
    """Return whether a checkpoint is at the settings' last step or past it, and evaluated."""
    steps = epoch_steps(manifest.split(config.train_split).samples, ranks.world, config.rank_batch)
    left = total_steps(config.optim, steps) - whole_steps(saved["epoch"], steps)
    return left < 0 or (not saved["eval_pending"] and (left == 0 or patience_over(config, saved)))


def patience_over(config: Config, saved: dict[str, Any]) -> bool:
    """Return whether a checkpoint has gone without a better mIoU for as long as the settings allow."""
    same = saved["best_split"] == config.eval_split and resumes_own(config)
    return config.patience is not None and same and saved["since_best"] >= config.patience


def leave_finished(config: Config, ranks: Ranks, saved: dict[str, Any]) -> None:
    """Report that the run is finished; write its report and keep its records as they are.

    Raises :class:`UserError` if the settings ask for another number of epochs, and for another run's checkpoint.
    """
    own = own_checkpoint(config).exists()
    path = config.folder if own else Path(config.resume)
    with fitting(path):
        done, planned = saved["epoch"], float(saved["config"]["optim"]["epochs"])
    where = f"{path} is {'finished ' if done >= planned else ''}at epoch {done:.4g} of {planned:.4g}"
    if patience_over(config, saved):
        where = f"{where}, {saved['since_best']} evaluations after its best, and ended by --patience {config.patience}"
    if own and (planned == config.optim.epochs or patience_over(config, saved)):
        if ranks.first:
            with lock_run_folder(config.folder):
                keep_best(config, saved)
            for sentence in (
                f"{where}; the report is {write_report(config.folder)}",
                *list_changes(config, ranks, saved),
            ):
                print(sentence, file=sys.stderr)
        return
    raise_on_first(
        UserError(
            f"{where}; these settings ask for {config.optim.epochs:.4g}; choose another --name, more --optim.epochs "
            "with --resume changed, or --resume never"
        )
    )


def resume(
    config: Config,
    manifest: Manifest,
    ranks: Ranks,
    state: RunState,
    saved: dict[str, Any] | None,
    cache_plan: FrameCachePlan = STREAMED,
    decoder: Processor = "gpu",
) -> tuple[tuple[TrainLoader, EvalLoader], list[str]]:
    """Build the loaders and restore everything from a checkpoint, if there is one; also return what to log."""

    def loaders_from(loader: dict[str, Any] | None) -> tuple[TrainLoader, EvalLoader]:
        return build_loaders(config, manifest, ranks, loader, cache_plan, tuple(state.model.mean.tolist()), decoder)

    if not saved:
        return loaders_from(None), []
    state.restore(saved, config)
    path, changes = checkpoint_path(config), list_changes(config, ranks, saved)
    if continues_exactly(saved, config, ranks):
        loaders = loaders_from(state.restore_rank(saved, ranks))
        return loaders, [f"resuming from {path} after step {state.step}", *changes]
    begun = {"epoch": int(state.epoch), "step": 0, "rank_local": cache_plan.rank_local}
    return loaders_from(begun), [
        f"resuming from {path} after epoch {state.epoch:.1f} with other settings: "
        f"the data's order starts anew with that of epoch {int(state.epoch) + 1}",
        *changes,
    ]


def list_changes(config: Config, ranks: Ranks, saved: dict[str, Any]) -> list[str]:
    """Return a line that lists the settings that differ from the checkpoint's, the number of ranks included."""
    changes = [str(change) for change in changed_settings(saved, config)]
    if len(saved["ranks"]) != ranks.world:
        changes.insert(0, f"ranks {len(saved['ranks'])} → {ranks.world}")
    return [f"settings that changed: {', '.join(changes)}"] if changes else []


def introduction(
    config: Config, manifest: Manifest, ranks: Ranks, state: RunState, loader: TrainLoader, decoder: DecoderChoice
) -> Iterator[str]:
    """Yield what is about to happen, line by line."""
    device = ranks.device
    where = f"{ranks.world} × {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "the CPU"
    if device.type == "cpu" and ranks.world > 1:
        reason = "" if torch.cuda.is_available() else ": there is no GPU here"
        where = f"{ranks.world} ranks on the CPU, joined by gloo{reason}"
    step = state.train_step
    how = f"{step.precision}, {'compiled' if step.network.compiled else 'not compiled'}"
    yield f"{config.model.arch} from {config.model.weights} weights, {how}, on {where}"
    if step.network.warning:
        yield f"warning: {step.network.warning}"
    images, held_out = (manifest.split(s).samples for s in (config.train_split, config.eval_split))
    yield f"{manifest.name}: {images} images to train on, {held_out} to evaluate on, {len(manifest.classes)} classes"
    if problem := nothing_to_score(manifest, config.eval_split):
        yield f"warning: {problem}"
    batch, optim = config.rank_batch * ranks.world, config.optim
    scaling = "" if optim.lr_batch is None else f" = {optim.lr:g} × {batch} / {optim.lr_batch}"
    rate = f"peak learning rate {peak_lr(optim, batch):g}{scaling}"
    if device.type == "cuda":
        yield f"images are decoded by {decoder.description}"
    if decoder.warning:
        yield f"warning: {decoder.warning}"
    if loader.rank_local:
        yield "each rank draws from its own share of the training frames"
    if loader.cached:
        kept = "its share" if loader.rank_local else "all training frames"
        yield f"each rank keeps {kept} decoded in memory once seen"
    parts = f" × {optim.accumulate} accumulated" if optim.accumulate > 1 else ""
    other = f" in place of {optim.global_batch}" if optim.global_batch not in (None, batch) else ""
    yield f"global batch {batch}{other} = {ranks.world} × {config.data.micro_batch}{parts}, {rate}"
    if config.model.freeze != "none":
        yield "the backbone is frozen" if config.model.freeze == "backbone" else "all batch norms are frozen"
    if (warmup := warmup_epochs(optim)) != optim.warmup:
        yield (
            f"the warm-up of {optim.warmup:g} epochs would not end before the run does after {optim.epochs:g}: "
            f"shortened to {warmup:g}"
        )
