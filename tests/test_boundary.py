"""Boundary IoU against the definition: each class's mask eroded by OpenCV, frame by frame."""

import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fastseg.score.boundary import BoundaryCounts, boundary_distance

CLASSES = 5


def blobs(seed: int, size: tuple[int, int], ignored: bool) -> np.ndarray:
    """A smooth map of train ids, H×W, with regions of 255 if ``ignored``; class 4 never occurs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7), np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    ids = np.asarray(coarse) // 64
    void = Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.where((np.asarray(void) > 200) & ignored, 255, ids).astype(np.uint8)


def band(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask near its outline; what lies outside of the frame is not the mask."""
    distance = max(round(0.02 * math.hypot(*mask.shape)), 1)
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return mask & (eroded == 0)


def expected(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    scores = []
    for c in range(CLASSES):
        hits = union = 0
        for truth, found in pairs:
            bands = band(truth == c), band((found == c) & (truth != 255))
            hits += (bands[0] & bands[1]).sum()
            union += (bands[0] | bands[1]).sum()
        scores.append(float(hits / union) if union else math.nan)
    return scores


@pytest.mark.parametrize("sizes", [[(60, 90), (60, 90)], [(128, 256), (300, 20), (3, 3)], [(1, 1)]], ids=str)
def test_equals_erosion_by_opencv(sizes: list[tuple[int, int]]) -> None:
    pairs = [(blobs(i, size, True), blobs(i + 100, size, False)) for i, size in enumerate(sizes)]
    counts = BoundaryCounts(CLASSES, torch.device("cpu"))
    for truth, found in pairs:
        counts(0, torch.from_numpy(truth), torch.from_numpy(found))
    assert counts.iou() == pytest.approx(expected(pairs), nan_ok=True)
    assert math.isnan(counts.iou()[4])


def test_a_perfect_prediction_scores_one_and_a_shifted_one_less_than_its_iou() -> None:
    truth = blobs(1, (200, 300), False)
    perfect, shifted = (BoundaryCounts(CLASSES, torch.device("cpu")) for _ in range(2))
    perfect(0, torch.from_numpy(truth), torch.from_numpy(truth))
    assert perfect.iou()[:4] == [1, 1, 1, 1]
    moved = np.roll(truth, 4, axis=1)
    shifted(0, torch.from_numpy(truth), torch.from_numpy(moved))
    for c, score in enumerate(shifted.iou()[:4]):
        assert 0 < score < ((truth == c) & (moved == c)).sum() / ((truth == c) | (moved == c)).sum()


def test_the_band_of_a_frame_of_cityscapes() -> None:
    assert boundary_distance(1024, 2048) == 46
    assert boundary_distance(3, 3) == 1
