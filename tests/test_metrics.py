"""Scores against the official evaluator of cityscapesscripts, and against plain counting."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from fastseg.labels import IGNORE, SegmentationClass, cityscapes
from fastseg.score.metrics import Score, confusion_matrix, score, score_table
from official import official

TABLE = cityscapes()
TRAIN_IDS = TABLE.lookup()
TRUCK, BUS, TRAIN = 14, 15, 16


def frames(seed: int, absent_truth: list[int], absent_prediction: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (train ids) and truths (label ids, void ones among them), agreeing on about half of the pixels."""
    rng = np.random.default_rng(seed)
    label_ids = rng.choice([i for i in range(34) if TRAIN_IDS[i] not in absent_truth], (3, 40, 60)).astype(np.uint8)
    guesses = rng.choice([i for i in range(19) if i not in absent_prediction], label_ids.shape).astype(np.uint8)
    truth = TRAIN_IDS[label_ids]
    copied = (rng.random(truth.shape) < 0.5) & ~np.isin(truth, [IGNORE, *absent_prediction])
    return np.where(copied, truth, guesses).astype(np.uint8), label_ids


@pytest.mark.parametrize(
    ("absent_truth", "absent_prediction"),
    [([], []), ([TRUCK, TRAIN], [BUS, TRAIN]), ([11, 12, 0], [11, 12]), ([10], [10])],
    ids=["all classes", "one-sided and absent", "a category absent", "sky absent"],
)
def test_scores_equal_the_official_evaluator(
    tmp_path: Path, absent_truth: list[int], absent_prediction: list[int]
) -> None:
    predictions, label_ids = frames(len(absent_truth), absent_truth, absent_prediction)
    expected = official(predictions, label_ids, tmp_path)
    ours = score_of(predictions, TRAIN_IDS[label_ids])
    for c in TABLE.classes:
        assert ours.classes[c.name] == pytest.approx(expected["classScores"][c.name], abs=1e-6, nan_ok=True)
    scored = {name: value for name, value in expected["categoryScores"].items() if name != "void"}
    assert ours.categories == pytest.approx(scored, abs=1e-6, nan_ok=True)
    assert ours.miou == pytest.approx(expected["averageScoreClasses"], abs=1e-6)
    assert ours.category_miou == pytest.approx(expected["averageScoreCategories"], abs=1e-6)
    for i in absent_truth:
        value = ours.classes[TABLE.classes[i].name]
        assert math.isnan(value) if i in absent_prediction else value == 0


def score_of(predictions: np.ndarray, labels: np.ndarray) -> Score:
    valid = torch.ones(len(labels), dtype=torch.bool)
    matrix = confusion_matrix(torch.from_numpy(predictions), torch.from_numpy(labels), valid, 19)
    return score(matrix.numpy(), TABLE.classes)


def test_counting_pixel_by_pixel_gives_the_same_matrix() -> None:
    predictions, label_ids = frames(7, [TRUCK], [BUS])
    labels = TRAIN_IDS[label_ids]
    expected = np.zeros((19, 19), np.int64)
    for truth, prediction in zip(labels.ravel().tolist(), predictions.ravel().tolist(), strict=True):
        if truth != IGNORE:
            expected[truth, prediction] += 1
    for dtype in (torch.uint8, torch.int64):
        got = confusion_matrix(
            torch.from_numpy(predictions).to(dtype), torch.from_numpy(labels), torch.tensor([True] * 3), 19
        )
        assert got.dtype == torch.int64
        assert np.array_equal(got.numpy(), expected)


def test_padding_copies_do_not_count() -> None:
    predictions, label_ids = frames(3, [], [])
    batch = torch.from_numpy(predictions), torch.from_numpy(TRAIN_IDS[label_ids])
    whole = confusion_matrix(*batch, torch.tensor([True, False, True]), 19)
    parts = [confusion_matrix(batch[0][i : i + 1], batch[1][i : i + 1], torch.tensor([True]), 19) for i in (0, 2)]
    assert torch.equal(whole, parts[0] + parts[1])
    assert confusion_matrix(*batch, torch.zeros(3, dtype=torch.bool), 19).sum() == 0


@pytest.mark.parametrize(("prediction", "label"), [(3, 0), (-1, 0), (0, 3)])
def test_a_class_out_of_range_is_refused(prediction: int, label: int) -> None:
    predictions = torch.full((1, 2, 2), prediction, dtype=torch.int64)
    labels = torch.full((1, 2, 2), label, dtype=torch.uint8)
    with pytest.raises(ValueError, match="3 classes"):
        confusion_matrix(predictions, labels, torch.tensor([True]), 3)


def test_more_pixels_than_32_bits_count_exactly() -> None:
    classes = tuple(SegmentationClass(name, (0, 0, 0)) for name in "ab")
    many = 2**40
    result = score(np.array([[3 * many, many], [0, 2 * many + 1]]), classes)
    assert result.classes == {"a": 3 / 4, "b": (2 * many + 1) / (3 * many + 1)}
    assert result.accuracy == (5 * many + 1) / (6 * many + 1)
    assert result.class_accuracy == {"a": 3 / 4, "b": 1.0}
    assert result.categories == {}
    assert math.isnan(result.category_miou)


def test_classes_without_a_category_are_false_alarms_of_the_others() -> None:
    classes = (
        SegmentationClass("cat", (0, 0, 0), "animal"),
        SegmentationClass("dog", (0, 0, 0), "animal"),
        SegmentationClass("other", (0, 0, 0)),
    )
    result = score(np.array([[4, 2, 1], [0, 3, 0], [5, 0, 6]]), classes)
    assert result.categories == {"animal": 9 / 15}


def test_json_holds_the_nans_as_null() -> None:
    document = score(np.zeros((19, 19), np.int64), TABLE.classes).to_json()
    assert document["miou"] is None
    assert document["accuracy"] is None
    assert set(document["classes"]) == {c.name for c in TABLE.classes}
    assert set(document["classes"].values()) == {None}


def test_a_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="19 classes"):
        score(np.zeros((18, 18), np.int64), TABLE.classes)
    with pytest.raises(ValueError, match="float64"):
        score(np.zeros((19, 19)), TABLE.classes)  # type: ignore[arg-type]


def test_the_table_shows_every_class_even_one_that_looks_like_markup() -> None:
    classes = (SegmentationClass("[red]barn[/red]", (255, 0, 0)), SegmentationClass("sky", (0, 0, 255), "up"))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(score_table(score(np.array([[3, 1], [0, 0]]), classes), classes))
    text = console.export_text()
    assert "[red]barn[/red]" in text
    assert "75.00" in text
    assert "37.50" in text  # the mean of 75 and 0
    assert "mean of categories" in text
