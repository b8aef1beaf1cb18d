"""Batches for one rank: a split's records through a DALI graph into torch tensors."""

from collections.abc import Callable, Iterator
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastseg.data.decoding import explained
from fastseg.data.draws import Augmentation
from fastseg.data.feed import epoch_steps, frame_feed, own_places, train_feed, train_samples
from fastseg.data.finish import Finisher
from fastseg.data.manifest import Manifest, Split
from fastseg.data.pipeline import DECODED, Crops, eval_graph, run, train_graph, windows_graph
from fastseg.data.reader import Files, Reader
from fastseg.data.residence import Residence, resident_feed
from fastseg.data.sizes import check_sizes
from fastseg.errors import UserError
from fastseg.labels import IGNORE
from fastseg.parallel import usable_cores
from fastseg.reading import join

EVAL_PREFETCH = 2
"""Batches of whole frames that are ready before they are asked for."""


class Batch(NamedTuple):
    """What the trainer and the evaluator get, on the device."""

    image: torch.Tensor
    """uint8 N×H×W×3, RGB; its permuted view is channels-last."""
    label: torch.Tensor
    """uint8 N×H×W train ids, 255 = ignore; nothing but that in a split without masks."""
    valid: torch.Tensor
    """bool N; False for a sample that only fills the batch up: a repeated one, or one in place of a damaged one."""


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
        resident: bool = False,
        apart: bool = False,
        state: dict[str, Any] | None = None,
    ) -> None:
        """``resident``: frames stay decoded on the device. ``apart``: this rank draws from its own share of the split
        alone, of which it then holds no more. ``state`` continues exactly after a :meth:`state`.
        """
        self.steps_per_epoch = epoch_steps(split.samples, files.world, batch)
        if self.steps_per_epoch < 1:
            raise UserError(
                f"the split has {split.samples} samples, too few for one step of {files.world} × {batch}; "
                "lower --data.batch or --gpus"
            )
        self._epoch: int = state["epoch"] if state else 0
        self._step: int = state["step"] if state else 0
        self.apart: bool = state.get("apart", False) if state else apart
        """Whether this rank draws from its own share of the split alone."""
        # Where only a share fits, an order that goes through the whole split cannot be served from memory.
        self.resident = resident and (self.apart or not apart)
        """Whether frames stay decoded in the device's memory."""
        self._valid = torch.ones(batch, dtype=torch.bool, device=device)
        options = _pipeline_options(device, batch, threads, prefetch)
        order = {"batch": batch, "seed": seed, "start": (self._epoch, self._step), "apart": self.apart}
        self._reader = _reader(files, split)
        feed = (_resident if self.resident else _streamed)(self._reader, augmentation, order, options)
        codec = DECODED if self.resident else files.image_codec
        self._next = (_finished_here if device.type == "cpu" else _by_graph)(feed, codec, augmentation, options)

    def next(self) -> Batch:
        """The next batch; waits until it is ready."""
        with explained(self._reader):
            image, mask = self._next()
        if self._step == self.steps_per_epoch:
            self._epoch, self._step = self._epoch + 1, 0
        self._step += 1
        return Batch(image, mask.squeeze(-1), self._valid)

    def bad_samples(self) -> list[int]:
        """Places of the damaged records that this rank has met so far, and passed over."""
        return sorted(self._reader.bad)

    def state(self) -> dict[str, Any]:
        """Where the loader is after the last batch handed out."""
        return {"epoch": self._epoch, "step": self._step, "apart": self.apart}


Feed = Callable[[], Crops]
Tensors = Callable[[], tuple[torch.Tensor, torch.Tensor]]


def _streamed(reader: Reader, augmentation: Augmentation, order: dict[str, Any], options: dict[str, Any]) -> Feed:
    """Crops of files, read ahead."""
    return train_feed(reader, augmentation, **order, ahead=options["prefetch_queue_depth"])


def _resident(reader: Reader, augmentation: Augmentation, order: dict[str, Any], options: dict[str, Any]) -> Feed:
    """Crops of frames in memory."""
    batch, seed = order["batch"], order["seed"]
    places = (place for _, place in train_samples(reader, **order))
    residence = Residence(reader, places, len(own_places(reader, order["apart"])), **options)
    return resident_feed(residence, augmentation, train_samples(reader, **order), batch=batch, seed=seed)


def _by_graph(feed: Feed, codec: str, augmentation: Augmentation, options: dict[str, Any]) -> Tensors:
    """Batches that are whole when they leave DALI."""
    device = "cpu" if options["device_id"] is None else "gpu"
    pipeline = train_graph(feed, augmentation, device, codec, **options)

    def following() -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = run(pipeline)
        return _tensor(image), _tensor(mask)

    return following


