"""The DALI graphs: encoded images and masks in, uint8 batches out; running one, and resizing on the CPU instead.

The training graph is a list of steps: decode the crop's window → change its colors → resize and pad → move the crop's
pixels. On a CPU it ends with the decoded windows, and :class:`CpuResizer` does the rest. The operators are those of
:mod:`fastseg.data.augment`, which has drawn what they need before, once for image and mask: drawing twice with one seed
has drifted apart for others (https://github.com/NVIDIA/DALI/issues/2546).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat, tee
from threading import Barrier
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import torch
from numpy.typing import NDArray
from nvidia.dali import pipeline_def
from nvidia.dali.plugin.pytorch import feed_ndarray
from nvidia.dali.tensors import TensorGPU, TensorListGPU
from torch import Tensor

from fastseg.config import AugmentConfig
from fastseg.data.augment import Augmentation, Color, Pixels, cpu_crop, dali_crop, switched_on
from fastseg.errors import UserError

Array = NDArray[Any] | torch.Tensor
"""An array on the CPU, or a tensor on a GPU."""
Arrays = Sequence[Array]
"""One array per sample."""
DECODED = "decoded"
"""In place of a codec: images and masks are decoded frames in memory, not files."""


class Crops(NamedTuple):
    """A batch for the training graph; each a list or an array of N."""

    image: Arrays
    """Encoded, or cut to the tiles that are needed (uint8, one dimension); or decoded: uint8 H×W×3 on the device."""
    mask: Arrays
    """Encoded (uint8, one dimension); or decoded: uint8 H×W×1 on the device."""
    image_start: NDArray[np.int32]
    """First row and column of the window in ``image``, N×2."""
    mask_start: NDArray[np.int32]
    """The same in ``mask``."""
    shape: NDArray[np.int32]
    """Rows and columns of the window, N×2."""
    region_start: NDArray[np.float32]
    """Row and column of the window where resizing starts, N×2; a region that ends before it starts is mirrored."""
    region_end: NDArray[np.float32]
    """Row and column of the window where resizing ends, N×2."""
    size: NDArray[np.float32]
    """Rows and columns that the window is resized to, N×2."""
    pad_start: NDArray[np.int32]
    """Row and column of the resized window where the finished crop begins, N×2: negative if it is padded."""
    flip: NDArray[np.bool_]
    """Whether the window is mirrored left-right, N; the graph has it from ``region_start``."""
    parameters: dict[str, NDArray[np.float32]]
    """N of each of :func:`fastseg.data.augment.parameter_names`, by their names."""
    records: Sequence[int]
    """Indexes of the records in the split; not for the graph."""


class Frames(NamedTuple):
    """A batch for the evaluation graph, encoded."""

    image: Arrays
    mask: Arrays
    """Encoded masks; empty arrays in a split without masks."""
    records: Sequence[int]
    """Indexes of the records in the split; not for the graph."""


DECODING = ("image", "mask", "image_start", "mask_start", "shape")
RESIZING = ("region_start", "region_end", "size", "pad_start")
"""Fields of :class:`Crops`, by the operators that take them."""


@pipeline_def
def train_graph(source: Callable[[], Crops], augment: AugmentConfig, fill: Color, device: str, codec: str) -> Any:
    """Make crops as ``source`` says: image uint8 h×w×3 and mask uint8 h×w×1 on ``device``."""
    steps = [switched_on(augment, moves_pixels) for moves_pixels in (False, True)]
    drawn = (name for step in steps for augmentation in step for name in augmentation.parameters)
    crops = feed(source, (*DECODING, *RESIZING, *drawn), device, codec)
    image, mask = _change(decode_image(crops, device, codec), decode_mask(crops, codec), crops, steps[0], fill)
    if device == "gpu":  # the GPU decodes neither masks nor PNGs
        image, mask = image.gpu(), mask.gpu()
    image, mask = dali_crop(image, mask, crops, augment.crop, fill)
    return _change(image, mask, crops, steps[1], fill)


@pipeline_def
def windows_graph(source: Callable[[], Crops], codec: str) -> Any:
    """Decode windows of images and masks on the CPU: uint8, of various sizes; :class:`CpuResizer` does the rest."""
    crops = feed(source, DECODING, "cpu", codec)
    return decode_image(crops, "cpu", codec), decode_mask(crops, codec)


def _change(image: Any, mask: Any, crops: Any, augmentations: Sequence[Augmentation], fill: Color) -> tuple[Any, Any]:
    for augmentation in augmentations:
        if augmentation.dali is None:
            raise UserError(
                "an augmentation of your own has no operator of DALI, and the GPU makes the crops; give it one, or "
                "let the CPU make them with --data.decoder cpu and --data.cache-frames off"
            )
        parameters = {name: getattr(crops, name) for name in augmentation.parameters}
        image, mask = augmentation.dali(image, mask, fill, **parameters)
    return image, mask


@pipeline_def
def eval_graph(source: Callable[[], Frames], device: str, codec: str, labeled: bool = True) -> Any:
    """Decode whole frames to ``device``: image uint8 H×W×3 and, of a ``labeled`` split, mask uint8 H×W×1."""
    needed = 2 if labeled else 1
    image, *masks = fn.external_source(lambda: source()[:needed], num_outputs=needed, no_copy=True)
    image = fn.decoders.image(image, output_type=types.RGB, **_decoder(device, codec))
    outputs = (image, *(fn.decoders.image(mask, output_type=types.GRAY) for mask in masks))
    return tuple(output.gpu() for output in outputs) if device == "gpu" else outputs


def feed(source: Callable[[], Crops], fields: Sequence[str], device: str, codec: str) -> Any:
    """Feed the ``fields`` of the :class:`Crops` that ``source`` returns to nodes of a graph with the same names.

    A name of :func:`fastseg.data.augment.parameter_names` will do as well. The caller of the graph keeps the batch
    until its output is there: DALI reads CPU arrays in place.
    """
    if codec != DECODED:
        nodes = fn.external_source(lambda: _select(source(), fields), num_outputs=len(fields), no_copy=True)
        return SimpleNamespace(**dict(zip(fields, nodes, strict=True)))
    # One batch for two nodes, which may ask in any order: frames lie on the device, the rest on the CPU. On a GPU DALI
    # copies the frames, 67 MB for 8 of 2048×1024, 0.04 ms at 3.35 TB/s: only a copy is ordered behind torch's stream,
    # on which a frame may still be on its way into memory.
    first, second = tee(iter(source, None))
    frames, rest = fields[:2], fields[2:]
    nodes = [
        *fn.external_source(
            (_select(crops, frames) for crops in first), 2, device=device, layout="HWC", no_copy=device == "cpu"
        ),
        *fn.external_source((_select(crops, rest) for crops in second), len(rest), no_copy=True),
    ]
    return SimpleNamespace(**dict(zip(fields, nodes, strict=True)))


def _select(crops: Crops, fields: Sequence[str]) -> tuple[Any, ...]:
    return tuple(crops.parameters[name] if name in crops.parameters else getattr(crops, name) for name in fields)


def decode_image(crops: Any, device: str, codec: str) -> Any:
    """Decode the windows of the images: uint8 of ``shape``."""
    return _window(crops.image, crops.image_start, crops.shape, codec, types.RGB, **_decoder(device, codec))


def decode_mask(crops: Any, codec: str) -> Any:
    """Decode the windows of the masks: uint8; files on the CPU."""
    return _window(crops.mask, crops.mask_start, crops.shape, codec, types.GRAY, device="cpu")


def _decoder(device: str, codec: str) -> dict[str, Any]:
    """Choose an image's decoder: the GPU for JPEGs only, since under "mixed" PNGs fall back to the CPU silently."""
    if device == "cpu" or codec != "jpg":
        return {"device": "cpu"}
    # Halved chroma is interpolated as the CPU's decoder does it, so that both see the same pixels.
    return {"device": "mixed", "jpeg_fancy_upsampling": True}


