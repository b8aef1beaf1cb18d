"""Two models over the same frames in one pass, and how the comparison is told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from fastseg.data.loader import EvalLoader, open_files
from fastseg.evaluation.bootstrap import Comparison, Counts, Difference, compare
from fastseg.evaluation.compare_models import (
    Counted,
    NamedModel,
    baseline_note,
    choose_classes,
    comparison_table,
    count_frames,
    points,
    show_comparison,
    single_table,
    summary,
)
from fastseg.evaluation.evaluator import EvaluationStats
from fastseg.labels import SegmentationClass, cityscapes
from fastseg.shards.manifest import read_manifest

CLASSES = tuple(SegmentationClass(name, (i, 100, 200)) for i, name in enumerate(("road", "[b]car[/b]", "sky")))


def brightness(image: torch.Tensor) -> torch.Tensor:
    """A "network": the class is the brightness; all that is bright is no class."""
    return (image.float().mean(-1) * 40 / 256).clamp(max=19).to(torch.uint8)


def redness(image: torch.Tensor) -> torch.Tensor:
    return (image[..., 0].float() * 19 / 256).to(torch.uint8)


MODELS = [NamedModel("bright", brightness), NamedModel("red", redness)]


@pytest.fixture
def loader(shards: Path) -> EvalLoader:
    manifest = read_manifest(shards)
    files, split = open_files(shards, manifest, "val"), manifest.split("val")
    return EvalLoader(files, split, batch=2, device=torch.device("cpu"), threads=1)


def test_counts_every_frame_of_every_model(loader: EvalLoader) -> None:
    told: list[tuple[int, int]] = []
    counted = count_frames(MODELS, loader, 19, lambda done, total: told.append((done, total)))
    assert counted is not None
    assert (counted.evaluation.images, counted.evaluation.corrupt_samples) == (5, 0)
    assert told == [(2, 5), (4, 5), (5, 5)]
    frames = [
        (image, label.numpy())
        for batch in loader
        for image, label, valid in zip(batch.image, batch.label, batch.valid, strict=True)
        if valid
    ]
    for infer, counts in zip((brightness, redness), counted.models, strict=True):
        for i, (image, truth) in enumerate(frames):
            guess = infer(image).numpy()
            for c in range(19):
                assert counts.hits[i, c] == ((truth == c) & (guess == c)).sum()
                assert counts.truth[i, c] == (truth == c).sum()
                assert counts.predicted[i, c] == ((guess == c) & (truth != 255)).sum()
    # What the first one calls no class is a miss for the truth and nobody's false alarm.
    assert counted.models[0].predicted.sum() < counted.models[1].predicted.sum()
    some = choose_classes(counted, [13, 2])
    assert (some.models[1].hits == counted.models[1].hits[:, [13, 2]]).all()
    assert some.evaluation.images == 5


def test_two_models_are_shown_side_by_side(loader: EvalLoader) -> None:
    models = [NamedModel("runs/a.pt", brightness), NamedModel("runs/b.pt", brightness)]
    counted = count_frames(models, loader, 19)
    assert counted is not None
    console = Console(width=100, record=True, markup=False)
    document = show_comparison(console, models, counted, cityscapes().classes)
    text = console.export_text()
    assert "A: runs/a.pt" in text
    assert "B: runs/b.pt" in text
    assert "mIoU: no difference; A and B score the same on each of the 5 images." in text
    plain = json.loads(json.dumps(document, allow_nan=False))
    assert plain["miou"]["difference"] == 0
    assert plain["miou"]["verdict"] == "no difference"
    assert list(plain["classes"]) == [c.name for c in cityscapes().classes]
    assert plain["bootstrap"] == {"resamples": 10_000, "level": 0.95, "seed": 0}


def test_one_model_alone_has_scores_only(loader: EvalLoader) -> None:
    counted = count_frames(MODELS[1:], loader, 19)
    assert counted is not None
    console = Console(width=100, record=True, markup=False)
    document = show_comparison(console, MODELS[1:], counted, cityscapes().classes)
    assert "mean of classes" in console.export_text()
    known = [score for score in document["classes"].values() if score is not None]
    assert document["miou"] == pytest.approx(sum(known) / len(known))


def rows() -> Comparison:
    """A class that is better, one that is noise, one that nobody has."""
    nan = float("nan")
    return Comparison(
        [
            Difference(0.5, 0.6, 0.05, 0.15, 30),
            Difference(0.5, 0.4969, -0.0083, 0.0021, 30),
            Difference(nan, nan, nan, nan, 0),
        ],
        Difference(0.5, 0.5485, 0.0302, 0.0671, 30),
    )


def test_the_table_says_what_is_noise() -> None:
    console = Console(width=100, record=True, markup=False)
    console.print(comparison_table(rows(), CLASSES))
    lines = console.export_text().splitlines()
    (road,), (car,), (sky,) = ([line for line in lines if c.name in line] for c in CLASSES)
    assert "+10.00" in road
    assert "B better" in road
    assert "−0.31" in car
    assert "−0.83 … +0.21" in car
    assert "noise" in car
    assert sky.count("–") == 5
    assert "+4.85" in next(line for line in lines if "mean of classes" in line)


@pytest.mark.parametrize(
    ("gain", "says"),
    [
        (rows().mean, "B is better than A by 4.85 points, which is more than noise: with 95 % confidence B − A lies"),
        (Difference(0.5, 0.4, -0.15, -0.05, 30), "A is better than B by 10.00 points"),
        (
            rows().classes[1],
            "B − A is −0.31, which is noise: other images like these might as well give −0.83 or +0.21",
        ),
        (Difference(0.5, 0.6, 0.01, 0.2, 3), "B − A is +10.00, but only 3 images differ: too few to say"),
        (Difference(0.5, 0.5, 0.0, 0.0, 0), "no difference; A and B score the same on each of the 30 images"),
        (rows().classes[2], "nothing to compare"),
    ],
)
def test_the_summary_is_a_sentence_that_a_person_understands(gain: Difference, says: str) -> None:
    assert says in summary(gain, 30)


def test_the_baselines_classes_are_named_with_what_it_calls_them() -> None:
    note = baseline_note({"bus": "bus", "car": "car", "motorbike": "motorcycle"}, 16, alone=False)
    assert "knows bus, car and motorcycle (its motorbike), and not the other 16" in note
    assert "B − A shows what training buys" in note
    assert "fastseg-eval CKPT --baseline coco" in baseline_note({"car": "car"}, 1, alone=True)


def test_points() -> None:
    assert [points(value) for value in (0.0031, -0.0031, -0.00001, 0.0, float("nan"))] == [
        *("+0.31", "−0.31", "0.00", "0.00", "–")
    ]


def test_one_model_with_a_class_that_nobody_has() -> None:
    console = Console(width=100, record=True, markup=False)
    console.print(single_table(np.array([0.5, 0.25, np.nan]), CLASSES))
    text = console.export_text()
    assert "37.50" in text
    assert "[b]car[/b]" in text


def test_the_comparison_speaks_of_the_chosen_classes_only() -> None:
    counts = Counts(*(np.full((8, 3), value) for value in (5, 10, 9)))
    better = counts._replace(hits=counts.hits + np.array([0, 0, 3]))
    counted = choose_classes(Counted([counts, better], EvaluationStats(8, 0, 1.0)), [0, 1])
    assert compare(*counted.models).mean.verdict == "no difference"
