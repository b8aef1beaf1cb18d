"""Packed shards as batches for your own training loop, iterated like torch's DataLoader."""

import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from numbers import Integral
from typing import Any, Literal

import torch

from fastseg.arguments import naming_arguments
from fastseg.config import AugmentConfig, DataConfig
from fastseg.data.augment import fill_color
from fastseg.data.decoder_probe import choose_decoder
from fastseg.data.frame_cache import allocate_arena, cache_bytes
from fastseg.data.loader import Batch, EvalLoader, TrainLoader, open_files
from fastseg.data.reader import Files
from fastseg.device import device_of
from fastseg.errors import UserError, out_of_memory, shown
from fastseg.labels import IGNORE, SegmentationClass
from fastseg.parallel import cpu_threads
from fastseg.shards.manifest import Manifest, Split, read_manifest


class ShardBatches:
    """Batches of a split; made by :func:`open_shards`. Every ``for`` over it is an epoch, of ``len()`` batches."""

    def __init__(
        self, manifest: Manifest, whole: EvalLoader | None, train: Callable[[int], TrainLoader] | None
    ) -> None:
        """Take ``whole``, frames in order, or ``train``, which opens the endless loader at an epoch."""
        self.classes: tuple[SegmentationClass, ...] = manifest.classes
        """Names and colors; labels are indexes into this tuple, or 255 for ignored pixels."""
        self.ignore_index = IGNORE
        """The label of pixels that count in no loss: ``cross_entropy(logits, batch.target, ignore_index=…)``."""
        self.mean, self.std = manifest.mean, manifest.std
        """Mean and standard deviation of the training images, R, G, B, 0–255."""
        self.epoch = 0
        """The next epoch; set it to continue in an earlier run's order."""
        self._whole, self._start = whole, train
        self._train = train(0) if train else None
        self._comes: int | None = 0
        """The epoch that the endless loader begins next; None in mid-epoch."""

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        """Map a batch's images, uint8 N×H×W×3, to float32 N×3×H×W, channels-last, as networks are fed."""
        mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (image.permute(0, 3, 1, 2) - mean) / std

    def __len__(self) -> int:
        """Count the batches of an epoch, on each rank."""
        if self._train:
            return self._train.steps_per_epoch
        return len(self._whole) if self._whole else 0

    def __iter__(self) -> Iterator[Batch]:
        """Yield one epoch; a training split is in a new order each time."""
        if self._whole:
            yield from self._whole
            return
        assert self._start  # exactly one of the two is given
        if self._train is None or self._comes != self.epoch:  # the last epoch was left early
            self._train = self._start(self.epoch)
        self._comes = None
        self.epoch += 1
        following = self.epoch
        for _ in range(len(self)):
            yield self._train.next()
        self._comes = following


def open_shards(
    shards: str | os.PathLike[str],
    split: str = "train",
    augment: AugmentConfig | None = None,
    *,
    batch: int = 8,
    device: str | torch.device = "auto",
    threads: int | None = None,
    prefetch: int = 2,
    seed: int = 0,
    decoder: Literal["auto", "gpu", "cpu"] = "auto",
    cache_frames: bool = False,
    rank: int = 0,
    world: int = 1,
) -> ShardBatches:
    """Open a packed split as batches on the device, decoded by DALI.

    With ``augment``: random crops, reshuffled in every epoch; samples that fill no batch are left for other epochs.
    Without: whole frames in order, each once (``batch`` is 1 if their sizes differ; ``valid`` is False for samples that
    only fill up the last batch). ``image`` is uint8 N×H×W×3, ``label`` uint8 N×H×W, 255 for ignored pixels.
    ``cache_frames`` keeps frames decoded in the device's memory; ``threads``, ``prefetch`` and ``decoder``: see
    :class:`fastseg.config.DataConfig`. Under DDP give ``rank`` and ``world``. Raises :class:`fastseg.UserError` for
    missing files and invalid values.

    >>> import fastseg, torch
    >>> augment = fastseg.AugmentConfig(crop=(32, 48), hue=0)
    >>> batches = fastseg.open_shards("shards/demo", "train", augment, batch=2, device="cpu")
    >>> network = torch.nn.Conv2d(3, len(batches.classes), 1)
    >>> for batch in batches:
    ...     logits = network(batches.normalize(batch.image))
    ...     loss = torch.nn.functional.cross_entropy(logits, batch.target, ignore_index=batches.ignore_index)
    >>> len(batches), logits.shape, batch.target.dtype
    (5, torch.Size([2, 19, 32, 48]), torch.int64)
    >>> sum(int(batch.valid.sum()) for batch in fastseg.open_shards("shards/demo", "val", batch=2, device="cpu"))
    5
    """
    _check_numbers(batch, seed, rank, world)
    _check_settings(augment, threads, prefetch, decoder)
    shards = os.fspath(shards)
    with naming_arguments():
        manifest, where = read_manifest(shards), device_of(device)
        files, part = open_files(shards, manifest, split, rank, world), manifest.split(split)
        choice = choose_decoder(decoder, where, manifest.image_codec, shards, split)
        if choice.warning:
            warnings.warn(choice.warning, stacklevel=2)
        options: dict[str, Any] = {"batch": batch, "device": where, "threads": threads or cpu_threads(1)}
        options["decoder"] = choice.processor
        if augment is None:
            return ShardBatches(manifest, EvalLoader(files, part, **options), None)
        options |= {"fill": fill_color(manifest.mean), "prefetch": prefetch, "seed": seed}
        options["arena"] = _arena(part, where) if cache_frames else None
        return ShardBatches(manifest, None, partial(_start_epoch, files, part, augment, options))


def _start_epoch(
    files: Files, split: Split, augment: AugmentConfig, options: dict[str, Any], epoch: int
) -> TrainLoader:
    """Return the endless loader of a split that begins with ``epoch``."""
    state = {"epoch": epoch, "step": 0, "rank_local": False}
    return TrainLoader(files, split, augment, state=state, **options)


def _arena(split: Split, device: torch.device) -> torch.Tensor:
    """Allocate memory for all frames of a split. Raises :class:`UserError` if the device has too little."""
    try:
        return allocate_arena(split, device)
    except Exception as error:
        if not out_of_memory(error):
            raise
        need = cache_bytes(split) / 1e9
        raise UserError(
            f"the decoded frames take {need:.1f} GB, more than {device} has free; leave cache_frames out"
        ) from None


def _check_numbers(batch: int, seed: int, rank: int, world: int) -> None:
    _check_number("batch", batch, 1)
    _check_number("seed", seed, 0)
    _check_number("world", world, 1)
    _check_number("rank", rank, 0, world - 1)


def _check_number(name: str, value: object, least: int, most: int = 2**31 - 1) -> None:
    if not isinstance(value, Integral) or not least <= int(value) <= most:
        raise UserError(f"{name} is {shown(value)}; it must be a whole number from {least} to {most}")


def _check_settings(
    augment: AugmentConfig | None, threads: int | None, prefetch: int, decoder: Literal["auto", "gpu", "cpu"]
) -> None:
    """Refuse what :class:`fastseg.config.DataConfig` refuses, in its words, and an ``augment`` of another type."""
    if not isinstance(augment, AugmentConfig | None):
        raise UserError(f"augment is {shown(augment)}; it must be a fastseg.AugmentConfig, or None for whole frames")
    with naming_arguments():
        DataConfig(threads=threads, prefetch=prefetch, decoder=decoder)
