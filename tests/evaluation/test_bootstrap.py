"""The paired bootstrap against a plain loop, and what it says of models that are equal, better, or merely lucky."""

import json
import math

import numpy as np
import pytest

from fastseg.evaluation.bootstrap import MIN_FRAMES, Counts, class_iou, compare

Frames = np.ndarray
"""Images × pixels × (truth, A's prediction, B's prediction)."""


def simulate(rng: np.random.Generator, images: int, better: float = 0.0, pixels: int = 400) -> tuple[Counts, Counts]:
    """Two models of 4 classes that are right on 70 % of an image's pixels, more or less; B on ``better`` more."""
    shares = rng.dirichlet([3, 2, 1, 0.5], images)
    truth = np.stack([rng.choice(4, pixels, p=share) for share in shares])
    luck = rng.normal(0.7, 0.1, (images, 1))

    def guesses(right: float) -> np.ndarray:
        accuracy = luck + right + rng.normal(0, 0.05, (images, 1))
        return np.where(rng.random(truth.shape) < accuracy, truth, rng.integers(4, size=truth.shape))

    return count(truth, guesses(0.0)), count(truth, guesses(better))


def count(truth: np.ndarray, guess: np.ndarray, classes: int = 4) -> Counts:
    ids = range(classes)
    return Counts(
        np.stack([((truth == c) & (guess == c)).sum(1) for c in ids], 1),
        np.stack([(truth == c).sum(1) for c in ids], 1),
        np.stack([(guess == c).sum(1) for c in ids], 1),
    )


def plain(a: Counts, b: Counts, resamples: int, seed: int) -> np.ndarray:
    """An independent bootstrap: frames drawn by index, added up one by one, scored by Python's division."""
    rng = np.random.default_rng(seed)
    images, classes = a.truth.shape
    rows = []
    for _ in range(resamples):
        drawn = rng.integers(images, size=images)
        differences, scores = [], ([], [])
        for c in range(classes):
            truth = sum(int(a.truth[i, c]) for i in drawn)
            values = []
            for model in (a, b):
                hits, said = (sum(int(part[i, c]) for i in drawn) for part in (model.hits, model.predicted))
                values.append(hits / (truth + said - hits) if truth else math.nan)
            differences.append(values[1] - values[0])
            for score, value in zip(scores, values, strict=True):
                if truth:
                    score.append(value)
        rows.append([*differences, sum(scores[1]) / len(scores[1]) - sum(scores[0]) / len(scores[0])])
    return np.array(rows)


def test_intervals_equal_those_of_a_plain_loop() -> None:
    a, b = simulate(np.random.default_rng(1), 40, 0.02)
    ours = compare(a, b, seed=5)
    draws = plain(a, b, 4000, seed=6)
    # Two bootstraps of thousands of draws agree to a few per cent of the interval's width.
    for i, row in enumerate([*ours.classes, ours.mean]):
        expected = np.nanquantile(draws[:, i], (0.025, 0.975))
        width = expected[1] - expected[0]
        assert row.low == pytest.approx(expected[0], abs=0.06 * width)
        assert row.high == pytest.approx(expected[1], abs=0.06 * width)


def test_scores_are_those_of_all_pixels() -> None:
    a, b = simulate(np.random.default_rng(2), 30)
    result = compare(a, b, resamples=10)
    for counts, name in ((a, "a"), (b, "b")):
        union = counts.truth.sum(0) + counts.predicted.sum(0) - counts.hits.sum(0)
        expected = counts.hits.sum(0) / union
        assert class_iou(counts) == pytest.approx(expected)
        assert [getattr(row, name) for row in result.classes] == pytest.approx(expected)
        assert getattr(result.mean, name) == pytest.approx(expected.mean())


def test_equal_models_do_not_differ() -> None:
    a, _ = simulate(np.random.default_rng(3), 20)
    result = compare(a, a)
    for row in (*result.classes, result.mean):
        assert (row.difference, row.low, row.high, row.frames) == (0, 0, 0, 0)
        assert row.verdict == "no difference"


