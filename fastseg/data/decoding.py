"""Run a DALI graph batch by batch; name a record that cannot be decoded in a sentence instead of a C++ trace."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from fastseg.data.dali_graph import Crops, Frames, run
from fastseg.data.reader import Damaged, Reader
from fastseg.errors import UserError
from fastseg.shards.images import read_labels, read_rgb

EncodedBatch = TypeVar("EncodedBatch", Crops, Frames)


class Decoder(Generic[EncodedBatch]):
    """A DALI pipeline, and the encoded batches that it has taken but not yet returned."""

    def __init__(
        self, reader: Reader, source: Callable[[], EncodedBatch], graph: Callable[..., Any], **options: Any
    ) -> None:
        """Build the pipeline: ``source`` returns the next batch, and ``graph`` takes the ``options``."""
        self._reader = reader
        self._source: Callable[[], EncodedBatch] = source
        # DALI reads CPU arrays in place: they are kept until the batch after theirs is returned.
        self._waiting: deque[EncodedBatch] = deque()
        self._returned: EncodedBatch | None = None
        self._pipeline = graph(self._take, **options)

    def next(self) -> tuple[EncodedBatch, Any]:
        """Return the next encoded batch and the graph's outputs for it. Raises :class:`UserError`."""
        with self._explain_errors():
            outputs = run(self._pipeline)
        self._returned = self._waiting.popleft()
        return self._returned, outputs

    def _take(self) -> EncodedBatch:
        batch = self._source()
        self._waiting.append(batch)
        return batch

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Turn DALI's error about a record into a :class:`UserError` that names tar, record and byte.

        DALI does not say which record it was, so those of the batches in flight are decoded one by one with Pillow.
        """
        try:
            yield
        except RuntimeError as error:
            # Other libraries' errors have the same type; DALI's name the operator.
            if "nvidia.dali" not in str(error):
                raise
            records = dict.fromkeys(record for batch in self._waiting for record in batch.records)
            for record in records:
                if fault := undecodable(self._reader, record):
                    raise UserError(f"{fault}; pack the set again") from None
            if not records or "CUDA" in str(error):  # not the fault of a record
                raise
            on_gpu = self._pipeline.device_id is not None
            cure = "use the CPU's decoder (--data.decoder cpu), or pack" if on_gpu else "pack"
            raise UserError(
                f"DALI does not decode one of the records {self._names(list(records))}, which Pillow does "
                f"({dali_reason(error)}); {cure} the set again, the images as PNGs (--image png)"
            ) from error

    def _names(self, records: list[int]) -> str:
        shown = ", ".join(self._reader.key(record) for record in records[:8])
        return shown if len(records) <= 8 else f"{shown} and {len(records) - 8} more"


def dali_reason(error: RuntimeError) -> str:
    """Return an error's message without the graph's trace and the pipeline's closing lines."""
    _, _, said = str(error).rpartition("encountered:\n")
    lines = [line.strip() for line in said.split("Current pipeline object")[0].splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__


def undecodable(reader: Reader, index: int) -> str | None:
    """Return why the record at ``index`` cannot be decoded; None if it can."""
    try:
        record = reader.read(index)
    except Damaged:  # and therefore not given to a decoder
        return None
    files = reader.files
    try:
        read_rgb(record.image.tobytes(), "its image")
    except UserError as error:
        return f"{reader.where(index, files.image_codec)}: {error}"
    if not files.mask_codec:
        return None
    try:
        read_labels(record.mask.tobytes(), "its mask")
    except UserError as error:
        return f"{reader.where(index, f'mask.{files.mask_codec}')}: {error}"
    return None
