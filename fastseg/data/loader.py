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
"""Batches of whole frames decoded ahead."""


class Batch(NamedTuple):
    """A batch for the trainer or the evaluator; images and labels are on the device."""

    image: torch.Tensor
    """uint8 N×H×W×3, RGB; its permuted view is channels-last."""
    label: torch.Tensor
    """uint8 N×H×W train ids, 255 = ignore; all 255 in a split without masks."""
    valid: torch.Tensor
    """bool N, on the CPU; False for a sample that only fills up the batch: a repeated one, or one in place of a damaged
    one."""

    @property
    def target(self) -> torch.Tensor:
        """Return the labels as torch's losses take them: int64 N×H×W, to be ignored at 255 (``ignore_index=255``)."""
        return self.label.long()


Processor = Literal["gpu", "cpu"]
"""The processor that decodes JPEGs on a machine with a GPU."""


class TrainLoader:
    """Endless augmented batches; every epoch is reshuffled, and ranks see disjoint samples in equally many steps.

    An epoch is ``steps_per_epoch`` full global batches; the samples left over, fewer than a global batch, differ from
    epoch to epoch.
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
        """Open the loader.

        ``fill``: the padding's color. ``decoder``: used if ``device`` is a GPU. ``arena``: memory on the device for
        decoded frames (:func:`fastseg.data.frame_cache.allocate_arena`). ``rank_local``: draw only from this rank's
        share of the split, so that the arena holds no more. ``state``: continue exactly after a :meth:`state`.
        """
        self.steps_per_epoch = epoch_steps(split.samples, files.world, batch)
        if self.steps_per_epoch < 1:
            raise UserError(
                f"the split has {split.samples} samples, too few for one step of {files.world} × {batch}; "
                "lower --data.batch or --gpus"
            )
        self._epoch, self._step = (int(state["epoch"]), int(state["step"])) if state else (0, 0)
        self.rank_local: bool = state["rank_local"] if state else rank_local
        """Whether this rank draws from its own share of the split alone."""
        # If only a share fits, an order over the whole split cannot be served from memory.
        self.cached = arena is not None and (self.rank_local or not rank_local)
        """Whether frames stay decoded in the device's memory."""
        self._cache: FrameCache | None = None
        self._valid = torch.ones(batch, dtype=torch.bool)
        start = (self._epoch, self._step)
        order: dict[str, Any] = {"batch": batch, "seed": seed, "rank_local": self.rank_local, "start": start}
        self._reader = _reader(files, split)
        options = decoding = _pipeline_options(device if decoder == "gpu" else CPU, batch, threads, prefetch)
        if self.cached:
            self._cache = _frame_cache(self._reader, order, arena, decoding)
            samples = train_samples(self._reader, **order)
            source, codec = cached_crop_batches(self._cache, augment, samples, batch=batch, seed=seed), DECODED
            options = _pipeline_options(device, batch, threads, prefetch)
        else:
            source, codec = crop_batches(self._reader, augment, **order, ahead=prefetch), files.image_codec
        make = _by_graph if options["device_id"] is not None else _resized_on_cpu
        self._next = make(self._reader, source, codec, augment, fill, device, options)

    def next(self) -> Batch:
        """Return the next batch; wait until it is ready."""
        image, mask = self._next()
        if self._step == self.steps_per_epoch:
            self._epoch, self._step = self._epoch + 1, 0
        self._step += 1
        return Batch(image, mask.squeeze(-1), self._valid)

    def put_back(self) -> None:
        """Count the last batch as not returned yet in :meth:`state`: nothing was trained on it."""
        self._step -= 1

    @property
    def filling(self) -> bool:
        """Return whether frames that are to stay decoded have not all been seen yet."""
        return self._cache is not None and not self._cache.full

    def corrupt_samples(self) -> list[int]:
        """Return the indexes of the damaged records that this rank has skipped so far."""
        return sorted(self._reader.skipped)

    def state(self) -> dict[str, Any]:
        """Return the loader's position after the last batch returned."""
        return {"epoch": self._epoch, "step": self._step, "rank_local": self.rank_local}


