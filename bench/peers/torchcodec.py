"""torchcodec decodes JPEG and PNG, transforms.v2 augments uint8 tensors, torch's DataLoader loads.

On a GPU it may also decode a batch in one call and augment the images there; labels stay with the workers.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from bench.peers import nothing, worker_counts
from bench.stages.frames import Draw, Drawn, Frames, Work

if TYPE_CHECKING:
    from torch import Tensor

NAME = "torchcodec + torchvision v2"
REQUIRES = ("torchcodec", "torchvision")
prepare = nothing


def candidates(cores: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Return candidates by decoder and number of workers."""
    ways = ("cuda", "cpu") if device == "cuda" else ("cpu",)
    return [{"decode": way, "workers": workers} for way in ways for workers in worker_counts(cores)]


def batches(frames: Frames, work: Work, workers: int, decode: str = "cpu") -> Iterator[tuple["Tensor", "Tensor"]]:
    """Yield endless uint8 N×H×W×3 images and N×H×W labels."""
    from bench.peers._samples import Files, from_files, hand_over

    if decode == "cuda":
        from bench.peers._cuda import batches_decoded_on_gpu

        return batches_decoded_on_gpu(frames, work, workers, _decode_on_gpu)
    return hand_over(from_files(Files(frames, work, partial(sample, work=work)), work, workers), work)


def sample(
    image: bytes, mask: bytes, draw: Draw, work: Work, decode: str = "cpu", **_settings: Any
) -> tuple["Tensor", "Tensor"]:
    """Decode and augment one sample: uint8 h×w×3 and h×w."""
    from torchcodec.decoders import decode_jpeg, decode_png

    from bench.peers.torchvision_v2 import show_image, show_labels

    frame = cast("Tensor", decode_jpeg(image, device=decode))
    labels = decode_png(mask, mode="GRAY")
    drawn = draw((frame.shape[1], frame.shape[2]))
    return show_image(frame, drawn, work), show_labels(labels, drawn.window, work)


def _decode_on_gpu(images: list[bytes], drawn: list[Drawn], work: Work) -> list["Tensor"]:
    from torchcodec.decoders import decode_jpeg

    from bench.peers.torchvision_v2 import show_image

    frames = decode_jpeg(images, device="cuda")
    return [show_image(frame, one, work) for frame, one in zip(frames, drawn, strict=True)]
