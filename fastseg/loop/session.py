"""A training run from its configuration to its end: check, build, resume, introduce, loop."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from fastseg.config import Config
from fastseg.data.decoder_probe import DecoderChoice
from fastseg.data.feed import epoch_steps
from fastseg.data.loader import EvalLoader, TrainLoader, Where, open_files
from fastseg.data.manifest import Manifest
from fastseg.errors import USER_ERROR, UserError
from fastseg.loop import checkpoint
from fastseg.loop.build import build_loaders, build_state
from fastseg.loop.compiled import check_compiler
from fastseg.loop.decoder import choose_decoder_for_ranks
from fastseg.loop.distributed import Ranks, gather_states
from fastseg.loop.environment import environment
from fastseg.loop.memory import STREAMED, Choice, choose_residence, too_little
from fastseg.loop.occupied import check_free, occupy
from fastseg.loop.optim import peak_rate, total_steps
from fastseg.loop.runlog import RunLog
from fastseg.loop.state import RunState, continues_exactly, find_checkpoint
from fastseg.loop.trackers import check_tracker
from fastseg.loop.trainer import Trainer
from fastseg.model.weights import fitting
from fastseg.score.report import write_report


def check(config: Config, manifest: Manifest, device: str = "auto") -> None:
    """Refuse what cannot be trained, before any process is started. Raises :class:`UserError`."""
    check_compiler(config.model, cuda=device != "cpu" and torch.cuda.is_available())
    for split in (config.train_split, config.eval_split):
        open_files(config.shards, manifest, split)
    check_tracker(config.tracker)
    check_free(config.folder)
    find_checkpoint(config, manifest)


def train(config: Config, manifest: Manifest, ranks: Ranks, profile: bool = False) -> None:
    """Train as this rank: build the parts, go on from the last checkpoint if there is one, run the loop."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    saved = find_checkpoint(config, manifest)
    agree(saved, manifest)
    if saved and nothing_left(config, manifest, ranks, saved):
        leave_finished(config, ranks, saved)
        return
    decoder = choose_decoder_for_ranks(config.data.decoder, config.shards, config.train_split, manifest, ranks)
    state = build_state(config, manifest, ranks, resumed=saved is not None)
    with memory_explained(config, ranks.device, state):
        held = choose_residence(config, manifest, ranks, state.train_step)
        if state.train_step.network.untried:
            state.train_step.rehearse(config.data.batch, config.data.crop)
        loaders, resumed = resume(config, manifest, ranks, state, saved, held, decoder.decoder)
        held = STREAMED  # the loader has the frames' memory; or gives it back, where a resumed order does not allow it
        if not ranks.first:
            Trainer(config, manifest, ranks, state, loaders, None).fit()
            return
        with open_log(config, manifest, state, loaders[0].steps_per_epoch, ranks, decoder) as log:
            for sentence in (*introduction(config, manifest, ranks, state, loaders[0], decoder), *resumed):
                log.say(sentence)
            Trainer(config, manifest, ranks, state, loaders, log, profile).fit()


@contextmanager
def memory_explained(config: Config, device: torch.device, state: RunState) -> Iterator[None]:
    """Turn torch's error about a GPU's memory into a :class:`UserError` that says what to ask for instead."""
    try:
        yield
    except torch.OutOfMemoryError:
        data = config.data
        if state.evaluation_owed:
            work = f"evaluate with --data.eval-batch {data.eval_batch}"
            cure = "lower --data.eval-batch" if data.eval_batch > 1 else "use --data.resident no or smaller frames"
        else:
            work = f"train with --data.batch {data.batch} and --data.crop {data.crop[0]} {data.crop[1]}"
            frames = "use --data.resident no, or " if data.resident != "no" and device.type == "cuda" else ""
            cure = f"{frames}lower --data.batch or --data.crop"
        raise too_little(device, work, cure) from None


@contextmanager
def open_log(
    config: Config,
    manifest: Manifest,
    state: RunState,
    steps_per_epoch: int,
    ranks: Ranks,
    decoder: DecoderChoice,
) -> Iterator[RunLog]:
    """The run's folder, begun or gone on with, and held against other runs."""
    documents = {
        "config": config.to_dict(),
        "environment": environment() | {"decoder": decoder.description, "step": state.train_step.network.description},
        "classes": checkpoint.pack_classes(manifest.classes),
    }
    total = total_steps(config.optim, steps_per_epoch)
    each = " per GPU" if ranks.device.type == "cuda" else " per process" if ranks.world > 1 else ""
    with ExitStack() as held:
        if config.resume == "never" and config.folder.exists():
            held.enter_context(occupy(config.folder))  # which no run in progress lets happen
            set_aside(config.folder)
        held.enter_context(occupy(config.folder))
        checkpoint.remove_unfinished(config.folder / "checkpoints")
        yield held.enter_context(RunLog(config.folder, documents, state.step, total, config.tracker, each))


