"""Networks exported as programs: run a file of ONNX or torch.export, by fastseg or by anybody."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastseg.errors import UserError

Picture = NDArray[np.uint8]
"""RGB, N×H×W×3."""
CONTRACT = "an image of uint8 N×H×W×3, RGB, to class ids N×H×W or logits N×C×H×W, with the normalization inside"
"""What a program must map to be scored; fastseg-export's give both."""
METADATA = ("format", "classes", "step", "weights", "arch", "name", "recipe")
"""Strings that are read of a file's metadata, which may be anybody's."""
MAX_TEXT = 1 << 20
"""Maximum characters of one of them."""


class ExportOutput(NamedTuple):
    """Output of an exported network; None where it has no such output."""

    classes: NDArray[np.integer] | None
    """Train ids, N×H×W."""
    logits: NDArray[np.floating] | None
    """N×C×H×W."""


InferenceFn = Callable[[Picture], ExportOutput]


@dataclass(frozen=True)
class Exported:
    """A program in a file, and what the file says of it."""

    path: Path
    run: InferenceFn
    """Runs on the device that it was opened for."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Those of :data:`METADATA` that the file has."""
    shape: tuple[int | None, int | None, int | None] = (None, None, None)
    """N, H and W that alone it takes; None for any."""
    classes: int | None = None
    """Number of classes by the shape of its logits; None if that does not say."""
    gives_ids: bool = True
    """Whether class ids are among its outputs."""

    def check_frames(self, batch: int, sizes: Sequence[tuple[int, int]], classes: int) -> None:
        """Refuse a number or a size (height, width) of frames that it does not take, and another number of classes."""
        if self.classes not in (None, classes):
            raise UserError(
                f"{self.path} knows {self.classes} classes, the set {classes}; name the set it was made for"
            )
        number, height, width = self.shape
        if number not in (None, batch):
            raise UserError(f"{self.path} takes {number} images at a time; use --batch {number}")
        for size in sizes:
            if height not in (None, size[0]) or width not in (None, size[1]):
                raise UserError(
                    f"{self.path} takes images of {width or 'any'}×{height or 'any'} pixels, and the set has some of "
                    f"{size[1]}×{size[0]}; export it for any size, or pack a set of that size"
                )


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the exporters' warnings, which concern only their authors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def inference_fn(model: nn.Module) -> InferenceFn:
    """Return a torch network, in float32 on the CPU, as a function of arrays."""

    def answer(image: Picture) -> ExportOutput:
        with torch.inference_mode():
            outputs = model(torch.from_numpy(image))
        outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        return _sorted([output.float().numpy() if output.is_floating_point() else output.numpy() for output in outputs])

    return answer


def read_onnx(path: Path, device: torch.device = torch.device("cpu")) -> Exported:  # noqa: B008  a constant
    """Open an ONNX file by onnxruntime; raise :class:`UserError` if it does not follow :data:`CONTRACT`."""
    if find_spec("onnxruntime") is None:
        raise UserError(f"{path} needs onnxruntime; install it: pip install 'fastseg-deeplab[export]'")
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    there = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[*there, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, which share no base
        raise UserError(f"{path} is no ONNX model that onnxruntime can run ({_reason(error)})") from None
    _check_onnx(path, session)
    (name,) = [entry.name for entry in session.get_inputs()]
    number, height, width, _ = (n if isinstance(n, int) else None for n in session.get_inputs()[0].shape)

    def run(image: Picture) -> ExportOutput:
        try:
            return _sorted(session.run(None, {name: image}))
        except Exception as error:  # as above
            raise UserError(f"{path} cannot be run on {_shape(image)} pixels ({_reason(error)})") from None

    said = session.get_modelmeta().custom_metadata_map
    shapes = [entry.shape for entry in session.get_outputs()]
    counts = [shape[1] for shape in shapes if len(shape) == 4 and isinstance(shape[1], int)]
    ids = any(len(shape) == 3 for shape in shapes)
    return Exported(path, run, _known(said), (number, height, width), counts[0] if counts else None, ids)


def _check_onnx(path: Path, session: Any) -> None:
    """Refuse a program of other inputs and outputs than :data:`CONTRACT`'s."""
    inputs, outputs = (
        [(e.type, e.shape) for e in entries] for entries in (session.get_inputs(), session.get_outputs())
    )
    image = len(inputs) == 1 and inputs[0][0] == "tensor(uint8)" and len(inputs[0][1]) == 4
    image = image and (not isinstance(inputs[0][1][3], int) or inputs[0][1][3] == 3)
    ids = [shape for kind, shape in outputs if "int" in kind and len(shape) == 3]
    logits = [shape for kind, shape in outputs if "float" in kind and len(shape) == 4]
    if not image or len(ids) > 1 or len(logits) > 1 or not (ids or logits):
        found = " and ".join(f"{kind[7:-1]} {'×'.join(map(str, shape))}" for kind, shape in inputs)
        gives = " and ".join(f"{kind[7:-1]} {'×'.join(map(str, shape))}" for kind, shape in outputs)
        raise UserError(f"{path} maps {found} to {gives}; to be scored it must map {CONTRACT}")


def read_torch_export(path: Path) -> Exported:
    """Open a file of torch.export, on the CPU. It may run any code: torch reads parts of it by pickle."""
    said = dict.fromkeys(METADATA, "")
    try:
        if not is_zipfile(path):  # torch would log a traceback
            raise ValueError("no zip archive")
        with quiet(), path.open("rb") as file:
            network = torch.export.load(file, extra_files=said).module()
    except Exception as error:  # the file may be of any kind
        raise UserError(f"{path} is no file of torch.export that this torch can load ({_reason(error)})") from None
    return Exported(path, inference_fn(network), _known(said))


READERS: dict[str, Callable[[Path], Exported]] = {".onnx": read_onnx, ".pt2": read_torch_export}
"""Functions that open an exported program on the CPU, by the file's suffix."""


def _sorted(outputs: Sequence[NDArray[Any]]) -> ExportOutput:
    """Tell class ids and logits apart by their type and number of dimensions."""
    ids = [output for output in outputs if output.dtype.kind in "iu" and output.ndim == 3]
    logits = [output for output in outputs if output.dtype.kind == "f" and output.ndim == 4]
    return ExportOutput(ids[0] if ids else None, logits[0] if logits else None)


def _known(said: Mapping[str, str]) -> dict[str, str]:
    return {name: said[name] for name in METADATA if said.get(name) and len(said[name]) <= MAX_TEXT}


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _shape(image: Picture) -> str:
    return "×".join(map(str, image.shape[:3]))