def _window(source: Any, start: Any, shape: Any, codec: str, output_type: Any, **decoder: Any) -> Any:
    """Cut the window out of a file or of a decoded frame."""
    window = {"start": start, "shape": shape, "axes": [0, 1]}
    if codec == DECODED:
        return fn.slice(source, **window)
    if decoder["device"] == "cpu":
        return fn.decoders.image_slice(source, **window, output_type=output_type)
    # The GPU's decoder is never asked for a region: nvImageCodec 0.9 fails or crashes
    # (https://github.com/NVIDIA/nvImageCodec/issues/55). A file is cut to its tiles already.
    return fn.slice(fn.decoders.image(source, output_type=output_type, **decoder), **window)


def run(pipeline: Any) -> Any:
    """Return one batch of each output, on a GPU in the order of torch's current stream."""
    return pipeline.run(torch.cuda.current_stream(pipeline.device_id) if pipeline.device_id is not None else None)


def to_torch(output: Any, device: torch.device, out: torch.Tensor | None = None) -> torch.Tensor:
    """Copy a dense output of DALI into memory of torch's on ``device``, or into ``out``, which is contiguous.

    On a GPU in the order of torch's current stream, without waiting. A tensor that shared DALI's memory (DLPack) would
    wait for the whole device when it is released, and a batch takes only about 10 µs to copy.
    """
    if out is None:
        out = torch.empty(output.shape(), dtype=torch.uint8, device=device)
    from_gpu = isinstance(output, (TensorGPU, TensorListGPU))
    if from_gpu or device.type == "cpu":
        feed_ndarray(output, out, cuda_stream=torch.cuda.current_stream(device) if from_gpu else None)
        return out
    # From the CPU's memory to a GPU: by pinned memory, from which it is copied while the host goes on.
    staged = torch.empty(output.shape(), dtype=torch.uint8, pin_memory=True)
    feed_ndarray(output, staged)
    return out.copy_(staged, non_blocking=True)


