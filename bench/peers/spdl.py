"""SPDL: a pipeline of threads. Its own decoder (FFmpeg, which also crops, resizes and flips) or OpenCV inside.

Without FFmpeg's libraries on the machine only OpenCV is tried. FFmpeg's resize antialiases; see _opencv.py for the
other. FFmpeg cuts and resizes in one, so that colors change afterwards, by OpenCV. On a GPU, images may be decoded by
nvJPEG and augmented by torch.
"""

from collections.abc import Iterator
from ctypes.util import find_library
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.peers import nothing, worker_counts
from bench.stages.frames import Draw, Frames, Work
from fastseg.data.augment import Window
from fastseg.labels import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

NAME = "SPDL"
REQUIRES = ("spdl-core", "spdl-io", "opencv-python-headless")
prepare = nothing
QUEUE = 2
"""Length of the queue of finished batches."""


def candidates(cores: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Return candidates by decoder, format of the masks, and number of threads."""
    decoders = [("opencv", "tif"), ("opencv", "png")]
    decoders += [("ffmpeg", "tif")] if has_ffmpeg() else []
    decoders += [("nvjpeg", "tif")] if device == "cuda" else []
    return [
        {"decoder": decoder, "masks": masks, "threads": threads}
        for decoder, masks in decoders
        for threads in worker_counts(cores)
    ]


def has_ffmpeg() -> bool:
    """Return whether FFmpeg's libraries are here, without SPDL, whose libraries install handlers for SIGTERM."""
    return find_library("avfilter") is not None


def batches(
    frames: Frames, work: Work, threads: int, decoder: str = "opencv", masks: str = "png"
) -> Iterator[tuple["Tensor", "Tensor"]]:
    """Yield endless uint8 N×H×W×3 images and N×H×W labels."""
    from spdl.pipeline import PipelineBuilder

    from bench.peers._cuda import encoded_sample
    from bench.peers._samples import Endless, Files, hand_over

    on_gpu = decoder == "nvjpeg"
    make: Any = partial(encoded_sample, work=work) if on_gpu else partial(sample, work=work, decoder=decoder)
    finish: Any = partial(_show_on_gpu if on_gpu else _batch, work=work)
    dataset = Files(frames, work, make, mask=masks)
    builder: PipelineBuilder[Any, Any] = PipelineBuilder()
    pipeline = (
        builder.add_source(Endless(len(dataset), work.seed))
        .pipe(dataset.__getitem__, concurrency=threads)
        .aggregate(work.batch)
        .pipe(finish)
        .add_sink(QUEUE)
        .build(num_threads=threads, max_failures=0)
    )
    with pipeline.auto_stop():
        yield from hand_over(pipeline, work)


def sample(
    image: bytes, mask: bytes, draw: Draw, work: Work, decoder: str = "opencv", **_settings: Any
) -> tuple["Tensor", "Tensor"]:
    """Decode and augment one sample: uint8 h×w×3 and h×w."""
    from bench.peers import _opencv
    from bench.peers._colors import color

    if decoder == "opencv":
        return _opencv.sample(image, mask, draw, work)
    import spdl.io

    packets = spdl.io.demux_image(image)
    window, colors = draw((packets.height, packets.width))
    # swscale's most exact mode: its default rounds chroma.
    shown = color(_filter(packets, window, "bilinear+accurate_rnd+full_chroma_int", "rgb24"), colors)
    labels = _filter(spdl.io.demux_image(mask), window, "neighbor", "gray")[..., 0]
    return _opencv.pad(shown, window, work, work.fill), _opencv.pad(labels, window, work, IGNORE)


def _filter(packets: Any, window: Window, flags: str, pixels: str) -> np.ndarray:
    """Decode an image and augment the window by FFmpeg's filters."""
    import spdl.io

    height, width = window.bottom - window.top, window.right - window.left
    filters = [
        f"crop={width}:{height}:{window.left}:{window.top}:exact=1",
        f"scale={window.width}:{window.height}:flags={flags}",
        *(["hflip"] if window.flip else []),
        f"format={pixels}",
    ]
    frames = spdl.io.decode_packets(packets, filter_desc=",".join(filters))
    return spdl.io.to_numpy(spdl.io.convert_frames(frames))


def _batch(samples: list[tuple["Tensor", "Tensor"]], work: Work) -> tuple["Tensor", "Tensor"]:
    from bench.peers._samples import stacked

    image, label = stacked(samples)
    return (image.pin_memory(), label.pin_memory()) if work.device == "cuda" else (image, label)


def _show_on_gpu(samples: list[Any], work: Work) -> tuple["Tensor", "Tensor"]:
    """Decode the images by nvJPEG, all on torch's stream, since torch allocates the memory."""
    import spdl.io
    import torch

    from bench.peers._cuda import collate
    from bench.peers.torchvision_v2 import show_image

    images, drawn, labels = collate(samples)
    allocator = (torch.cuda.caching_allocator_alloc, torch.cuda.caching_allocator_delete)
    config = spdl.io.cuda_config(
        torch.cuda.current_device(), stream=torch.cuda.current_stream().cuda_stream, allocator=allocator
    )
    frames = [spdl.io.to_torch(spdl.io.decode_image_nvjpeg(image, device_config=config)) for image in images]
    shown = [show_image(frame, one, work) for frame, one in zip(frames, drawn, strict=True)]
    return torch.stack(shown), labels.pin_memory()
