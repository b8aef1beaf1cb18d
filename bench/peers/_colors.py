"""Change the colors of a window by the matrix drawn for it, in the fastest way that the peers' libraries have.

Colors change where there are fewer pixels: in the window before it is resized, or afterwards.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bench.stages.frames import Colors, Drawn

if TYPE_CHECKING:
    from torch import Tensor


@cache
def opencv() -> Any:
    """Return OpenCV with its threads switched off: the loader has its workers."""
    import cv2

    cv2.setNumThreads(0)
    return cv2


def before(drawn: Drawn) -> Colors:
    """Return the matrix if colors change before the window is resized."""
    return drawn.colors if _grows(drawn) else None


def after(drawn: Drawn) -> Colors:
    """Return the matrix if colors change after the window was resized."""
    return None if _grows(drawn) else drawn.colors


def _grows(drawn: Drawn) -> bool:
    window = drawn.window
    return window.height >= window.bottom - window.top and window.width >= window.right - window.left


def color(image: np.ndarray, colors: Colors) -> np.ndarray:
    """Change uint8 h×w×3 on the CPU."""
    return image if colors is None else cast(np.ndarray, opencv().transform(image, colors))


def color_tensor(image: "Tensor", colors: Colors) -> "Tensor":
    """Change uint8 3×h×w on its device; fast if its memory is channels-last, which it then stays."""
    import torch

    if colors is None:
        return image
    pixels = image.permute(1, 2, 0)
    if not image.is_cuda:
        return torch.from_numpy(color(pixels.numpy(), colors)).permute(2, 0, 1)
    return color_by_product(pixels, colors).permute(2, 0, 1)


def color_by_product(pixels: "Tensor", colors: np.ndarray) -> "Tensor":
    """Change uint8 h×w×3 by a matrix product of torch, as a GPU does it best."""
    import torch

    matrix = torch.from_numpy(colors.astype(np.float32)).to(pixels.device, non_blocking=True)
    changed = torch.addmm(matrix[:, 3], pixels.reshape(-1, 3).float(), matrix[:, :3].T)
    return changed.round_().clamp_(0, 255).byte().view(pixels.shape)
