"""Endless reshuffled samples and the copy to the device, for the peers that use torch's DataLoader."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from bench.stages.frames import Draw, Frames, Work

Ticket = tuple[int, int]
"""Epoch and sample, from which the crop is drawn."""
Make = Callable[[bytes, bytes, Draw], Any]
"""Encoded image, encoded mask, draw → a sample."""


class Endless(Sampler[Ticket]):
    """Endless epochs of all samples, reshuffled each time.

    The end of an epoch would empty the workers' queues, and with few frames it would come often.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __iter__(self) -> Iterator[Ticket]:
        epoch = 0
        while True:
            for sample in np.random.default_rng((self.seed, epoch)).permutation(self.samples):
                yield epoch, int(sample)
            epoch += 1


class Files(Dataset[Any]):
    """The training frames from their files, each processed by the peer."""

    def __init__(self, frames: Frames, work: Work, make: Make, image: str = "jpg", mask: str = "png") -> None:
        self._paths = [(str(frames.image(key, image)), str(frames.mask(key, mask))) for key in frames.keys]
        self._work, self._make = work, make

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, ticket: Ticket) -> Any:
        image, mask = (read(path) for path in self._paths[ticket[1]])
        return self._make(image, mask, self._work.draw_for(*ticket))


def read(path: str) -> bytes:
    """Return all bytes of a file."""
    with open(path, "rb") as file:  # noqa: PTH123 - a Path would be built for every sample
        return file.read()


def from_files(dataset: Files, work: Work, workers: int, **options: Any) -> Iterable[Any]:
    """Return torch's DataLoader over an endless dataset of files."""
    return DataLoader(
        dataset,
        work.batch,
        sampler=Endless(len(dataset), work.seed),
        num_workers=workers,
        pin_memory=work.device == "cuda",
        **options,
    )


def hand_over(batches: Iterable[Any], work: Work) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of (image, label) on the device; from pinned memory the copy overlaps with the work there."""
    for image, label in batches:
        yield image.to(work.device, non_blocking=True), label.to(work.device, non_blocking=True)


def stacked(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Stack samples into a batch."""
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)


def own_numbers(seed: int) -> np.random.Generator:
    """Return this worker's random generator, for loaders that do not tell epoch and sample."""
    worker = get_worker_info()
    return _numbers(seed, worker.id if worker else 0)


@cache
def _numbers(seed: int, worker: int) -> np.random.Generator:
    return np.random.default_rng((seed, worker))
