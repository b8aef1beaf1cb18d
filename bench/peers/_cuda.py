"""Batches whose images a GPU decodes and augments, for the peers that can: workers do only the labels."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from bench.peers._colors import opencv
from bench.peers._opencv import decode
from bench.peers._samples import Files, from_files
from bench.peers.torchvision_v2 import show_labels
from bench.stages.frames import Draw, Drawn, Frames, Work

Show = Callable[[list[bytes], list[Drawn], Work], list[Tensor]]
"""Encoded images and what is drawn for them → h×w×3 each, on the GPU."""
_Sample = tuple[bytes, Drawn, Tensor]


def batches_decoded_on_gpu(
    frames: Frames, work: Work, workers: int, show: Show, mask: str = "png"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield endless uint8 N×H×W×3 images and N×H×W labels."""
    dataset = Files(frames, work, partial(encoded_sample, work=work), mask=mask)
    for images, drawn, labels in from_files(dataset, work, workers, collate_fn=collate):
        yield torch.stack(show(images, drawn, work)), labels.to(work.device, non_blocking=True)


def encoded_sample(image: bytes, mask: bytes, draw: Draw, work: Work) -> _Sample:
    """Return the encoded image, what is drawn for it, and the window's labels."""
    labels = torch.from_numpy(decode(mask, opencv().IMREAD_GRAYSCALE))
    drawn = draw((labels.shape[0], labels.shape[1]))
    return image, drawn, show_labels(labels[None], drawn.window, work)


def collate(samples: list[_Sample]) -> tuple[list[bytes], list[Drawn], Tensor]:
    """Return a batch, with lists for what has no common shape."""
    images, drawn, labels = zip(*samples, strict=True)
    return list(images), list(drawn), torch.stack(labels)
