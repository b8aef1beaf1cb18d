"""From a configuration to the parts of a run."""

from functools import partial
from typing import Any

import torch
from torch import nn

from fastseg.config import Config
from fastseg.data.draws import Augmentation
from fastseg.data.loader import EvalLoader, TrainLoader, cpu_threads, open_files
from fastseg.data.manifest import Manifest
from fastseg.loop.distributed import Ranks, barrier
from fastseg.loop.optim import Average
from fastseg.loop.state import RunState
from fastseg.loop.step import TrainStep, use_sync_bn
from fastseg.model.deeplab import DeepLab, load_weights, normalisation


def build_state(config: Config, manifest: Manifest, ranks: Ranks, resumed: bool = False) -> RunState:
    """Network, optimiser and average, with their first values; a resumed run needs no pretrained ones."""
    torch.manual_seed(config.seed)  # the same weights on every rank …
    model = build_model(config, manifest, ranks, "none" if resumed else config.model.weights)
    torch.manual_seed(config.seed + 1 + ranks.rank)  # … and different dropout
    average = Average(model, config.optim.ema) if config.optim.ema else None
    return RunState(model, TrainStep(model, config, ranks), average)


def build_model(config: Config, manifest: Manifest, ranks: Ranks, weights: str) -> DeepLab:
    """The network on the rank's device, started from ``weights``."""
    settings = config.model
    mean, std = normalisation(settings.weights, manifest.mean, manifest.std)
    model = DeepLab(settings.arch, len(manifest.classes), mean, std, config.optim.aux > 0, settings.channels_last)
    # One process of a machine downloads, the others find the file.
    for turn in (True, False):
        if (ranks.local_rank == 0) == turn:
            load_weights(model, settings.arch, weights)
        barrier()
    if use_sync_bn(config, ranks):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(ranks.device)


def build_loaders(
    config: Config, manifest: Manifest, ranks: Ranks, state: dict[str, Any] | None
) -> tuple[TrainLoader, EvalLoader]:
    """Training and evaluation batches for this rank; ``state`` continues a training loader in mid-epoch."""
    data = config.data
    threads = data.threads or cpu_threads(ranks.local_world)
    files = partial(open_files, config.shards, manifest, rank=ranks.rank, world=ranks.world)
    train = TrainLoader(
        files(config.train_split),
        manifest.split(config.train_split),
        augmentation(config, manifest),
        batch=data.batch,
        device=ranks.device,
        threads=threads,
        prefetch=data.prefetch,
        seed=config.seed,
        state=state,
    )
    evaluation = EvalLoader(
        files(config.eval_split),
        manifest.split(config.eval_split),
        batch=data.eval_batch,
        device=ranks.device,
        threads=threads,
    )
    return train, evaluation


def augmentation(config: Config, manifest: Manifest) -> Augmentation:
    """What the training graph draws; padding has the colour that normalisation turns into zero."""
    data = config.data
    mean, _ = normalisation(config.model.weights, manifest.mean, manifest.std)
    return Augmentation(
        crop=data.crop,
        scale=data.scale,
        flip=data.flip,
        brightness=data.brightness,
        contrast=data.contrast,
        saturation=data.saturation,
        hue=data.hue,
        fill=(round(mean[0]), round(mean[1]), round(mean[2])),
    )
