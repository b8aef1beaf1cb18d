"""Packed shards for anybody's own loop, with the manners of torch's DataLoader."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from inspect import formatannotation
from numbers import Integral, Real
from operator import index
from pathlib import Path
from typing import Any, get_args, get_origin

import torch

from fastseg.config import DataConfig
from fastseg.data.augment import Augmentation
from fastseg.data.decoder_probe import choose_decoder
from fastseg.data.frame_cache import allocate_arena, cache_bytes
from fastseg.data.loader import Batch, EvalLoader, TrainLoader, open_files
from fastseg.device import device_of
from fastseg.errors import UserError, shown
from fastseg.labels import SegmentationClass
from fastseg.parallel import cpu_threads
from fastseg.shards.manifest import Manifest, Split, read_manifest


class ShardBatches:
    """Batches of a split; made by :func:`open_shards`. Every ``for`` over it is an epoch, of ``len()`` batches."""

    def __init__(
        self, manifest: Manifest, whole: EvalLoader | None, train: Callable[[int], TrainLoader] | None
    ) -> None:
        """``whole``: frames in order; or ``train``: the endless loader that starts with an epoch."""
        self.classes: tuple[SegmentationClass, ...] = manifest.classes
        """Names and colors; labels are places in this tuple, or 255 where nothing is known."""
        self.mean, self.std = manifest.mean, manifest.std
        """Of the training images, R, G, B, 0–255."""
        self.epoch = 0
        """The next one; set it to go on with an earlier run's order."""
        self._whole, self._start = whole, train
        self._train = train(0) if train else None
        self._comes: int | None = 0
        """The epoch that the endless loader begins next; None in the middle of one."""

    def __len__(self) -> int:
        """Batches of an epoch, on each rank."""
        if self._train:
            return self._train.steps_per_epoch
        return len(self._whole) if self._whole else 0

    def __iter__(self) -> Iterator[Batch]:
        """One epoch; a training split is in a new order each time."""
        if self._whole:
            yield from self._whole
            return
        assert self._start  # it is one or the other
        if self._train is None or self._comes != self.epoch:  # the last epoch was left in its middle
            self._train = self._start(self.epoch)
        self._comes = None
        self.epoch += 1
        following = self.epoch
        for _ in range(len(self)):
            yield self._train.next()
        self._comes = following


def open_shards(
    shards: str | Path,
    split: str = "train",
    *,
    batch: int = 8,
    crop: int | tuple[int, int] | None = None,
    scale: tuple[float, float] = (0.5, 2.0),
    flip: float = 0.5,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    device: str | torch.device = "auto",
    threads: int | None = None,
    prefetch: int = 2,
    seed: int = 0,
    decoder: str = "auto",
    cache_frames: bool = False,
    rank: int = 0,
    world: int = 1,
) -> ShardBatches:
    """Batches of a packed split, decoded by DALI, on the device.

    With a ``crop`` (height, width; a number for a square): random crops of frames resized by a ratio in ``scale``,
    mirrored with probability ``flip``, colored as in :class:`fastseg.config.DataConfig`, shuffled anew in every epoch;
    what does not fill a batch is left for other epochs. Without: whole frames in order, each once (``batch`` is 1 where
    their sizes differ; ``valid`` is False for what only fills the last batch up). ``image`` is uint8 N×H×W×3, ``label``
    uint8 N×H×W, 255 where nothing is known. ``cache_frames`` keeps frames decoded in the device's memory; ``decoder``:
    see :class:`fastseg.config.DataConfig`. Under DDP give ``rank`` and ``world``. Raises :class:`fastseg.UserError`
    for what is not there, and values that make no sense.

    >>> import fastseg
    >>> batches = fastseg.open_shards("shards/demo", "train", batch=2, crop=(32, 48), device="cpu")
    >>> for epoch in range(2):
    ...     for batch in batches:
    ...         image = batch.image.permute(0, 3, 1, 2).float() / 255
    >>> len(batches), image.shape, batch.label.shape
    (5, torch.Size([2, 3, 32, 48]), torch.Size([2, 32, 48]))
    >>> sum(int(batch.valid.sum()) for batch in fastseg.open_shards("shards/demo", "val", batch=2, device="cpu"))
    5
    """
    _check_number("batch", batch, 1)
    _check_number("world", world, 1)
    _check_number("rank", rank, 0, world - 1)
    _check_number("seed", seed, 0)
    _check_settings(scale=scale, flip=flip, threads=threads, prefetch=prefetch)
    if decoder not in ("auto", "gpu", "cpu"):
        raise UserError(f"decoder is {shown(decoder)}; it must be auto, gpu or cpu")
    _check_settings(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    manifest, where = read_manifest(shards), device_of(device)
    files, part = open_files(shards, manifest, split, rank, world), manifest.split(split)
    threads = threads or cpu_threads(1)
    choice = choose_decoder(decoder, where, manifest.image_codec, str(shards), split)
    if choice.warning:
        warnings.warn(choice.warning, stacklevel=2)
    if crop is None:
        whole = EvalLoader(files, part, batch=batch, device=where, threads=threads, decoder=choice.decoder)
        return ShardBatches(manifest, whole, None)
    red, green, blue = (round(value) for value in manifest.mean)
    drawn = Augmentation(_sides(crop), scale, flip, brightness, contrast, saturation, hue, fill=(red, green, blue))
    arena = _arena(part, where) if cache_frames else None

    def start(epoch: int) -> TrainLoader:
        return TrainLoader(
            files,
            part,
            drawn,
            batch=batch,
            device=where,
            threads=threads,
            prefetch=prefetch,
            seed=seed,
            decoder=choice.decoder,
            arena=arena,
            state={"epoch": epoch, "step": 0, "rank_local": False},
        )

    return ShardBatches(manifest, None, start)


def _arena(split: Split, device: torch.device) -> torch.Tensor:
    """Memory for all frames of a split. Raises :class:`UserError` where the device has too little."""
    try:
        return allocate_arena(split, device)
    except torch.OutOfMemoryError:
        need = cache_bytes(split) / 1e9
        raise UserError(
            f"the decoded frames take {need:.1f} GB, more than {device} has free; leave cache_frames out"
        ) from None


def _sides(crop: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width. Raises :class:`UserError`."""
    sides = (crop, crop) if isinstance(crop, int) else crop
    try:
        height, width = map(index, sides)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise UserError(f"crop is {crop!r}; it must be a height and a width in pixels, or one number for a square")
    return height, width


def _check_number(name: str, value: object, least: int, most: int = 2**31 - 1) -> None:
    if not isinstance(value, Integral) or not least <= int(value) <= most:
        raise UserError(f"{name} is {shown(value)}; it must be a whole number from {least} to {most}")


def _check_settings(**settings: object) -> None:
    """Refuse what :class:`fastseg.config.DataConfig` refuses, in its words, and what is of another kind."""
    kinds = {field.name: field.type for field in fields(DataConfig)}
    for name, value in settings.items():
        if not _fits(value, kinds[name]):
            raise UserError(f"{name} is {shown(value)}; it must be {formatannotation(kinds[name])}")
        try:
            DataConfig(**{name: value})  # type: ignore[arg-type]
        except UserError as error:
            raise UserError(str(error).removeprefix("--data.")) from None


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of the kind that an annotation names, NumPy's numbers included."""
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, (tuple, list)) and len(value) == len(parts) and all(map(_fits, value, parts))
    if parts:  # of a union
        return any(_fits(value, part) for part in parts)
    return isinstance(value, {int: Integral, float: Real}.get(kind, kind))
