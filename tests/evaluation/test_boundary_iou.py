"""Boundary IoU against the definition: each class's mask eroded by OpenCV, frame by frame."""

import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fastseg.evaluation.boundary_iou import boundary_distance
from fastseg.evaluation.metrics import BoundaryIoU, Frame

CLASSES = 5


def blobs(seed: int, size: tuple[int, int], ignored: bool) -> np.ndarray:
    """A smooth map of train ids, H×W, with regions of 255 if ``ignored``; class 4 never occurs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7), np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    ids = np.asarray(coarse) // 64
    void = Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.where((np.asarray(void) > 200) & ignored, 255, ids).astype(np.uint8)


def band(mask: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Pixels of a mask near its outline to labeled pixels or to what lies outside of the frame."""
    distance = max(round(0.02 * math.hypot(*mask.shape)), 1)
    grown = (mask | ignored).astype(np.uint8)
    framed = cv2.copyMakeBorder(grown, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return mask & (eroded == 0)


def expected(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    scores = []
    for c in range(CLASSES):
        hits = union = 0
        for truth, found in pairs:
            void = truth == 255
            bands = band(truth == c, void), band((found == c) & ~void, void)
            hits += (bands[0] & bands[1]).sum()
            union += (bands[0] | bands[1]).sum()
        scores.append(float(hits / union) if union else math.nan)
    return scores


def add(metric: BoundaryIoU, truth: np.ndarray, found: np.ndarray) -> None:
    """Show it a frame; of image and matrix it has no need."""
    empty = torch.empty(0)
    metric.update(Frame(0, empty, torch.from_numpy(truth), torch.from_numpy(found), empty))


@pytest.mark.parametrize("sizes", [[(60, 90), (60, 90)], [(128, 256), (300, 20), (3, 3)], [(1, 1)]], ids=str)
def test_equals_erosion_by_opencv(sizes: list[tuple[int, int]]) -> None:
    pairs = [(blobs(i, size, True), blobs(i + 100, size, False)) for i, size in enumerate(sizes)]
    counts = BoundaryIoU(CLASSES, torch.device("cpu"))
    for truth, found in pairs:
        add(counts, truth, found)
    assert counts.compute() == pytest.approx(expected(pairs), nan_ok=True)
    assert math.isnan(counts.compute()[4])


def test_a_perfect_prediction_scores_one_and_a_shifted_one_less_than_its_iou() -> None:
    truth = blobs(1, (200, 300), False)
    perfect, shifted = (BoundaryIoU(CLASSES, torch.device("cpu")) for _ in range(2))
    add(perfect, truth, truth)
    assert perfect.compute()[:4] == [1, 1, 1, 1]
    moved = np.roll(truth, 4, axis=1)
    add(shifted, truth, moved)
    for c, score in enumerate(shifted.compute()[:4]):
        assert 0 < score < ((truth == c) & (moved == c)).sum() / ((truth == c) | (moved == c)).sum()


def halves(edge: int) -> np.ndarray:
    """Class 0 on the left, class 1 from column ``edge`` on: 400×800."""
    return np.repeat((np.arange(800) >= edge).astype(np.uint8)[None], 400, axis=0)


def score(truth: np.ndarray, found: np.ndarray) -> list[float]:
    """Boundary IoU of both classes in one frame."""
    counts = BoundaryIoU(2, torch.device("cpu"))
    add(counts, truth, found)
    return counts.compute()


def test_outlines_of_what_is_ignored_are_met_by_nobody() -> None:
    truth, found = halves(400), halves(420)
    plain, striped = score(truth, found), truth.copy()
    for x in range(40, 360, 80):
        striped[:, x : x + 6] = 255
    # The stripes take pixels away along the frame's border alone, where every prediction is right.
    assert plain[0] - 0.02 < score(striped, found)[0] < plain[0] < 0.61
    assert score(striped, found)[1] == plain[1]


def test_what_is_predicted_for_ignored_pixels_does_not_count() -> None:
    truth = halves(400)
    truth[300:340, 100:140] = truth[:, 397:403] = 255
    for anything in (0, 1):
        assert score(truth, np.where(truth == 255, anything, truth).astype(np.uint8)) == [1, 1]


def test_the_band_of_a_frame_of_cityscapes() -> None:
    assert boundary_distance(1024, 2048) == 46
    assert boundary_distance(3, 3) == 1
