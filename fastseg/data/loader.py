"""Batches for one rank: a split's records through a DALI graph into torch tensors."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from fastseg.config import AugmentConfig
from fastseg.data.augment import FILL, Color
from fastseg.data.dali_graph import DECODED, CpuResizer, Crops, Frames, eval_graph, to_torch, train_graph, windows_graph
from fastseg.data.decoding import Decoder
from fastseg.data.frame_cache import FrameCache, cached_crop_batches
from fastseg.data.reader import Files, Reader
from fastseg.data.sampler import crop_batches, epoch_steps, frame_batches, own_indexes, train_samples
from fastseg.errors import UserError
from fastseg.labels import IGNORE
from fastseg.shards.manifest import Manifest, Split
from fastseg.shards.verify import check_sizes
from fastseg.storage import join

CPU = torch.device("cpu")
EVAL_PREFETCH = 2
"""Batches of whole frames that are ready before they are asked for."""


class Batch(NamedTuple):
    """What the trainer and the evaluator get; images and labels lie on the device."""

    image: torch.Tensor
    """uint8 N×H×W×3, RGB; its permuted view is channels-last."""
    label: torch.Tensor
    """uint8 N×H×W train ids, 255 = ignore; nothing but that in a split without masks."""
    valid: torch.Tensor
    """bool N, on the CPU; False for a sample that only fills the batch up: a repeated one, or one in place of a damaged
    one."""


Processor = Literal["gpu", "cpu"]
"""Which processor decodes JPEGs, on a machine with a GPU."""


class TrainLoader:
    """Endless augmented batches; epochs are reshuffled, ranks see disjoint samples and equally many steps.

    An epoch is ``steps_per_epoch`` full global batches in an order of its own; the samples left over then, fewer
    than a global batch, are others every time.
    """

    def __init__(
        self,
        files: Files,
        split: Split,
        augment: AugmentConfig,
        *,
        batch: int,
        device: torch.device,
        threads: int,
        prefetch: int,
        seed: int,
        fill: Color = FILL,
        decoder: Processor = "gpu",
        arena: torch.Tensor | None = None,
        rank_local: bool = False,
        state: dict[str, Any] | None = None,
    ) -> None:
        """``fill``: the padding's color. ``decoder``: of a ``device`` that is a GPU. ``arena``: memory on the device in
        which frames stay decoded (:func:`fastseg.data.frame_cache.allocate_arena`). ``rank_local``: this rank draws
        from its own share of the split alone, of which it then holds no more. ``state`` continues exactly after a
        :meth:`state`.
        """
        self.steps_per_epoch = epoch_steps(split.samples, files.world, batch)
        if self.steps_per_epoch < 1:
            raise UserError(
                f"the split has {split.samples} samples, too few for one step of {files.world} × {batch}; "
                "lower --data.batch or --gpus"
            )
        self._epoch: int = state["epoch"] if state else 0
        self._step: int = state["step"] if state else 0
        self.rank_local: bool = state["rank_local"] if state else rank_local
        """Whether this rank draws from its own share of the split alone."""
        # Where only a share fits, an order that goes through the whole split cannot be served from memory.
        self.cached = arena is not None and (self.rank_local or not rank_local)
        """Whether frames stay decoded in the device's memory."""
        self._valid = torch.ones(batch, dtype=torch.bool)
        order: dict[str, Any] = {"batch": batch, "seed": seed, "rank_local": self.rank_local}
        order["start"] = (self._epoch, self._step)
        self._reader = _reader(files, split)
        decoding = _pipeline_options(device if decoder == "gpu" else CPU, batch, threads, prefetch)
        if self.cached:
            source, codec = _cached(self._reader, augment, order, arena, decoding), DECODED
            options = _pipeline_options(device, batch, threads, prefetch)
        else:
            source, codec = crop_batches(self._reader, augment, **order, ahead=prefetch), files.image_codec
            options = decoding
        make = _by_graph if options["device_id"] is not None else _resized_on_cpu
        self._next = make(self._reader, source, codec, augment, fill, device, options)

    def next(self) -> Batch:
        """Return the next batch; waits until it is ready."""
        image, mask = self._next()
        if self._step == self.steps_per_epoch:
            self._epoch, self._step = self._epoch + 1, 0
        self._step += 1
        return Batch(image, mask.squeeze(-1), self._valid)

    def corrupt_samples(self) -> list[int]:
        """Return the indexes of the damaged records that this rank has met so far, and skipped."""
        return sorted(self._reader.skipped)

    def state(self) -> dict[str, Any]:
        """Return where the loader is after the last batch handed out."""
        return {"epoch": self._epoch, "step": self._step, "rank_local": self.rank_local}


