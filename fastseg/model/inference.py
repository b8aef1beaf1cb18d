"""From frames to train ids or probabilities: at once, in windows, at several scales and mirrored."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from fastseg.errors import UserError, shown
from fastseg.model.network import Logits, resize, upsample

Network = Callable[[Tensor], Logits]
"""uint8 N×H×W×3 → logits at the output stride; a :class:`.SegmentationNetwork` in evaluation mode."""


@dataclass(frozen=True)
class TtaViews:
    """The views of a frame whose predictions are averaged (test-time augmentation)."""

    scales: tuple[float, ...] = (1.0,)
    """Factors by which the frame is resized, 1 = its own size."""
    flip: bool = False
    """Whether to add the views mirrored left-right."""
    window: tuple[int, int] | None = None
    """Height and width of sliding windows, in pixels of the scaled frame; None: the whole frame at once."""

    def __post_init__(self) -> None:
        """Raise :class:`UserError` for invalid scales and windows."""
        if not self.scales or not all(0 < scale <= 16 for scale in self.scales):
            raise UserError(f"the scales are {self.scales}; each must be above 0 and at most 16, and one is needed")
        if self.window is not None and not _is_size(self.window):
            raise UserError(
                f"the window is {shown(self.window)}; it must be a height and a width in pixels, both 1 or more"
            )

    def check(self, stretch_to: object) -> None:
        """Refuse windows and scales for a network that stretches its input to ``stretch_to`` (height, width)."""
        if stretch_to and (self.window or self.scales != (1.0,)):
            raise UserError(
                "the network was trained on stretched frames (--data.resize stretch) and sees every frame so; "
                "leave out --tta and --window"
            )

    @property
    def plain(self) -> bool:
        """Return whether there is only one view, the frame itself."""
        return self.scales == (1.0,) and not self.flip


def _is_size(value: object) -> bool:
    sides = value if isinstance(value, (tuple, list)) else ()
    return len(sides) == 2 and all(isinstance(side, int) and side >= 1 for side in sides)


MULTI_SCALE = TtaViews(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)
"""Views of the multi-scale figures of mmsegmentation and the DeepLab papers on Cityscapes."""
ONCE = TtaViews()


@torch.inference_mode()
def predict(model: Network, image: Tensor, views: TtaViews = ONCE) -> Tensor:
    """Return the train id of every pixel: uint8 N×H×W×3 → uint8 N×H×W."""
    scores = _logits(model, image, views.window) if views.plain else probabilities(model, image, views)
    return scores.argmax(1).to(torch.uint8)


@torch.inference_mode()
def probabilities(model: Network, image: Tensor, views: TtaViews = ONCE) -> Tensor:
    """Return the probability of each class at every pixel: uint8 N×H×W×3 → float32 N×C×H×W.

    Averages softmax(logits at full resolution) over all views, as in mmsegmentation's SegTTAModel
    (https://github.com/open-mmlab/mmsegmentation/blob/main/mmseg/models/segmentors/seg_tta.py), but a view's
    logits are resized only once, and smaller views are resized with antialiasing, as in training. Holds about four
    tensors of the result's size, for any number of views.
    """
    size = (image.shape[1], image.shape[2])
    total: Tensor | None = None
    for scale in views.scales:
        resized = _resize(image, scale)
        for mirrored in (False, True) if views.flip else (False,):
            view = resized.flip(2) if mirrored else resized
            part = _logits(model, view, views.window, size).softmax(1)
            part = part.flip(3) if mirrored else part
            total = part if total is None else total.add_(part)
    assert total is not None  # there is at least one scale
    return total.div_(len(views.scales) * (1 + views.flip))


def _resize(image: Tensor, scale: float) -> Tensor:
    """Resize bytes N×H×W×3 → N×h×w×3."""
    if scale == 1:
        return image
    height, width = (max(int(side * scale + 0.5), 1) for side in image.shape[1:3])
    return resize(image, (height, width))


def _logits(
    model: Network, image: Tensor, window: tuple[int, int] | None, size: tuple[int, int] | None = None
) -> Tensor:
    """Return the logits of ``image`` at ``size`` (None: its own), float32 N×C×H×W."""
    own = (image.shape[1], image.shape[2])
    size = size or own
    if not window or (window[0] >= own[0] and window[1] >= own[1]):
        return upsample(model(image).out, size)
    logits = _slide(model, image, window)
    return logits if size == own else upsample(logits, size)


def _slide(model: Network, image: Tensor, window: tuple[int, int]) -> Tensor:
    """Return the logits of overlapping windows, averaged where they overlap, at the size of ``image``.

    Runs one window of the batch at a time, as mmsegmentation's slide_inference with a stride of two thirds
    (https://github.com/open-mmlab/mmsegmentation/blob/main/mmseg/models/segmentors/encoder_decoder.py).
    """
    rows, columns = (list(_spans(image.shape[i + 1], window[i])) for i in (0, 1))
    total: Tensor | None = None
    count = torch.zeros(image.shape[1:3], device=image.device)
    for (top, bottom), (left, right) in product(rows, columns):
        part = image[:, top:bottom, left:right].contiguous()
        logits = upsample(model(part).out, (bottom - top, right - left))
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], *image.shape[1:3])
        total[:, :, top:bottom, left:right] += logits
        count[top:bottom, left:right] += 1
    assert total is not None  # there is at least one window
    return total.div_(count)


def _spans(length: int, window: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of windows that overlap by a third; the last one ends at the border."""
    stride = max(round(window * 2 / 3), 1)
    steps = max(-(-(length - window) // stride), 0)
    for i in range(steps + 1):
        end = min(i * stride + window, length)
        yield max(end - window, 0), end
