"""Scores against the official evaluator of cityscapesscripts, and against plain counting."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torchmetrics.functional.classification import multiclass_confusion_matrix

from fastseg.evaluation.metrics import count_classes, count_pixels, read_counts
from fastseg.evaluation.scores import Score, score, score_table
from fastseg.labels import IGNORE, SegmentationClass, cityscapes
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
        assert ours.class_iou[c.name] == pytest.approx(expected["classScores"][c.name], abs=1e-6, nan_ok=True)
    scored = {name: value for name, value in expected["categoryScores"].items() if name != "void"}
    assert ours.category_iou == pytest.approx(scored, abs=1e-6, nan_ok=True)
    assert ours.miou == pytest.approx(expected["averageScoreClasses"], abs=1e-6)
    assert ours.category_miou == pytest.approx(expected["averageScoreCategories"], abs=1e-6)
    for i in absent_truth:
        value = ours.class_iou[TABLE.classes[i].name]
        assert math.isnan(value) if i in absent_prediction else value == 0


def matrix_of(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of frames N×H×W, whose pixels all have a class."""
    counted = [
        count_pixels(torch.from_numpy(p), torch.from_numpy(t), 19) for p, t in zip(predictions, labels, strict=True)
    ]
    assert all(strange == 0 for _, strange in counted)
    return sum(matrix.numpy() for matrix, _ in counted)


def score_of(predictions: np.ndarray, labels: np.ndarray) -> Score:
    return score(matrix_of(predictions, labels), TABLE.classes)


def test_counting_pixel_by_pixel_gives_the_same_matrix() -> None:
    predictions, label_ids = frames(7, [TRUCK], [BUS])
    labels = TRAIN_IDS[label_ids]
    expected = np.zeros((19, 19), np.int64)
    for truth, prediction in zip(labels.ravel().tolist(), predictions.ravel().tolist(), strict=True):
        if truth != IGNORE:
            expected[truth, prediction] += 1
    for dtype in (np.uint8, np.int64):
        got = matrix_of(predictions.astype(dtype), labels)
        assert got.dtype == np.int64
        assert np.array_equal(got, expected)


def test_the_numbers_of_a_frame_are_its_matrixs() -> None:
    predictions, label_ids = frames(3, [TRUCK], [BUS])
    matrix, numbers = count_classes(torch.from_numpy(predictions[0]), torch.from_numpy(TRAIN_IDS[label_ids[0]]), 19)
    hits, truth, predicted = read_counts(numbers.tolist(), 19)
    assert np.array_equal(hits, matrix.diagonal())
    assert np.array_equal(truth, matrix.numpy().sum(1))
    assert np.array_equal(predicted, matrix.numpy().sum(0))


@pytest.mark.parametrize("ignored", [0, 7])
@pytest.mark.parametrize(("prediction", "label"), [(3, 0), (-1, 0), (0, 3)])
def test_a_class_out_of_range_is_refused(prediction: int, label: int, ignored: int) -> None:
    """And counts nowhere; a label of 255 does not excuse a prediction that is no class."""
    predictions = torch.full((4, 4), prediction, dtype=torch.int64)
    labels = torch.full((4, 4), label, dtype=torch.uint8)
    labels.view(-1)[:ignored] = IGNORE
    matrix, numbers = count_classes(predictions, labels, 3)
    assert matrix.sum() == 0
    strange = 16 if prediction else 16 - ignored
    with pytest.raises(ValueError, match=f"{strange} pixels .* none of the 3 classes"):
        read_counts(numbers.tolist(), 3)


def test_255_classes_and_one_for_all_others_are_counted() -> None:
    """As two models are compared on a set with all the classes that a byte has room for beside the ignored ones."""
    ids = torch.arange(256, dtype=torch.uint8).view(16, 16)
    matrix, strange = count_pixels(ids.flip(0).flip(1), ids, 256)
    assert strange == 0
    assert matrix.sum() == 255
    assert (matrix.flip(1).diagonal()[:255] == 1).all()


def test_counting_asks_a_gpu_for_nothing() -> None:
    """Fake tensors of a GPU have no numbers: whatever had to wait for some raises, as the last line does."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        prediction, label = (torch.empty(64, 32, dtype=torch.uint8, device="cuda") for _ in range(2))
        assert prediction.is_cuda
        matrix, numbers = count_classes(prediction, label, 19)
        assert (matrix.shape, matrix.dtype, matrix.device.type) == ((19, 19), torch.int64, "cuda")
        assert (numbers.shape, numbers.dtype, numbers.device.type) == ((3 * 19 + 1,), torch.int64, "cuda")
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            multiclass_confusion_matrix(prediction, label, 19, ignore_index=IGNORE, validate_args=False)


def test_more_pixels_than_32_bits_count_exactly() -> None:
    classes = tuple(SegmentationClass(name, (0, 0, 0)) for name in "ab")
    many = 2**40
    result = score(np.array([[3 * many, many], [0, 2 * many + 1]]), classes)
    assert result.class_iou == {"a": 3 / 4, "b": (2 * many + 1) / (3 * many + 1)}
    assert result.accuracy == (5 * many + 1) / (6 * many + 1)
    assert result.class_accuracy == {"a": 3 / 4, "b": 1.0}
    assert result.category_iou == {}
    assert math.isnan(result.category_miou)


def test_classes_without_a_category_are_false_alarms_of_the_others() -> None:
    classes = (
        SegmentationClass("cat", (0, 0, 0), "animal"),
        SegmentationClass("dog", (0, 0, 0), "animal"),
        SegmentationClass("other", (0, 0, 0)),
    )
    result = score(np.array([[4, 2, 1], [0, 3, 0], [5, 0, 6]]), classes)
    assert result.category_iou == {"animal": 9 / 15}


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