class CpuResizer:
    """Makes crops of decoded windows by ``threads`` threads, each of which takes one sample at a time."""

    def __init__(self, augment: AugmentConfig, fill: Color, threads: int, pinned: bool = False) -> None:
        """Start the threads. ``pinned``: put batches into pinned memory, which a GPU copies while it computes."""
        self._pinned, self._crop, self._fill = pinned, augment.crop, fill
        self._row = np.tile(np.array(fill, np.uint8), (augment.crop[1], 1))
        self._before, self._after = (switched_on(augment, moves_pixels) for moves_pixels in (False, True))
        # A thread per sample: were the libraries to split each image too, threads would wait for each other.
        cv2.setNumThreads(1)
        mine = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, "fastseg-resize", initializer=torch.set_num_threads, initargs=(1,))
        # Start all threads now: one that started later would set the number of threads of those after it.
        together = Barrier(threads)
        list(self._pool.map(lambda _: together.wait(), range(threads)))
        torch.set_num_threads(mine)

    def __call__(self, images: Sequence[Any], masks: Sequence[Any], crops: Crops) -> tuple[Tensor, Tensor]:
        """Make a batch of windows, uint8 H×W×3 and H×W×1 of DALI, N each, as ``crops`` says.

        Returns uint8 N×h×w×3 and N×h×w×1.
        """
        out, labels = (
            torch.empty(len(images), *self._crop, channels, dtype=torch.uint8, pin_memory=self._pinned)
            for channels in (3, 1)
        )
        finished = zip(out.numpy(), labels.numpy()[..., 0], strict=True)
        list(self._pool.map(self._make, images, masks, range(len(images)), repeat(crops), finished))
        return out, labels

    def _make(self, image: Any, mask: Any, i: int, crops: Crops, out: tuple[Pixels, Pixels]) -> None:
        """Make the crop of sample ``i`` of the batch, into ``out``."""
        numbers = {name: float(values[i]) for name, values in crops.parameters.items()}
        (height, width), (top, left) = crops.size[i].astype(int).tolist(), (-crops.pad_start[i]).tolist()
        change = partial(self._change, self._before, numbers)
        windows = np.asarray(image), np.asarray(mask)[..., 0]
        cpu_crop(*windows, (height, width), (top, left), bool(crops.flip[i]), self._row, change, out)
        self._change(self._after, numbers, *out)

    def _change(
        self, augmentations: Sequence[Augmentation], numbers: dict[str, float], image: Pixels, mask: Pixels
    ) -> None:
        for augmentation in augmentations:
            own = {name: numbers[name] for name in augmentation.parameters}
            augmentation.cpu(image, mask, self._fill, **own)
