"""What is said of an evaluation at the end."""

import io

import numpy as np
import pytest
from rich.console import Console

from fastseg.evaluation.scores import score
from fastseg.evaluation.summary import class_table, findings
from fastseg.labels import SegmentationClass, cityscapes

NAMES = ["road", "car", "pole", "bus", "dog"]


def classes(names: list[str]) -> list[SegmentationClass]:
    return [SegmentationClass(name, (i, i, i)) for i, name in enumerate(names)]


def printed(matrix: np.ndarray, names: list[str], width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(class_table(score(matrix, classes(names)), classes(names)))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


def test_classes_stand_in_the_order_of_their_scores() -> None:
    matrix = np.array([[50, 50, 0], [0, 100, 0], [0, 0, 0]])
    lines = printed(matrix, ["road", "car", "dog"])
    rows = [line for line in lines if any(name in line for name in ("road", "car", "dog", "mean"))]
    assert [next(n for n in ("road", "car", "dog", "mean") if n in row) for row in rows] == [
        "car",
        "road",
        "dog",
        "mean",
    ]
    assert "66.67" in rows[0]
    assert "50.00" in rows[1]
    assert "–" in rows[2]
    assert "58.33" in rows[3]
    ends = {row.index(number) + len(number) for row, number in zip(rows, ("66.67", "50.00", "–", "58.33"), strict=True)}
    assert len(ends) == 1  # aligned


def test_of_many_classes_the_best_and_the_worst_are_shown() -> None:
    names = [f"class{i:03}" for i in range(150)]
    matrix = np.diag(np.arange(1, 151)) + np.eye(150, k=1, dtype=np.int64)
    lines = printed(matrix, names)
    assert "… 130 more" in "\n".join(lines)
    assert sum("class" in line for line in lines) == 20 + 2  # the title and the heading


def test_city_classes_fit_a_terminal() -> None:
    named = cityscapes().classes
    matrix = np.eye(19, dtype=np.int64) * 1000
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(class_table(score(matrix, named), named))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) <= 28
    assert max(map(len, lines)) <= 80


def test_classes_that_are_never_predicted_are_counted() -> None:
    matrix = np.zeros((5, 5), np.int64)
    matrix[:4, 0], matrix[1, 1] = 100, 300
    (never, absent) = findings(matrix, NAMES, {"class_weights": 0.0, "dice": 0.0})
    assert never == "2 of 5 classes are never predicted (pole, bus): try --optim.class-weights 0.5"
    assert absent == "1 of 5 classes is not in the split (dog), and not counted unless predicted"


@pytest.mark.parametrize(
    ("optim", "cure"),
    [
        ({"class_weights": 0.5, "dice": 0.0}, "train for longer, or try --optim.dice 0.5"),
        ({"class_weights": 0.5, "dice": 0.5}, "train for longer, --optim.epochs"),
        ({}, "try --optim.class-weights 0.5"),
    ],
)
def test_the_cure_is_none_that_was_taken(optim: dict, cure: str) -> None:
    matrix = np.array([[9, 0, 0], [9, 9, 0], [9, 0, 0]])
    assert findings(matrix, ["a", "b", "c"], optim)[0].endswith(cure)


def test_one_class_for_everything_is_another_matter() -> None:
    matrix = np.zeros((3, 3), np.int64)
    matrix[:, 1] = 7
    assert findings(matrix, ["a", "b", "c"], {})[0].startswith("everything is predicted as b: look at the masks")


def test_mistakes_are_named_and_a_good_network_needs_no_words() -> None:
    matrix = np.array([[90, 10, 0], [60, 40, 0], [0, 0, 50]])
    assert findings(matrix, ["car", "truck", "sky"], {}) == ["mostly mistaken: truck taken for car (60 %)"]
    assert findings(np.eye(3, dtype=np.int64), ["a", "b", "c"], {}) == []
