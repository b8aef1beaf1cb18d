"""nvImageCodec decodes only the window of JPEG and TIFF or PNG; the rest by OpenCV or, on a GPU, torch.

On the CPU it is libjpeg-turbo and libtiff behind one interface; on a GPU nvJPEG decodes a batch in one call.
See _opencv.py: on the CPU its images are not antialiased.
"""

import os
from collections.abc import Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.peers import nothing, worker_counts
from bench.stages.frames import Draw, Drawn, Frames, Work
from fastseg.data.augment import Window

if TYPE_CHECKING:
    from torch import Tensor

NAME = "nvImageCodec + OpenCV"
REQUIRES = ("nvidia-nvimgcodec-cu13", "opencv-python-headless")
prepare = nothing


def candidates(cores: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Return candidates by decoder, number of workers, and format of the masks."""
    ways = ("cuda", "cpu") if device == "cuda" else ("cpu",)
    return [
        {"decode": way, "workers": workers, "masks": masks}
        for way in ways
        for workers in worker_counts(cores)
        for masks in ("tif", "png")
    ]


def batches(
    frames: Frames, work: Work, workers: int, masks: str = "png", decode: str = "cpu"
) -> Iterator[tuple["Tensor", "Tensor"]]:
    """Yield endless uint8 N×H×W×3 images and N×H×W labels."""
    from bench.peers._samples import Files, from_files, hand_over

    if decode == "cuda":
        from bench.peers._cuda import batches_decoded_on_gpu

        return batches_decoded_on_gpu(frames, work, workers, _show_on_gpu, masks)
    dataset = Files(frames, work, partial(sample, work=work), mask=masks)
    return hand_over(from_files(dataset, work, workers), work)


def sample(image: bytes, mask: bytes, draw: Draw, work: Work, **_settings: Any) -> tuple["Tensor", "Tensor"]:
    """Decode the window only, and augment it: uint8 h×w×3 and h×w."""
    from nvidia import nvimgcodec

    from bench.peers import _opencv

    coded = nvimgcodec.CodeStream(image)
    drawn = draw((coded.height, coded.width))
    decoder, gray = _decoder("cpu", os.getpid())
    frame = np.asarray(decoder.decode(_region(coded, drawn.window)))
    labels = np.asarray(decoder.decode(_region(nvimgcodec.CodeStream(mask), drawn.window), params=gray))
    return _opencv.finish(frame, labels, drawn, work)


def _region(coded: Any, window: Window) -> Any:
    """Return the region of a coded image that the window shows."""
    from nvidia import nvimgcodec

    region = nvimgcodec.Region(window.top, window.left, window.bottom, window.right)
    return coded.get_sub_code_stream(region=region)


@cache
def _decoder(device: str, _process: int) -> tuple[Any, Any]:
    """Return a decoder and its parameters for masks; one per process, as threads do not survive a fork."""
    from nvidia import nvimgcodec

    gray = nvimgcodec.DecodeParams(color_spec=nvimgcodec.ColorSpec.GRAY)
    if device == "cuda":
        return nvimgcodec.Decoder(), gray
    backends = [nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)]
    cpu = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY
    return nvimgcodec.Decoder(device_id=cpu, backends=backends, max_num_cpu_threads=1), gray


def _show_on_gpu(images: list[bytes], drawn: list[Drawn], work: Work) -> list["Tensor"]:
    import torch
    from nvidia import nvimgcodec

    from bench.peers.torchvision_v2 import show_image

    coded = [_region(nvimgcodec.CodeStream(image), one.window) for image, one in zip(images, drawn, strict=True)]
    decoder, _ = _decoder("cuda", os.getpid())
    stream = torch.cuda.current_stream().cuda_stream
    frames = [torch.from_dlpack(frame).permute(2, 0, 1) for frame in decoder.decode(coded, cuda_stream=stream)]
    return [show_image(frame, _whole(one), work) for frame, one in zip(frames, drawn, strict=True)]


def _whole(drawn: Drawn) -> Drawn:
    """Return the same crop, of a frame that is cut to its window already."""
    w = drawn.window
    return drawn._replace(window=w._replace(top=0, left=0, bottom=w.bottom - w.top, right=w.right - w.left))
