"""The last steps of the training graph on a CPU, by torch: resize, flip and pad the windows that DALI decoded.

DALI's bilinear resize takes 9 ms for a 768² image on one core, torch's 2 ms: its kernel for bytes works on several
channels at once (AVX2; https://github.com/pytorch/pytorch/pull/90771). On a GPU the graph does it all.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from fastseg.data.draws import Augmentation


class Finisher:
    """Finishes batches by ``threads`` threads, each of which takes one image at a time."""

    def __init__(self, augmentation: Augmentation, threads: int) -> None:
        self._crop, self._fill = augmentation.crop, torch.tensor(augmentation.fill, dtype=torch.uint8)
        # A thread per image: were torch to split each image too, threads would wait for each other.
        mine = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, "fastseg-resize", initializer=torch.set_num_threads, initargs=(1,))
        list(self._pool.map(int, range(threads)))
        torch.set_num_threads(mine)

    def __call__(
        self, windows: Sequence[Any], size: NDArray[np.int32], before: NDArray[np.int32], flip: NDArray[np.int32]
    ) -> torch.Tensor:
        """uint8 windows H×W×3 that speak DLPack, and the other numbers of :class:`Crops` → uint8 N×h×w×3."""
        out = torch.empty(len(windows), *self._crop, 3, dtype=torch.uint8)
        list(self._pool.map(self._finish, windows, size.tolist(), before.tolist(), flip.tolist(), out))
        return out

    def _finish(self, window: Any, size: list[int], before: list[int], flip: int, out: torch.Tensor) -> None:
        # Channels-last with its batch dimension of one, which the fast kernel insists on.
        frame = torch.from_dlpack(window)[None].permute(0, 3, 1, 2)
        image = interpolate(frame, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        image = image.flip(1) if flip else image
        if tuple(size) != self._crop:
            out[:] = self._fill
        out[before[0] : before[0] + size[0], before[1] : before[1] + size[1]] = image