def test_a_better_model_is_called_so_whichever_comes_first() -> None:
    a, b = simulate(np.random.default_rng(4), 100, 0.05)
    result, reverse = compare(a, b), compare(b, a)
    assert result.mean.verdict == "B better"
    assert reverse.mean.verdict == "A better"
    assert result.mean.low == pytest.approx(-reverse.mean.high)  # the same draws
    assert result.mean.difference == pytest.approx(0.06, abs=0.03)


def test_luck_is_called_noise_and_the_interval_covers_the_truth() -> None:
    """Of many val sets of 60 frames, about 95 % give intervals that hold the difference over all frames there are."""
    rng = np.random.default_rng(5)
    everything = simulate(rng, 10_000, 0.02, 100)
    true = compare(*everything, resamples=1).mean.difference
    assert true == pytest.approx(0.027, abs=0.01)
    held = noise = 0
    for seed in range(200):
        result = compare(*simulate(rng, 60, 0.02, 100), resamples=400, seed=seed).mean
        held += result.low <= true <= result.high
        noise += compare(*simulate(rng, 60, pixels=100), resamples=400, seed=seed).mean.verdict == "noise"
    assert 180 <= held <= 198  # 190 ± 3 expected, a little fewer with so few frames
    assert 180 <= noise <= 198


def test_the_same_seed_gives_the_same_numbers_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = simulate(np.random.default_rng(6), 25, 0.01)
    once = compare(*counts)
    monkeypatch.setattr("fastseg.evaluation.bootstrap._NUMBERS", 1000)
    assert compare(*counts) == once
    assert compare(*counts, seed=1) != once


def test_few_frames_prove_nothing() -> None:
    """B is better on every frame that it differs on: with five of them that may still be chance."""
    a, _ = simulate(np.random.default_rng(7), 30)
    for frames, verdict in ((MIN_FRAMES - 1, "too few images"), (MIN_FRAMES, "B better")):
        hits = a.hits.copy()
        hits[:frames, 0] = np.maximum(a.hits[:frames, 0], a.truth[:frames, 0] - 1)
        b = a._replace(hits=hits, predicted=a.predicted + hits - a.hits)
        row = compare(a, b).classes[0]
        assert row.frames == frames
        assert row.low > 0
        assert row.verdict == verdict


def test_a_class_that_is_missing_from_a_draw_makes_no_difference() -> None:
    """A rare class, in one frame of 20: only A sees it in another frame. Without the rare frame the mean forgets it."""
    truth = np.tile([[100, 0]], (20, 1))
    truth[0] = (50, 50)
    sharp = Counts(truth.copy(), truth, truth.copy())
    stray = Counts(truth.copy(), truth, truth.copy())
    stray.hits[5, 0] -= 1
    stray.predicted[5] += (-1, 1)
    result = compare(stray, sharp)
    # By the official rule alone a third of the draws would score the stray pixel as a class of 0.
    assert -0.01 < result.mean.low <= result.mean.high < 0.05


def test_classes_that_nobody_has_compare_to_nothing() -> None:
    a, b = simulate(np.random.default_rng(8), 10)
    empty = np.zeros((10, 1), np.int64)
    padded = [Counts(*(np.hstack([part, empty]) for part in counts)) for counts in (a, b)]
    result = compare(*padded)
    assert result.classes[4].verdict == "–"
    assert result.mean == compare(a, b).mean
    document = json.loads(json.dumps(result.classes[4].to_json(), allow_nan=False))
    assert document["difference"] is None
    assert document["differing_images"] == 0
    nothing = Counts(*(np.zeros((0, 3), np.int64) for _ in range(3)))
    assert compare(nothing, nothing).mean.verdict == "–"


def test_counts_of_other_frames_are_refused() -> None:
    a, b = simulate(np.random.default_rng(9), 10)
    with pytest.raises(ValueError, match="other frames"):
        compare(a, Counts(*(part[:5] for part in b)))
    with pytest.raises(ValueError, match="other frames"):
        compare(a, Counts(*(part[::-1] for part in b)))
