"""Batches for one rank: a split's records through a DALI graph into torch tensors."""

import os
from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastseg.data.draws import Augmentation
from fastseg.data.feed import epoch_steps, eval_feed, train_feed
from fastseg.data.finish import Finisher
from fastseg.data.manifest import Manifest, Shard, Split
from fastseg.data.pipeline import Crops, eval_graph, train_graph, windows_graph
from fastseg.data.reader import Files, Reader
from fastseg.errors import UserError
from fastseg.files import is_remote, join


class Batch(NamedTuple):
    """What the trainer and the evaluator get, on the device."""

    image: torch.Tensor
    """uint8 N×H×W×3, RGB; its permuted view is channels-last."""
    label: torch.Tensor
    """uint8 N×H×W train ids, 255 = ignore."""
    valid: torch.Tensor
    """bool N; False for a repeated sample that only fills the batch up."""


class TrainLoader:
    """Endless augmented batches; epochs are reshuffled, ranks see disjoint samples and equally many steps.

    An epoch is ``steps_per_epoch`` full global batches in an order of its own; the samples left over then, fewer
    than a global batch, are others every time.
    """

    def __init__(
        self,
        files: Files,
        split: Split,
        augmentation: Augmentation,
        *,
        batch: int,
        device: torch.device,
        threads: int,
        prefetch: int,
        seed: int,
        state: dict[str, Any] | None = None,
    ) -> None:
        """``state`` continues exactly after a :meth:`state`."""
        self.steps_per_epoch = epoch_steps(split.samples, files.world, batch)
        if self.steps_per_epoch < 1:
            raise UserError(
                f"the split has {split.samples} samples, too few for one step of {files.world} × {batch}; "
                "lower --data.batch or --gpus"
            )
        self._epoch: int = state["epoch"] if state else 0
        self._step: int = state["step"] if state else 0
        self._valid = torch.ones(batch, dtype=torch.bool, device=device)
        reader = _reader(files, split)
        feed = train_feed(reader, augmentation, batch=batch, seed=seed, start=(self._epoch, self._step), ahead=prefetch)
        options = _pipeline_options(device, batch, threads, prefetch)
        self._next = (_finished_here if device.type == "cpu" else _by_graph)(feed, files, augmentation, options)

    def next(self) -> Batch:
        """The next batch; waits until it is ready."""
        if self._step == self.steps_per_epoch:
            self._epoch, self._step = self._epoch + 1, 0
        self._step += 1
        image, mask = self._next()
        return Batch(image, mask.squeeze(-1), self._valid)

    def state(self) -> dict[str, Any]:
        """Where the loader is after the last batch handed out."""
        return {"epoch": self._epoch, "step": self._step}


Tensors = Callable[[], tuple[torch.Tensor, torch.Tensor]]


def _by_graph(feed: Callable[[], Crops], files: Files, augmentation: Augmentation, options: dict[str, Any]) -> Tensors:
    """Batches that are whole when they leave DALI."""
    device = "cpu" if options["device_id"] is None else "gpu"
    pipeline = train_graph(feed, augmentation, device, files.image_codec, **options)

    def following() -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = _run(pipeline)
        return _tensor(image), _tensor(mask)

    return following


def _finished_here(
    feed: Callable[[], Crops], files: Files, augmentation: Augmentation, options: dict[str, Any]
) -> Tensors:
    """Batches whose windows DALI has decoded."""
    pipeline = windows_graph(feed, augmentation, files.image_codec, **options)
    finish = Finisher(augmentation, options["num_threads"])

    def following() -> tuple[torch.Tensor, torch.Tensor]:
        images, masks, *numbers = _run(pipeline)
        return finish(list(images), list(masks), *(number.as_array() for number in numbers))

    return following