def agree(saved: dict[str, Any] | None, manifest: Manifest) -> None:
    """Refuse to train ranks that see different checkpoints or data: they would exchange gradients all the same."""
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
    """Whether a checkpoint is at the settings' last step or behind it, and evaluated."""
    steps = epoch_steps(manifest.split(config.train_split).samples, ranks.world, config.data.batch)
    left = total_steps(config.optim, steps) - round(saved["step"] / saved["steps_per_epoch"] * steps)
    return left < 0 or (left == 0 and not saved["evaluation_owed"])


def leave_finished(config: Config, ranks: Ranks, saved: dict[str, Any]) -> None:
    """Say that the run is finished and leave its records as they are; its report is written from them.

    Raises :class:`UserError` for what another number of epochs asks of it, and for another run's checkpoint.
    """
    own = (config.folder / "checkpoints" / "last.pt").exists()
    place = config.folder if own else Path(config.resume)
    with fitting(place):
        done, planned = saved["step"] / saved["steps_per_epoch"], float(saved["config"]["optim"]["epochs"])
    where = f"{place} is {'finished ' if done >= planned else ''}at epoch {done:.4g} of {planned:.4g}"
    if own and planned == config.optim.epochs:
        if ranks.first:
            print(f"{where}; the report is {write_report(config.folder)}", file=sys.stderr)
        return
    if not ranks.first:
        sys.exit(USER_ERROR)  # the first rank says it for all
    raise UserError(
        f"{where}; these settings ask for {config.optim.epochs:.4g}; choose another --name, more --optim.epochs, "
        "or --resume never"
    )


def resume(
    config: Config,
    manifest: Manifest,
    ranks: Ranks,
    state: RunState,
    saved: dict[str, Any] | None,
    held: Choice = STREAMED,
    decoder: Where = "gpu",
) -> tuple[tuple[TrainLoader, EvalLoader], list[str]]:
    """The loaders, everything going on from a checkpoint where there is one; and what to say of it."""

    def loaders_from(place: dict[str, Any] | None) -> tuple[TrainLoader, EvalLoader]:
        return build_loaders(config, manifest, ranks, place, held, tuple(state.model.mean.tolist()), decoder)

    if not saved:
        return loaders_from(None), []
    state.restore(saved)
    if continues_exactly(saved, config, ranks):
        loaders = loaders_from(state.restore_rank(saved, ranks))
        return loaders, [f"going on after step {state.step}"]
    # With other ranks or batches an epoch has other steps; epochs are what counts.
    epochs = saved["step"] / saved["steps_per_epoch"]
    begun = {"epoch": int(epochs), "step": 0, "apart": held.apart}
    loaders = loaders_from(begun)
    state.step = round(epochs * loaders[0].steps_per_epoch)
    return loaders, [
        f"going on after epoch {epochs:.1f} with other settings: "
        f"the data's order starts anew with that of epoch {int(epochs) + 1}"
    ]


def set_aside(folder: Path) -> None:
    """Move an earlier run of the same name out of the way, so that nothing is lost."""
    folder.rename(folder.with_name(f"{folder.name}.{datetime.now():%Y%m%d-%H%M%S}"))


def introduction(
    config: Config, manifest: Manifest, ranks: Ranks, state: RunState, loader: TrainLoader, decoder: DecoderChoice
) -> Iterator[str]:
    """What is about to happen, a line each."""
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
    batch, optim = config.data.batch * ranks.world, config.optim
    scaling = "" if optim.lr_batch is None else f" = {optim.lr:g} × {batch} / {optim.lr_batch}"
    rate = f"peak learning rate {peak_rate(optim, batch):g}{scaling}"
    if device.type == "cuda":
        yield f"JPEGs are decoded by {decoder.description}"
    if decoder.warning:
        yield f"warning: {decoder.warning}"
    if loader.apart:
        yield "each rank draws from its own share of the training frames"
    if loader.resident:
        yield f"each rank keeps {'its share' if loader.apart else 'all training frames'} decoded in memory once seen"
    yield f"global batch {batch} = {ranks.world} × {config.data.batch}, {rate}"
