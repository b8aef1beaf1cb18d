"""Compare two models by a paired bootstrap over frames: which is better, and whether that is more than noise.

Frames are drawn with replacement, the same for both models, and scored anew each time: the spread of the differences
shows how much another val set of the same kind might have changed them (Efron 1979; Efron & Tibshirani 1993, chapter
13, the percentile interval). It takes the frames as independent; neighbors of one video are not, and their intervals
come out too narrow. It does not cover the variation between trainings of the same recipe.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.evaluation.scores import iou, plain

RESAMPLES = 10_000
SEED = 0
LEVEL = 0.95
MIN_FRAMES = 6
"""Minimum frames on which two models differ for a verdict: if all of five favor one, even a sign test cannot exclude
chance (2 × 0.5⁵ = 6 %, 2 × 0.5⁶ = 3 %)."""
_NUMBERS = 1 << 20
"""Random numbers held at a time: 8 MB in each of a few arrays."""

Verdict = Literal["A better", "B better", "noise", "no difference", "too few images", "–"]


class Counts(NamedTuple):
    """Pixels of each class in each frame, int64 N×C: enough for the IoU of any choice of frames."""

    hits: NDArray[np.int64]
    """Pixels of the class in both truth and prediction."""
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    """Pixels predicted as the class, without ignored ones."""


@dataclass(frozen=True)
class Difference:
    """Scores of A and B and their difference, as fractions 0…1; NaN if one of them has no score."""

    a: float
    b: float
    low: float
    """Lower end of the interval of ``b - a``."""
    high: float
    frames: int
    """Number of frames on which A and B differ."""

    @property
    def difference(self) -> float:
        """Return B's score minus A's."""
        return self.b - self.a

    @property
    def verdict(self) -> Verdict:
        """Return the verdict: noise is a difference whose interval contains 0."""
        if math.isnan(self.difference):
            return "–"
        if not self.frames:
            return "no difference"
        if self.low <= 0 <= self.high:
            return "noise"
        if self.frames < MIN_FRAMES:
            return "too few images"
        return "B better" if self.difference > 0 else "A better"

    def to_json(self) -> dict[str, Any]:
        """Return plain values; None in place of NaN."""
        numbers = {"a": self.a, "b": self.b, "difference": self.difference, "low": self.low, "high": self.high}
        known = {name: plain(value) for name, value in numbers.items()}
        return {**known, "differing_images": self.frames, "verdict": self.verdict}


@dataclass(frozen=True)
class Comparison:
    """Differences of two models on the same frames."""

    classes: list[Difference]
    """Difference of each class's IoU, in order."""
    mean: Difference
    """Difference of the mean IoU over the classes that are not NaN."""


def class_iou(counts: Counts) -> NDArray[np.float64]:
    """Return the IoU of every class over all frames, (C,), NaN for a class in neither truth nor prediction."""
    return iou(counts.hits.sum(0), counts.truth.sum(0), counts.predicted.sum(0))


def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the last axis, without NaNs; NaN if all are NaN."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(-1), known.sum(-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def compare(a: Counts, b: Counts, resamples: int = RESAMPLES, seed: int = SEED) -> Comparison:
    """Score two models' counts of the same frames, with :data:`LEVEL` intervals of the differences.

    The official mean counts a class that is only predicted as 0, and leaves out one that is in neither. In a resample
    that lacks a rare class, one stray pixel would then make a difference: there the class is left out for both models,
    as in its own interval. The same counts and seed give the same intervals. Memory: 40 bytes a frame and class, and
    about 50 MB; 500 frames of 19 classes take half a second of one core, 20,000 half a minute.

    Raises :class:`ValueError` if the counts are not of the same frames.
    """
    if a.truth.shape != b.truth.shape or not (a.truth == b.truth).all():
        raise ValueError(f"counts of other frames: {a.truth.shape} and {b.truth.shape}")
    differ = (a.hits != b.hits) | (a.predicted != b.predicted)
    scores = [np.append(score, mean(score)) for score in (class_iou(a), class_iou(b))]
    frames = [*differ.sum(0).tolist(), int(differ.any(1).sum())]
    rows = [
        Difference(float(scores[0][i]), float(scores[1][i]), *_interval(draws), frames[i])
        for i, draws in enumerate(_draws(a, b, resamples, seed).T)
    ]
    return Comparison(rows[:-1], rows[-1])


def _draws(a: Counts, b: Counts, resamples: int, seed: int) -> NDArray[np.float64]:
    """Return the differences in each draw of frames, resamples × (C + 1): for every class and, last, the mean."""
    frames, classes = a.truth.shape
    # The draws times the counts are one matrix product; float64 adds pixels exactly up to 9e15.
    counts = np.concatenate([a.truth, a.hits, a.predicted, b.hits, b.predicted], axis=1).astype(np.float64)
    rng, chunk = np.random.default_rng(seed), _NUMBERS // max(frames, 1) + 1
    in_truth = a.truth.any(0)
    draws = np.empty((resamples, classes + 1))
    for start in range(0, resamples if frames else 0, chunk):
        times = _draw(rng, frames, min(chunk, resamples - start))
        truth, *rest = np.split(times @ counts, 5, axis=1)
        missing = in_truth & (truth == 0)
        one, other = (
            np.where(missing, np.nan, iou(hits, truth, predicted))
            for hits, predicted in ((rest[0], rest[1]), (rest[2], rest[3]))
        )
        draws[start : start + chunk] = np.column_stack([other - one, mean(other) - mean(one)])
    return draws if frames else draws[:0]


def _draw(rng: np.random.Generator, frames: int, draws: int) -> NDArray[np.float64]:
    """Return how often each frame is drawn: draws × frames, multinomial, in a quarter of the time of NumPy's own."""
    drawn = rng.integers(frames, size=(draws, frames)) + frames * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * frames).reshape(draws, frames).astype(np.float64)


def _interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    known = draws[~np.isnan(draws)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)
