"""Read untrusted files of weights, without running code from them and without trusting their sizes."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from fastseg.errors import UserError, out_of_memory, shown
from fastseg.model.checkpoint_file import is_zip

Rgb = tuple[float, float, float]

MAX_PLAIN = 64 << 20
"""Maximum bytes of a file's pickle, which describes its tensors without their values: fastseg's have 0.3 MB."""
MAX_VALUES = 1_000_000
"""Maximum numbers, strings, tensors and containers in a file, repeated references included: fastseg's have 10,000."""
VIEWS = 4
"""Maximum bytes of all tensors over those of the file: a file may hold several views of one storage."""
IGNORED = (
    *("mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr", "argparse.Namespace"),
    *("numpy.ndarray", "numpy.dtype"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
"""Globals that training tools store beside the weights: mmengine's curves, the arguments of torchvision's scripts,
numpy's numbers. Each is replaced by an :class:`_Ignored`, so that none of this code runs."""


def read_tensors(path: Path, what: str, *, sums: bool = False, foreign: bool = False) -> Any:
    """Read what ``torch.save`` wrote to ``path`` onto the CPU, its tensors as they are used.

    ``sums``: compare every member with its CRC-32, a second for 0.8 GB. torch writes one unless it is told not to, so
    that cannot be asked of files from anywhere. ``foreign``: pass over :data:`IGNORED`, which our own files never hold.

    A hostile file can neither run code nor take more memory than a few times its size: nothing in it is compressed, and
    every tensor's values are in it. Nothing in the result has attributes from the file, which could stand in for the
    methods of a dict or a tensor. Raises :class:`UserError`, which says that it is no ``what``, for anything else;
    :class:`FileNotFoundError` and :class:`IsADirectoryError` are left to the caller.
    """
    zipped = is_zip(path, what)
    try:
        if zipped:
            _check_members(path, sums)
        # Always explicit: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD switches the default off, not a given True.
        with torch.serialization.safe_globals([(_Ignored, name) for name in IGNORED] if foreign else []):
            document = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        document = _Copy(path.stat().st_size).copy(document)
    except Exception as error:  # the file may be of any kind, and unpickling fails in many ways
        raise UserError(f"{path} is not a {what} that can be loaded safely: {_reason(error)}") from None
    return document


def check_weights(state: Any, path: Path) -> None:
    """Refuse anything but a state dict of finite numbers. Raises :class:`UserError`, which names the tensor."""
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path} holds no state dict; save one with torch.save(model.state_dict(), …)")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path} holds no state dict but {shown(value)} as {shown(name)}; "
                "save one with torch.save(model.state_dict(), …)"
            )
        whole = name.endswith("num_batches_tracked")
        if value.is_floating_point() is whole or value.is_complex():
            raise UserError(f"{path} has {shown(name)} of the type {value.dtype}; weights are floating-point numbers")
        if not whole and not bool(value.isfinite().all()):
            raise UserError(f"{path} has values in {shown(name)} that are not finite; use another")


def not_finite(document: dict[str, Any]) -> str:
    """Return the name of the first tensor with an infinity or a NaN, such as ``model.weight``; empty for none.

    Searches nested dicts, lists and tensors, on any device.
    """
    waiting = [(str(name), value) for name, value in document.items()]
    for where, value in waiting:  # the list grows meanwhile
        if isinstance(value, dict):
            names = (shown(key).replace("'", "") for key in value)
            waiting += [(f"{where}.{name}", part) for name, part in zip(names, value.values(), strict=True)]
        elif isinstance(value, (list, tuple)):
            waiting += [(f"{where}.{i}", part) for i, part in enumerate(value)]
        elif isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            return where
    return ""


