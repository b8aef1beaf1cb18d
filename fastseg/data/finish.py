"""The last steps of the training graph on a CPU: resize, flip and pad the windows that DALI decoded.

DALI's bilinear resize takes 9 ms for a 768² image on one core, torch's 2: its kernel for bytes works on several
channels at once (AVX2, https://github.com/pytorch/pytorch/pull/90771). Nearest neighbours of a mask take DALI and torch
1.2 ms, Pillow 0.3. On a GPU the graph does it all.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from fastseg.data.draws import Augmentation
from fastseg.data.pipeline import Crops
from fastseg.labels import IGNORE


class Finisher:
    """Finishes batches by ``threads`` threads, each of which takes one sample at a time."""

    def __init__(self, augmentation: Augmentation, threads: int, pinned: bool = False) -> None:
        """``pinned``: batches lie in memory from which a GPU copies while it computes."""
        self._pinned = pinned
        self._crop, self._fill = augmentation.crop, torch.tensor(augmentation.fill, dtype=torch.uint8)
        # A thread per sample: were torch to split each image too, threads would wait for each other.
        mine = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, "fastseg-resize", initializer=torch.set_num_threads, initargs=(1,))
        # All start now: one that started later would set the number of threads of whoever comes after it.
        together = Barrier(threads)
        list(self._pool.map(lambda _: together.wait(), range(threads)))
        torch.set_num_threads(mine)

    def __call__(self, images: Sequence[Any], masks: Sequence[Any], crops: Crops) -> tuple[Tensor, Tensor]:
        """Windows, uint8 H×W×3 and H×W×1 of DALI, and the batch that they were decoded from: N each.

        Returns uint8 N×h×w×3 and N×h×w×1.
        """
        out, labels = (
            torch.empty(len(images), *self._crop, channels, dtype=torch.uint8, pin_memory=self._pinned)
            for channels in (3, 1)
        )
        size, pad = crops.size.astype(int).tolist(), (-crops.pad_start).tolist()
        flip = (crops.region_start[:, 1] > 0).tolist()
        list(self._pool.map(self._finish, images, masks, size, pad, flip, out, labels))
        return out, labels

    def _finish(
        self, image: Any, mask: Any, size: list[int], pad: list[int], flip: bool, out: Tensor, labels: Tensor
    ) -> None:
        shown, nearest = _bilinear(image, size), _nearest(mask, size)
        if flip:
            shown, nearest = shown.flip(1), nearest.flip(1)
        if tuple(size) != self._crop:
            out[:], labels[:] = self._fill, IGNORE
        place = slice(pad[0], pad[0] + size[0]), slice(pad[1], pad[1] + size[1])
        out[place], labels[place] = shown, nearest


def _bilinear(image: Any, size: list[int]) -> Tensor:
    """Antialiased."""
    # Channels-last with its batch dimension of one, which the fast kernel insists on.
    frame = torch.from_dlpack(image)[None].permute(0, 3, 1, 2)
    return interpolate(frame, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)


def _nearest(mask: Any, size: list[int]) -> Tensor:
    resized = Image.fromarray(np.asarray(mask)[..., 0]).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized))[..., None]