Source = Callable[[], Crops]
Tensors = Callable[[], tuple[torch.Tensor, torch.Tensor]]


def _cached(
    reader: Reader, augment: AugmentConfig, order: dict[str, Any], arena: Any, options: dict[str, Any]
) -> Source:
    """Return a source of crops of frames in memory."""
    batch, seed = order["batch"], order["seed"]
    indexes = (index for _, index in train_samples(reader, **order))
    cache = FrameCache(reader, indexes, len(own_indexes(reader, order["rank_local"])), arena, **options)
    return cached_crop_batches(cache, augment, train_samples(reader, **order), batch=batch, seed=seed)


def _by_graph(
    reader: Reader,
    source: Source,
    codec: str,
    augment: AugmentConfig,
    fill: Color,
    device: torch.device,
    options: dict[str, Any],
) -> Tensors:
    """Make batches that are whole when they leave DALI."""
    settings = {"augment": augment, "fill": fill, "device": "cpu" if options["device_id"] is None else "gpu"}
    decoder = Decoder(reader, source, train_graph, **settings, codec=codec, **options)

    def following() -> tuple[torch.Tensor, torch.Tensor]:
        _, (image, mask) = decoder.next()
        return to_torch(image.as_tensor(), device), to_torch(mask.as_tensor(), device)

    return following


def _resized_on_cpu(
    reader: Reader,
    source: Source,
    codec: str,
    augment: AugmentConfig,
    fill: Color,
    device: torch.device,
    options: dict[str, Any],
) -> Tensors:
    """Make batches of windows that DALI decodes on the CPU; for a GPU they are made ahead and copied there."""
    decoder = Decoder(reader, source, windows_graph, augment=augment, fill=fill, codec=codec, **options)
    cpu_resize = CpuResizer(augment, fill, options["num_threads"], pinned=device.type == "cuda")

    def following() -> tuple[torch.Tensor, torch.Tensor]:
        crops, (images, masks) = decoder.next()
        return cpu_resize(list(images), list(masks), crops)

    return CopyAhead(following, device, options["prefetch_queue_depth"]) if device.type == "cuda" else following


class CopyAhead:
    """Makes batches in a thread, ``depth`` of them ahead, and copies them to a GPU while it computes."""

    def __init__(self, make: Tensors, device: torch.device, depth: int) -> None:
        """``make`` returns the next batch, in pinned memory."""
        self._make, self._device = make, device
        self._stream = torch.cuda.Stream(device)
        self._thread = ThreadPoolExecutor(1, "fastseg-copy")
        self._coming = deque(self._thread.submit(self._copy) for _ in range(depth))

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next batch; what torch's current stream is asked for from now on comes after its copy."""
        tensors, copied = self._coming.popleft().result()
        self._coming.append(self._thread.submit(self._copy))
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for tensor in tensors:
            # Their memory is the other stream's: it must not be used again before this one has read it.
            tensor.record_stream(stream)
        return tensors

    def _copy(self) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.cuda.Event]:
        image, mask = self._make()
        with torch.cuda.stream(self._stream):
            tensors = (image.to(self._device, non_blocking=True), mask.to(self._device, non_blocking=True))
            return tensors, self._stream.record_event()


