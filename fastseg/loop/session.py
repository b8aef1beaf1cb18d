"""A training run from its configuration to its end: check, build, resume, introduce, loop."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from fastseg.config import Config
from fastseg.data.loader import EvalLoader, TrainLoader, open_files
from fastseg.data.manifest import Manifest
from fastseg.errors import UserError
from fastseg.loop import checkpoint
from fastseg.loop.build import build_loaders, build_state
from fastseg.loop.distributed import Ranks, gather_states
from fastseg.loop.environment import environment
from fastseg.loop.optim import peak_rate
from fastseg.loop.runlog import RunLog
from fastseg.loop.state import RunState, continues_exactly, find_checkpoint
from fastseg.loop.trainer import Trainer, total_steps


def check(config: Config, manifest: Manifest) -> None:
    """Refuse what cannot be trained, before any process is started. Raises :class:`UserError`."""
    for split in (config.train_split, config.eval_split):
        open_files(config.shards, manifest, split)
    find_checkpoint(config, manifest)


def train(config: Config, manifest: Manifest, ranks: Ranks) -> None:
    """Train as this rank: build the parts, go on from the last checkpoint if there is one, run the loop."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    saved = find_checkpoint(config, manifest)
    agree(saved, manifest)
    state = build_state(config, manifest, ranks, resumed=saved is not None)
    loaders, resumed = resume(config, manifest, ranks, state, saved)
    if not ranks.first:
        Trainer(config, manifest, ranks, state, loaders, None).fit()
        return
    total = total_steps(config, loaders[0].steps_per_epoch)
    documents = {
        "config": config.to_dict(),
        "environment": environment(),
        "classes": checkpoint.pack_classes(manifest.classes),
    }
    if config.resume == "never":
        set_aside(config.folder)
    checkpoint.remove_unfinished(config.folder / "checkpoints")
    with RunLog(config.folder, documents, state.step, total) as log:
        for sentence in (*introduction(config, manifest, ranks, state), *resumed):
            log.say(sentence)
        Trainer(config, manifest, ranks, state, loaders, log).fit()


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


def resume(
    config: Config, manifest: Manifest, ranks: Ranks, state: RunState, saved: dict[str, Any] | None
) -> tuple[tuple[TrainLoader, EvalLoader], list[str]]:
    """The loaders, everything going on from a checkpoint where there is one; and what to say of it."""
    if not saved:
        return build_loaders(config, manifest, ranks, None), []
    state.restore(saved)
    if continues_exactly(saved, config, ranks):
        loaders = build_loaders(config, manifest, ranks, state.restore_rank(saved, ranks))
        return loaders, [f"going on after step {state.step}"]
    loaders = build_loaders(config, manifest, ranks, None)
    # With other ranks or batches an epoch has other steps; epochs are what counts.
    epochs = saved["step"] / saved["steps_per_epoch"]
    state.step = round(epochs * loaders[0].steps_per_epoch)
    return loaders, [f"going on after epoch {epochs:.1f} with other settings: the data's order starts anew"]


def set_aside(folder: Path) -> None:
    """Move an earlier run of the same name out of the way, so that nothing is lost."""
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.{datetime.now():%Y%m%d-%H%M%S}"))


def introduction(config: Config, manifest: Manifest, ranks: Ranks, state: RunState) -> Iterator[str]:
    """What is about to happen, a line each."""
    device = ranks.device
    where = f"{ranks.world} × {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "the CPU"
    if device.type == "cpu" and ranks.world > 1:
        reason = "" if torch.cuda.is_available() else ": there is no GPU here"
        where = f"{ranks.world} ranks on the CPU, joined by gloo{reason}"
    yield f"{config.model.arch} from {config.model.weights} weights, {state.train_step.precision}, on {where}"
    images, held_out = (manifest.split(s).samples for s in (config.train_split, config.eval_split))
    yield f"{manifest.name}: {images} images to train on, {held_out} to evaluate on, {len(manifest.classes)} classes"
    batch, optim = config.data.batch * ranks.world, config.optim
    scaling = "" if optim.lr_batch is None else f" = {optim.lr:g} × {batch} / {optim.lr_batch}"
    rate = f"peak learning rate {peak_rate(optim, batch):g}{scaling}"
    yield f"global batch {batch} = {ranks.world} × {config.data.batch}, {rate}"