def _finished_here(feed: Feed, codec: str, augmentation: Augmentation, options: dict[str, Any]) -> Tensors:
    """Batches whose windows DALI has decoded."""
    pipeline = windows_graph(feed, augmentation, codec, **options)
    finish = Finisher(augmentation, options["num_threads"])

    def following() -> tuple[torch.Tensor, torch.Tensor]:
        images, masks, *numbers = run(pipeline)
        return finish(list(images), list(masks), *(number.as_array() for number in numbers))

    return following


class EvalLoader:
    """Whole frames in order, every sample exactly once over all ranks; iterate as often as you like.

    All ranks make equally many steps; ``valid`` marks the frames that count.
    """

    def __init__(
        self, files: Files, split: Split, *, batch: int, device: torch.device, threads: int, most: int | None = None
    ) -> None:
        """Frames of several sizes cannot share a batch: then it is 1, whatever ``batch`` says.

        ``most``: only so many samples, the first ones of the split.
        """
        samples = min(split.samples, most or split.samples)
        self._batch = batch if len(split.sizes) == 1 else 1
        self.first = samples * files.rank // files.world
        """Place in the split of this rank's first sample."""
        self.count = samples * (files.rank + 1) // files.world - self.first
        """Samples of this rank."""
        self.max_bad = files.max_bad
        """Damaged frames that may be left out."""
        self._steps = ceil(ceil(samples / files.world) / self._batch)
        self._reader, self.device = _reader(files, split), device
        self._options = _pipeline_options(device, self._batch, threads, EVAL_PREFETCH)
        self._pipeline: Any = None

    def __len__(self) -> int:
        """Batches of this rank."""
        return self._steps

    def sample_keys(self) -> list[str]:
        """The keys of all samples of the split, in order."""
        return [self._reader.key(place) for place in range(len(self._reader))]

    def bad_samples(self) -> list[int]:
        """Places of this rank's damaged frames met so far: they do not count."""
        return sorted(self._reader.bad.keys() & range(self.first, self.first + self.count))

    def __iter__(self) -> Iterator[Batch]:
        """One pass over this rank's frames."""
        # A pipeline that was left in the middle would go on from there: only a finished one is kept.
        pipeline, self._pipeline = self._pipeline or self._build(), None
        for step in range(self._steps):
            with explained(self._reader):
                image, *masks = (_tensor(output) for output in run(pipeline))
            label = masks[0].squeeze(-1) if masks else image.new_full(image.shape[:3], IGNORE)
            frames = range(step * self._batch, (step + 1) * self._batch)
            valid = [i < self.count and self.first + i not in self._reader.bad for i in frames]
            yield Batch(image, label, torch.tensor(valid, device=self.device))
        self._pipeline = pipeline

    def _build(self) -> Any:
        # The last frame again where a step has none of its own.
        last = self.first + max(self.count - 1, 0)
        places = [min(self.first + i, last) for i in range(self._steps * self._batch)]
        feed = frame_feed(self._reader, cycle(places), batch=self._batch, ahead=EVAL_PREFETCH)
        codec, labelled = self._reader.files.image_codec, bool(self._reader.files.mask_codec)
        return eval_graph(feed, _dali_device(self.device), codec, labelled, **self._options)


def cpu_threads(processes: int) -> int:
    """Threads for each of the ``processes`` that share this machine; at most 16."""
    return min(max(usable_cores() // processes, 1), 16)


def open_files(
    shards: str | Path,
    manifest: Manifest,
    split: str,
    rank: int = 0,
    world: int = 1,
    max_bad: int = 0,
    *,
    unlabelled: bool = False,
) -> Files:
    """The files of a split, checked for being there whole; ``shards`` may be an ``s3://`` prefix.

    ``max_bad``: damaged records that may be passed over; all that is noticed here is refused. ``unlabelled``: a split
    without masks will do.
    Raises :class:`UserError` for a split without masks, for a tar that is missing or of another size, and for an index
    that is missing (in object storage whoever reads the indexes says that).
    """
    part = manifest.split(split)
    if not part.labelled and not unlabelled:
        raise UserError(f"the split {split!r} of {shards} has no masks; it can be predicted, not trained or scored")
    check_sizes(shards, part.shards)
    return Files(
        tars=tuple(join(shards, shard.file) for shard in part.shards),
        indexes=tuple(join(shards, shard.index) for shard in part.shards),
        samples=tuple(shard.samples for shard in part.shards),
        index_sha256=tuple(shard.index_sha256 for shard in part.shards),
        sizes=frozenset((height, width) for height, width, _ in part.sizes),
        image_codec=manifest.image_codec,
        mask_codec=manifest.mask_codec if part.labelled else "",
        rank=rank,
        world=world,
        max_bad=max_bad,
    )


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


def _tensor(output: Any) -> torch.Tensor:
    """A dense output as a torch tensor that shares DALI's memory (kept alive by DLPack)."""
    return torch.from_dlpack(output.as_tensor())
