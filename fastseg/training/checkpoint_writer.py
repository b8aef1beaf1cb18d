"""Write checkpoints in the background: a step waits for a copy of the tensors, not for the disk."""

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from fastseg.model import checkpoint


def snapshot(value: Any, earlier: Any = None) -> Any:
    """Return a copy on the CPU of nested dicts, lists and tuples of tensors, which later steps do not change.

    ``earlier``: a snapshot that nobody needs any more, into whose tensors the values are copied where they fit: new
    memory costs as much time as the copy. Values of a GPU have arrived once its stream is synchronized.
    """
    if isinstance(value, Tensor):
        return _buffer(value, earlier).copy_(value, non_blocking=True)
    if isinstance(value, dict):
        known = earlier if isinstance(earlier, dict) else {}
        return {key: snapshot(part, known.get(key)) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = earlier if isinstance(earlier, (list, tuple)) and len(earlier) == len(value) else [None] * len(value)
        return type(value)(snapshot(part, before) for part, before in zip(value, parts, strict=True))
    return value


def _buffer(value: Tensor, earlier: Any) -> Tensor:
    """Return memory for a copy, in the same memory order; pinned for a GPU's values, which are copied quickest so."""
    layout = (value.dtype, value.shape, value.stride())
    if isinstance(earlier, Tensor) and (earlier.dtype, earlier.shape, earlier.stride()) == layout:
        return earlier
    return torch.empty_like(value, device="cpu", pin_memory=value.is_cuda, requires_grad=False)


class CheckpointWriter:
    """Write ``last.pt`` and ``best.pt`` of a run in a thread, one checkpoint at a time; use it in ``with``.

    The next :meth:`save` waits for a write in flight, and so does the end of the block, however it ends. What a write
    raises is raised by the next call. Memory: one copy of all that a checkpoint holds, for as long as the run lasts.
    """

    def __init__(self, folder: Path, on_written: Callable[[Path], None]) -> None:
        """Write into ``folder``, made if missing; call ``on_written`` with each path within the methods below."""
        self._folder, self._on_written = folder, on_written
        self._executor = ThreadPoolExecutor(1, "checkpoint")
        self._snapshot: Any = None
        self._written: Future[Path] | None = None

    def save(self, document: dict[str, Any], best: bool) -> None:
        """Copy ``document`` and begin to write it as ``last.pt``, with ``best`` also as ``best.pt``."""
        self.wait()
        self._snapshot = snapshot(document, self._snapshot)
        if torch.cuda.is_initialized():
            torch.cuda.current_stream().synchronize()
        self._written = self._executor.submit(_write, self._folder, self._snapshot, best)

    def poll(self) -> None:
        """Notice whether a write has ended, without waiting."""
        if self._written and self._written.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the write in flight."""
        written, self._written = self._written, None
        if written:
            self._on_written(written.result())

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._executor.shutdown(wait=True)
        if not error:
            self.wait()
        elif self._written and (failed := self._written.exception()):
            # Not raised: it would hide the error that ends the run.
            print(f"warning: the last checkpoint was not written: {failed}", file=sys.stderr)


def _write(folder: Path, document: dict[str, Any], best: bool) -> Path:
    """Write a checkpoint and return its path: ``best.pt``, which is ``last.pt`` as well, or that alone."""
    # The last first: it says itself whether it is the best, which a run killed before the next line keeps then.
    checkpoint.save(folder / "last.pt", document)
    if not best:
        return folder / "last.pt"
    checkpoint.keep(folder / "last.pt", folder / "best.pt")
    return folder / "best.pt"
