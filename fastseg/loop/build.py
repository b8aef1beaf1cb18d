"""From a configuration to the parts of a run."""

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from fastseg.config import Config
from fastseg.data.cache import use_cache
from fastseg.data.draws import Augmentation
from fastseg.data.loader import EvalLoader, TrainLoader, Where, cpu_threads, open_files
from fastseg.data.manifest import Manifest
from fastseg.data.verify import check_files
from fastseg.errors import USER_ERROR, UserError
from fastseg.labels import IGNORE
from fastseg.loop.distributed import Ranks, barrier, gather_states
from fastseg.loop.memory import STREAMED, Choice
from fastseg.loop.optim import Average
from fastseg.loop.state import RunState
from fastseg.loop.step import TrainStep, use_sync_bn
from fastseg.model.batchnorm import sync_batch_norms
from fastseg.model.deeplab import DeepLab, load_weights, normalisation
from fastseg.model.loss import class_weights
from fastseg.model.weights import Rgb
from fastseg.progress import show_progress
from fastseg.reading import join


def build_state(config: Config, manifest: Manifest, ranks: Ranks, resumed: bool = False) -> RunState:
    """Network, optimiser and average, with their first values; a resumed run needs no pretrained ones."""
    torch.manual_seed(config.seed)  # the same weights on every rank …
    model = build_model(config, manifest, ranks, "none" if resumed else config.model.weights)
    torch.manual_seed(config.seed + 1 + ranks.rank)  # … and different dropout
    average = Average(model, config.optim.ema) if config.optim.ema else None
    weights = pixel_weights(config, manifest)
    step = TrainStep(model, config, ranks, None if weights is None else weights.to(ranks.device))
    return RunState(model, step, average)


def pixel_weights(config: Config, manifest: Manifest) -> torch.Tensor | None:
    """What a pixel of each of the network's classes weighs in the loss, float32 C; None: all the same."""
    if not config.optim.class_weights:
        return None
    *pixels, _ = manifest.split(config.train_split).pixels
    # Of void the manifest does not say how much padding there will be: its pixels weigh 1.
    return class_weights([*pixels, 0] if config.model.void else pixels, config.optim.class_weights)


def build_model(config: Config, manifest: Manifest, ranks: Ranks, weights: str) -> DeepLab:
    """The network on the rank's device, started from ``weights``."""
    settings = config.model
    if settings.void and len(manifest.classes) == IGNORE:
        raise UserError(f"--model.void needs a class more than the set's {IGNORE}, and there are no more; leave it out")
    mean, std = normalisation(settings.weights, manifest.mean, manifest.std)
    model = DeepLab(
        settings.arch,
        len(manifest.classes),
        mean,
        std,
        config.optim.aux > 0,
        settings.channels_last,
        void=settings.void,
        squeeze=config.data.crop if config.data.squeeze else None,
    )
    # One process of a machine downloads, the others find the file.
    for turn in (True, False):
        if (ranks.local_rank == 0) == turn:
            load_weights(model, settings.arch, weights)
        barrier()
    if use_sync_bn(config, ranks):
        sync_batch_norms(model)
    return model.to(ranks.device)


def build_loaders(
    config: Config,
    manifest: Manifest,
    ranks: Ranks,
    state: dict[str, Any] | None,
    held: Choice = STREAMED,
    mean: Rgb | None = None,
    decoder: Where = "gpu",
) -> tuple[TrainLoader, EvalLoader]:
    """Training and evaluation batches for this rank; ``state`` continues a training loader in mid-epoch.

    ``decoder``: which processor decodes, on a GPU's machine. ``mean``: what the network subtracts; see
    :func:`augmentation`.
    """
    data = config.data
    use_cache(config.cache, config.cache_gb)
    if config.verify_shards:
        verify_shards(config.shards, manifest, (config.train_split, config.eval_split), ranks)
    threads = data.threads or cpu_threads(ranks.local_world)
    files = partial(
        open_files, config.shards, manifest, rank=ranks.rank, world=ranks.world, max_bad=config.max_bad_samples
    )
    train = TrainLoader(
        files(config.train_split),
        manifest.split(config.train_split),
        augmentation(config, manifest, mean),
        batch=data.batch,
        device=ranks.device,
        threads=threads,
        prefetch=data.prefetch,
        seed=config.seed,
        decoder=decoder,
        arena=held.arena,
        apart=held.apart,
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


def verify_shards(shards: str, manifest: Manifest, splits: Iterable[str], ranks: Ranks) -> None:
    """Compare every tar and index of ``splits`` with the SHA-256 of the manifest; a machine's ranks share the work.

    Where one differs every rank ends, the first with a :class:`UserError` that names shard, record and byte. The ranks
    meet after every few shards, so that none waits for another longer than these take.
    """
    work = [shard for name in dict.fromkeys(splits) for shard in manifest.split(name).shards]
    mine = work[ranks.local_rank :: ranks.local_world]
    threads, damages = cpu_threads(ranks.local_world), list[str]()
    # Machines may differ in their ranks and cores, but not in how often they meet.
    rounds = max(state["rounds"] for state in gather_states({"rounds": -(-len(mine) // threads)}))
    progress = show_progress(f"verifying {shards}", "shards") if ranks.first else nullcontext()
    with progress as show:
        if show:
            show(0, len(mine))
        for start in range(0, rounds * threads, threads):
            damages += check_files(shards, mine[start : start + threads], threads)
            barrier()
            if show:
                show(min(start + threads, len(mine)), len(mine))
    found = list(dict.fromkeys(damage for state in gather_states({"found": damages}) for damage in state["found"]))
    if not found:
        return
    if not ranks.first:
        sys.exit(USER_ERROR)  # the first rank says it for all
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    raise UserError(f"{join(shards, found[0])}{more}; copy or pack the set again")


def augmentation(config: Config, manifest: Manifest, mean: Rgb | None = None) -> Augmentation:
    """What the training graph draws; padding has the colour that normalisation turns into zero.

    ``mean``: the network's, which one started from a checkpoint has from there; None: as its settings say.
    """
    data = config.data
    mean = mean or normalisation(config.model.weights, manifest.mean, manifest.std)[0]
    return Augmentation(
        crop=data.crop,
        scale=data.scale,
        squeeze=data.squeeze,
        flip=data.flip,
        brightness=data.brightness,
        contrast=data.contrast,
        saturation=data.saturation,
        hue=data.hue,
        fill=(round(mean[0]), round(mean[1]), round(mean[2])),
    )