class EvalLoader:
    """Whole frames in order, every sample exactly once over all ranks; iterate as often as you like.

    All ranks make equally many steps; ``valid`` marks the frames that count.
    """

    def __init__(
        self,
        files: Files,
        split: Split,
        *,
        batch: int,
        device: torch.device,
        threads: int,
        decoder: Processor = "gpu",
        most: int | None = None,
    ) -> None:
        """Frames of several sizes cannot share a batch: then it is 1, whatever ``batch`` says.

        ``decoder``: of a ``device`` that is a GPU. ``most``: only so many samples, the first ones of the split.
        """
        samples = min(split.samples, most or split.samples)
        self._batch = batch if len(split.sizes) == 1 else 1
        self.first = samples * files.rank // files.world
        """Index in the split of this rank's first sample."""
        self.count = samples * (files.rank + 1) // files.world - self.first
        """Samples of this rank."""
        self.max_corrupt = files.max_corrupt
        """Damaged frames that may be left out."""
        self._steps = ceil(ceil(samples / files.world) / self._batch)
        self._reader, self.device = _reader(files, split), device
        decoding = device if decoder == "gpu" else CPU
        self._options = _pipeline_options(decoding, self._batch, threads, EVAL_PREFETCH)
        self._decoder: Decoder[Frames] | None = None

    def __len__(self) -> int:
        """Count the batches of this rank."""
        return self._steps

    def sample_keys(self) -> list[str]:
        """Return the keys of all samples of the split, in order."""
        return [self._reader.key(index) for index in range(len(self._reader))]

    def corrupt_samples(self) -> list[int]:
        """Return the indexes of this rank's damaged frames met so far: they do not count."""
        return sorted(self._reader.skipped.keys() & range(self.first, self.first + self.count))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of one pass over this rank's frames."""
        # A pipeline that was left in the middle would go on from there: only a finished one is kept.
        decoder, self._decoder = self._decoder or self._build(), None
        for step in range(self._steps):
            _, outputs = decoder.next()
            image, *masks = (to_torch(output.as_tensor(), self.device) for output in outputs)
            label = masks[0].squeeze(-1) if masks else image.new_full(image.shape[:3], IGNORE)
            frames = range(step * self._batch, (step + 1) * self._batch)
            valid = [i < self.count and self.first + i not in self._reader.skipped for i in frames]
            yield Batch(image, label, torch.tensor(valid))
        self._decoder = decoder

    def _build(self) -> Decoder[Frames]:
        # The last frame again where a step has none of its own.
        last = self.first + max(self.count - 1, 0)
        indexes = [min(self.first + i, last) for i in range(self._steps * self._batch)]
        source = frame_batches(self._reader, cycle(indexes), batch=self._batch, ahead=EVAL_PREFETCH)
        codec, labeled = self._reader.files.image_codec, bool(self._reader.files.mask_codec)
        where = "cpu" if self._options["device_id"] is None else "gpu"
        return Decoder(self._reader, source, eval_graph, device=where, codec=codec, labeled=labeled, **self._options)


def open_files(
    shards: str | Path,
    manifest: Manifest,
    split: str,
    rank: int = 0,
    world: int = 1,
    max_corrupt: int = 0,
    *,
    unlabeled: bool = False,
) -> Files:
    """Return the files of a split, checked for being there whole; ``shards`` may be an ``s3://`` prefix.

    ``max_corrupt``: damaged records that may be skipped; all that is noticed here is refused. ``unlabeled``: a split
    without masks will do.
    Raises :class:`UserError` for a split without masks, for a tar that is missing or of another size, and for an index
    that is missing (in object storage whoever reads the indexes says that).
    """
    part = manifest.split(split)
    if not part.labeled and not unlabeled:
        raise UserError(f"the split {split!r} of {shards} has no masks; it can be predicted, not trained or scored")
    check_sizes(shards, part.shards)
    return Files(
        tars=tuple(join(shards, shard.file) for shard in part.shards),
        indexes=tuple(join(shards, shard.index) for shard in part.shards),
        samples=tuple(shard.samples for shard in part.shards),
        index_sha256=tuple(shard.index_sha256 for shard in part.shards),
        sizes=frozenset((height, width) for height, width, _ in part.sizes),
        image_codec=manifest.image_codec,
        mask_codec=manifest.mask_codec if part.labeled else "",
        rank=rank,
        world=world,
        max_corrupt=max_corrupt,
    )


def _reader(files: Files, split: Split) -> Reader:
    reader = Reader(files)
    if len(reader) != split.samples:
        raise UserError(
            f"the indexes of {files.tars[0]} and its like name {len(reader)} records, the manifest {split.samples}; "
            "copy or pack the set again"
        )
    return reader


def _pipeline_options(device: torch.device, batch: int, threads: int, prefetch: int) -> dict[str, Any]:
    """Return DALI's options of a pipeline that runs on ``device``."""
    return {
        "batch_size": batch,
        "num_threads": threads,
        "prefetch_queue_depth": prefetch,
        "device_id": device.index,
    }