def parse_normalization(document: dict[str, Any], path: Path) -> tuple[Rgb, Rgb]:
    """Return the checked mean and standard deviation of a checkpoint, R, G, B, 0–255; :class:`UserError` for others."""
    mean, std = document["mean"], document["std"]
    for name, values in (("mean", mean), ("std", std)):
        three = isinstance(values, (list, tuple)) and len(values) == 3
        if not three or not all(isinstance(value, (int, float)) and 0 <= value <= 255 for value in values):
            raise UserError(f"{path} has the {name} {shown(values)}; it must be three numbers from 0 to 255")
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


@contextmanager
def fitting(path: Path | None = None) -> Iterator[None]:
    """Turn the errors of a checkpoint whose parts do not fit together into a :class:`UserError`."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        if out_of_memory(error):  # says nothing of the checkpoint
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path or 'the checkpoint'} is damaged ({reason}); use another") from None


class _Ignored:
    """Stand for an object of another project: does nothing, keeps nothing."""

    def __new__(cls, *_: object) -> "_Ignored":
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


class _Unsafe(ValueError):
    """A reason to reject a file, found by fastseg, not by torch."""


def _reason(error: Exception) -> str:
    """Return why a file was not loaded; torch's own message recommends running the code in it."""
    if isinstance(error, _Unsafe):
        return str(error)
    if isinstance(error, UnpicklingError):
        if found := re.search(r"GLOBAL ([\w.]{1,200}) ", str(error)):
            return (
                f"it holds {found[1]} besides tensors, numbers and texts; save the weights alone where it was made: "
                "torch.save(model.state_dict(), FILE)"
            )
        return "it holds something besides tensors, numbers and texts, or is damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it is cut off or damaged"


def _check_members(path: Path, sums: bool) -> None:
    """Refuse a zip archive with compressed members, or with members that differ from what was written."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise _Unsafe(f"its member {member.filename!r} is compressed")
            if member.filename.endswith(".pkl") and member.file_size > MAX_PLAIN:
                raise _Unsafe(f"its member {member.filename!r} has {member.file_size:,} bytes")
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise _Unsafe("its members overlap")
        if sums and (name := archive.testzip()):
            raise _Unsafe(f"its member {name!r} is not as it was written (CRC-32); use another")


class _Copy:
    """Copy what a file holds into plain containers and tensors, the values not copied, and count it meanwhile.

    A file can give its dicts and tensors attributes of any name: an OrderedDict with ``items`` of its own would show a
    check other values than a later reader. So only methods of the types are called here, never of the objects.
    """

    def __init__(self, size: int) -> None:
        """Refuse tensors larger than their values in the file of ``size`` bytes, and endless containers."""
        self._size, self._values, self._total = size, 0, 0

    def copy(self, value: Any) -> Any:
        """Return the copy; raise :class:`_Unsafe` or :class:`RecursionError` for what no file of weights holds."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise _Unsafe(f"it holds more than {MAX_VALUES:,} values")
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            return {self.copy(key): self.copy(item) for key, item in dict.items(value)}
        kinds: tuple[Any, ...] = (list, tuple, set)
        for kind in kinds:
            if isinstance(value, kind):
                return kind(self.copy(item) for item in kind.__iter__(value))
        return value

    def _tensor(self, tensor: Tensor) -> Tensor:
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            raise _Unsafe(f"it holds a {type(tensor).__name__}")
        tensor = Tensor.detach(tensor)  # a new object, of the same values
        self._total += _bytes(tensor, self._size)
        if self._total > VIEWS * self._size:
            raise _Unsafe(f"its tensors would take {self._total:,} bytes, it has {self._size:,}")
        return tensor


def _bytes(tensor: Tensor, size: int) -> int:
    """Return a tensor's bytes; raise :class:`_Unsafe` if not all are in the file of ``size`` bytes."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise _Unsafe(f"a tensor in it is no plain one ({tensor.layout}, {tensor.dtype}, {tensor.device.type})")
    wanted, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if wanted > min(stored, size):
        raise _Unsafe(f"a tensor in it of the shape {tuple(tensor.shape)} has no such number of values")
    return wanted