Source = Callable[[], Crops]
Tensors = Callable[[], tuple[torch.Tensor, torch.Tensor]]


def _frame_cache(reader: Reader, order: dict[str, Any], arena: Any, options: dict[str, Any]) -> FrameCache:
    """Return the frames that a rank draws from, which are decoded in ``order``."""
    indexes = (index for _, index in train_samples(reader, **order))
    return FrameCache(reader, indexes, len(own_indexes(reader, order["rank_local"])), arena, **options)


def _by_graph(
    reader: Reader,
    source: Source,
    codec: str,
    augment: AugmentConfig,
    fill: Color,
    device: torch.device,
    options: dict[str, Any],
) -> Tensors:
    """Make batches entirely by DALI."""
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
    """Make batches of windows that DALI decodes on the CPU; for a GPU make them ahead and copy them there."""
    decoder = Decoder(reader, source, windows_graph, codec=codec, **options)
    cpu_resize = CpuResizer(augment, fill, options["num_threads"], pinned=device.type == "cuda")

    def following() -> tuple[torch.Tensor, torch.Tensor]:
        crops, (images, masks) = decoder.next()
        return cpu_resize(list(images), list(masks), crops)

    return CopyAhead(following, device, options["prefetch_queue_depth"]) if device.type == "cuda" else following


class CopyAhead:
    """Make batches in a thread, ``depth`` ahead, and copy them to a GPU while it computes."""

    def __init__(self, make: Tensors, device: torch.device, depth: int) -> None:
        """Start the thread; ``make`` returns the next batch, in pinned memory."""
        self._make, self._device = make, device
        self._stream = torch.cuda.Stream(device)
        self._thread = ThreadPoolExecutor(1, "fastseg-copy")
        self._coming = deque(self._thread.submit(self._copy) for _ in range(depth))

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next batch; later work in torch's current stream runs after its copy."""
        tensors, copied = self._coming.popleft().result()
        self._coming.append(self._thread.submit(self._copy))
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for tensor in tensors:
            # Their memory belongs to the other stream: it must not be reused before this one has read it.
            tensor.record_stream(stream)
        return tensors

    def _copy(self) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.cuda.Event]:
        image, mask = self._make()
        with torch.cuda.stream(self._stream):
            tensors = (image.to(self._device, non_blocking=True), mask.to(self._device, non_blocking=True))
            return tensors, self._stream.record_event()


class EvalLoader:
    """Whole frames in order, every sample exactly once over all ranks; may be iterated repeatedly.

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
        """Open the loader. If the frames' sizes differ they cannot share a batch, and ``batch`` is ignored for 1.

        ``decoder``: used if ``device`` is a GPU. ``most``: read only the first ``most`` samples of the split.
        """
        samples = min(split.samples, most or split.samples)
        self._batch = batch if len(split.sizes) == 1 else 1
        self.first = samples * files.rank // files.world
        """Index in the split of this rank's first sample."""
        self.count = samples * (files.rank + 1) // files.world - self.first
        """Number of this rank's samples."""
        self.max_corrupt = files.max_corrupt
        """Maximum damaged frames to leave out."""
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
        """Return the indexes of this rank's damaged frames so far, which do not count."""
        return sorted(self._reader.skipped.keys() & range(self.first, self.first + self.count))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of one pass over this rank's frames."""
        # A pipeline that was left early would continue from there, so only a finished one is kept.
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
        # A step without frames of its own repeats the last frame.
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
    """Return the files of a split, checked to be complete; ``shards`` may be an ``s3://`` prefix.

    ``max_corrupt``: damaged records that may be skipped; damage that is found here is refused. ``unlabeled``: accept a
    split without masks. Raises :class:`UserError` for a split without masks, for a tar that is missing or of another
    size, and for an index that is missing (in object storage the reader of the indexes reports that).
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
            f"the indexes of {files.tars[0]} and the other shards name {len(reader)} records, the manifest "
            f"{split.samples}; copy or pack the set again"
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