class EvalLoader:
    """Whole frames in order, every sample exactly once over all ranks; iterate as often as you like.

    All ranks make equally many steps; ``valid`` marks the frames that count.
    """

    def __init__(
        self, files: Files, split: Split, *, batch: int, device: torch.device, threads: int, prefetch: int = 2
    ) -> None:
        """Frames of several sizes cannot share a batch: then it is 1, whatever ``batch`` says."""
        samples, self._batch = split.samples, batch if len(split.sizes) == 1 else 1
        self.first = samples * files.rank // files.world
        """Place in the split of this rank's first sample."""
        self.count = samples * (files.rank + 1) // files.world - self.first
        """Samples of this rank."""
        self._steps = ceil(ceil(samples / files.world) / self._batch)
        self._reader, self._prefetch, self.device = _reader(files, split), prefetch, device
        self._options = _pipeline_options(device, self._batch, threads, prefetch)
        self._pipeline: Any = None

    def __len__(self) -> int:
        """Batches of this rank."""
        return self._steps

    def sample_keys(self) -> list[str]:
        """The keys of all samples of the split, in order."""
        return [self._reader.key(place) for place in range(len(self._reader))]

    def __iter__(self) -> Iterator[Batch]:
        """One pass over this rank's frames."""
        # A pipeline that was left in the middle would go on from there: only a finished one is kept.
        pipeline, self._pipeline = self._pipeline or self._build(), None
        for step in range(self._steps):
            image, mask = (_tensor(output) for output in _run(pipeline))
            places = torch.arange(step * self._batch, (step + 1) * self._batch, device=self.device)
            yield Batch(image, mask.squeeze(-1), places < self.count)
        self._pipeline = pipeline

    def _build(self) -> Any:
        # The last frame again where a step has none of its own.
        last = self.first + max(self.count - 1, 0)
        places = [min(self.first + i, last) for i in range(self._steps * self._batch)]
        feed = eval_feed(self._reader, places, batch=self._batch, ahead=self._prefetch)
        return eval_graph(feed, _dali_device(self.device), self._reader.files.image_codec, **self._options)


def cpu_threads(processes: int) -> int:
    """Threads for each of the ``processes`` that share this machine; at most 16."""
    return min(max(len(os.sched_getaffinity(0)) // processes, 1), 16)


def open_files(shards: str | Path, manifest: Manifest, split: str, rank: int = 0, world: int = 1) -> Files:
    """The files of a split, checked for being there whole; ``shards`` may be an ``s3://`` prefix.

    Raises :class:`UserError` for a split without masks and for a tar or index that is missing or of another size.
    """
    part = manifest.split(split)
    if not part.labelled:
        raise UserError(f"the split {split!r} of {shards} has no masks; it can be predicted, not trained or scored")
    if not is_remote(shards):
        for shard in part.shards:
            _check_size(Path(shards), shard)
    return Files(
        tars=tuple(join(shards, shard.file) for shard in part.shards),
        indexes=tuple(join(shards, shard.index) for shard in part.shards),
        image_codec=manifest.image_codec,
        mask_codec=manifest.mask_codec,
        rank=rank,
        world=world,
    )


def _check_size(folder: Path, shard: Shard) -> None:
    tar, index = folder / shard.file, folder / shard.index
    for path in (tar, index):
        if not path.is_file():
            raise UserError(f"{path} is missing, though the manifest names it; copy or pack the set again")
    if (size := tar.stat().st_size) != shard.bytes:
        raise UserError(f"{tar} has {size} bytes, the manifest says {shard.bytes}; copy or pack the set again")


def _dali_device(device: torch.device) -> str:
    return "gpu" if device.type == "cuda" else "cpu"


def _reader(files: Files, split: Split) -> Reader:
    reader = Reader(files)
    if len(reader) != split.samples:
        raise UserError(
            f"the indexes of {files.tars[0]} and its like name {len(reader)} records, the manifest {split.samples}; "
            "copy or pack the set again"
        )
    return reader


def _pipeline_options(device: torch.device, batch: int, threads: int, prefetch: int) -> dict[str, Any]:
    return {
        "batch_size": batch,
        "num_threads": threads,
        "prefetch_queue_depth": prefetch,
        "device_id": device.index,
    }


def _run(pipeline: Any) -> Any:
    """One batch of each output."""
    return pipeline.run(torch.cuda.current_stream(pipeline.device_id) if pipeline.device_id is not None else None)


def _tensor(output: Any) -> torch.Tensor:
    """A dense output as a torch tensor that shares DALI's memory (kept alive by DLPack)."""
    return torch.from_dlpack(output.as_tensor())
