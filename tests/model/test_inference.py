"""Views of a frame against a plain implementation: views one by one, windows pixel by pixel, then the mean."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastseg.errors import UserError
from fastseg.model.inference import MULTI_SCALE, TtaViews, predict, probabilities
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, Logits, SegmentationNetwork

CLASSES = 5


class Convolution(torch.nn.Module):
    """A network of one strided convolution: neither even under mirroring nor the same at two scales."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = torch.nn.Conv2d(3, CLASSES, 5, stride=4, padding=2)

    def forward(self, image: torch.Tensor) -> Logits:
        assert image.dtype == torch.uint8
        return Logits(self.layer(image.permute(0, 3, 1, 2) / 64.0), None)


@pytest.fixture
def network() -> Convolution:
    return Convolution().eval()


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 45, 70, 3), np.uint8))


def reference(network: Convolution, frame: torch.Tensor, views: TtaViews) -> torch.Tensor:
    """C×H×W probabilities of one frame H×W×3, one view and one window at a time, all kept until the mean is taken."""
    height, width = frame.shape[:2]
    found = []
    for scale in views.scales:
        h, w = int(height * scale + 0.5), int(width * scale + 0.5)
        planes = frame.permute(2, 0, 1)[None].float()
        resized = F.interpolate(planes, (h, w), mode="bilinear", antialias=True, align_corners=False)
        resized = resized.round().to(torch.uint8)[0].permute(1, 2, 0)
        for flip in [False, True][: 1 + views.flip]:
            seen = torch.from_numpy(resized.numpy()[:, ::-1].copy()) if flip else resized
            logits = by_windows(network, seen, views.window)
            full = F.interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)[0]
            shares = full.exp() / full.exp().sum(0)
            found.append(torch.from_numpy(shares.numpy()[:, :, ::-1].copy()) if flip else shares)
    return torch.stack(found).mean(0)


def by_windows(network: Convolution, frame: torch.Tensor, window: tuple[int, int] | None) -> torch.Tensor:
    """C×h×w logits; the whole frame's at the network's stride, since those are to be resized once."""
    height, width = frame.shape[:2]
    if window is None or (window[0] >= height and window[1] >= width):
        return network(frame[None]).out[0]
    sums, counts = torch.zeros(CLASSES, height, width), torch.zeros(height, width)
    for top, bottom in starts(height, window[0]):
        for left, right in starts(width, window[1]):
            part = network(frame[None, top:bottom, left:right]).out
            size = (bottom - top, right - left)
            sums[:, top:bottom, left:right] += F.interpolate(part, size, mode="bilinear", align_corners=False)[0]
            counts[top:bottom, left:right] += 1
    assert counts.min() >= 1
    return sums / counts


def starts(length: int, window: int) -> list[tuple[int, int]]:
    """Walk on by two thirds of the window until the border is reached; the last window is moved back to it."""
    stride, spans, start = round(2 * window / 3), [], 0
    while True:
        if start + window >= length:
            return [*spans, (max(length - window, 0), length)]
        spans.append((start, start + window))
        start += stride


@pytest.mark.parametrize(
    "views",
    [
        TtaViews(),
        TtaViews(flip=True),
        TtaViews(scales=(0.5, 1.0, 1.75)),
        TtaViews(window=(20, 30)),
        TtaViews(window=(24, 24), scales=(0.5, 1.5), flip=True),
        TtaViews(window=(20, 500)),
        TtaViews(window=(500, 500)),
        MULTI_SCALE,
    ],
    ids=str,
)
@torch.inference_mode()
def test_equals_the_mean_of_all_views(network: Convolution, frames: torch.Tensor, views: TtaViews) -> None:
    expected = torch.stack([reference(network, frame, views) for frame in frames])
    found = probabilities(network, frames, views)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 45, 70))
    best = predict(network, frames, views)
    assert best.dtype == torch.uint8
    # The same class, but where two are as likely as each other to the last digits.
    chosen = expected.gather(1, best[:, None].long())[:, 0]
    torch.testing.assert_close(chosen, expected.max(1).values, atol=2e-5, rtol=0)


@torch.inference_mode()
def test_views_change_the_answer(network: Convolution, frames: torch.Tensor) -> None:
    plain = probabilities(network, frames)
    for views in (TtaViews(flip=True), TtaViews(scales=(0.5,)), TtaViews(window=(20, 30))):
        assert (probabilities(network, frames, views) - plain).abs().max() > 0.01


def test_windows_hold_the_named_size() -> None:
    sizes = []

    def network(image: torch.Tensor) -> Logits:
        sizes.append(tuple(image.shape))
        return Logits(torch.zeros(image.shape[0], CLASSES, 4, 4), None)

    predict(network, torch.zeros(3, 1024, 2048, 3, dtype=torch.uint8), TtaViews(window=(769, 769)))
    assert sizes == [(3, 769, 769, 3)] * 8  # rows from 0 and 255; columns from 0, 513, 1026 and 1279


@torch.inference_mode()
def test_the_plain_view_is_the_argmax_of_upsampled_logits() -> None:
    torch.manual_seed(0)
    model = SegmentationNetwork("deeplabv3_mobilenet_v3_large", CLASSES, IMAGENET_MEAN, IMAGENET_STD, aux=False).eval()
    image = torch.randint(0, 256, (1, 40, 72, 3), dtype=torch.uint8)
    logits = F.interpolate(model(image).out, (40, 72), mode="bilinear", align_corners=False)
    assert (predict(model, image) == logits.argmax(1)).all()


def test_a_network_of_stretched_frames_has_one_view() -> None:
    for views in (TtaViews(window=(20, 30)), MULTI_SCALE):
        views.check(None)
        with pytest.raises(UserError, match="leave out --tta and --window"):
            views.check([64, 80])
    TtaViews().check([64, 80])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"scales": ()}, "scales are"),
        ({"scales": (1.0, 0.0)}, "above 0"),
        ({"scales": (float("nan"),)}, "above 0"),
        ({"window": (0, 64)}, r"window is \(0, 64\)"),
    ],
)
def test_views_of_nothing_are_refused(arguments: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        TtaViews(**arguments)
