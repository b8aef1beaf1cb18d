"""Batches for one rank: a split's shards through a DALI graph into torch tensors, without a copy."""

import os
from collections.abc import Iterator
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastseg.data.manifest import Manifest, Shard, Split
from fastseg.data.pipeline import Augmentation, Files, eval_graph, train_graph
from fastseg.data.shards import read_index
from fastseg.errors import UserError
from fastseg.files import is_remote, join, read_bytes

# Samples held by the reader to shuffle among; the order was already shuffled when the shards were packed.
SHUFFLE_BUFFER = 1024


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

    An epoch is ``steps_per_epoch`` full batches; what is left of a rank's samples then (less than a batch, or
    one repeated sample) is read and thrown away, so that all ranks stay in step. Every epoch each rank moves on
    to another part of the split.
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
        samples = split.samples
        self.steps_per_epoch = samples // files.world // batch
        if self.steps_per_epoch < 1:
            raise UserError(
                f"the split has {samples} samples, too few for one step of {files.world} × {batch}; "
                "lower --data.batch or --gpus"
            )
        largest_part = ceil(samples / files.world)
        self._unused_steps = ceil(largest_part / batch) - self.steps_per_epoch
        self._position = int(state["position"]) if state else 0
        self._valid = torch.ones(batch, dtype=torch.bool, device=device)
        self._pipeline = train_graph(
            files,
            augmentation,
            _dali_device(device),
            min(SHUFFLE_BUFFER, largest_part),
            seed,
            batch_size=batch,
            num_threads=threads,
            prefetch_queue_depth=prefetch,
            device_id=device.index,
            # Ranks draw different augmentations; DALI's own seeds are 32 bits wide.
            seed=(seed * 1_000_003 + files.rank) % 2**31,
            **({"checkpoint": bytes(state["dali"].numpy())} if state else {}),
        )

    def next(self) -> Batch:
        """The next batch; waits until DALI has it ready."""
        if self._position == self.steps_per_epoch:
            for _ in range(self._unused_steps):
                _run(self._pipeline)
            self._position = 0
        self._position += 1
        image, mask = _run(self._pipeline)
        return Batch(image, mask.squeeze(-1), self._valid)

    def state(self) -> dict[str, Any]:
        """Position in the epoch and DALI's readers and random generators, after the last batch handed out."""
        dali = bytearray(self._pipeline.checkpoint())
        return {"position": self._position, "dali": torch.frombuffer(dali, dtype=torch.uint8).clone()}


class EvalLoader:
    """Whole frames in order, every sample exactly once over all ranks; iterate as often as you like.

    All ranks make equally many steps; ``valid`` marks the frames that count.
    """

    def __init__(
        self, files: Files, split: Split, *, batch: int, device: torch.device, threads: int, prefetch: int = 2
    ) -> None:
        """Frames of several sizes cannot share a batch: then it is 1, whatever ``batch`` says."""
        samples, batch = split.samples, batch if len(split.sizes) == 1 else 1
        self.first = samples * files.rank // files.world
        """Place in the split of this rank's first sample."""
        self.count = samples * (files.rank + 1) // files.world - self.first
        """Samples of this rank."""
        self._steps = ceil(ceil(samples / files.world) / batch)
        self._files, self._batch, self.device = files, batch, device
        self._build = partial(
            eval_graph,
            files,
            _dali_device(device),
            batch_size=batch,
            num_threads=threads,
            prefetch_queue_depth=prefetch,
            device_id=device.index,
        )
        self._pipeline: Any = None

    def __len__(self) -> int:
        """Batches of this rank."""
        return self._steps

    def sample_keys(self) -> list[str]:
        """The keys of all samples of the split, in order."""
        texts = ((index, read_bytes(index).decode("utf-8", "replace")) for index in self._files.indexes)
        return [entry.key for index, text in texts for entry in read_index(text, index)]

    def __iter__(self) -> Iterator[Batch]:
        # A pipeline that was left in the middle would go on from there: only a finished one is kept.
        pipeline, self._pipeline = self._pipeline or self._build(), None
        for step in range(self._steps):
            image, mask = _run(pipeline)
            places = torch.arange(step * self._batch, (step + 1) * self._batch, device=self.device)
            yield Batch(image, mask.squeeze(-1), places < self.count)
        self._pipeline = pipeline


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


def _run(pipeline: Any) -> tuple[torch.Tensor, ...]:
    """One batch of each output as a torch tensor that shares DALI's memory (kept alive by DLPack)."""
    stream = torch.cuda.current_stream(pipeline.device_id) if pipeline.device_id is not None else None
    return tuple(torch.from_dlpack(output.as_tensor()) for output in pipeline.run(stream))
