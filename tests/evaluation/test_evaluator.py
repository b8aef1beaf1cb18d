"""The evaluation loop: every frame once, the worst kept, an interruption told to all."""

import weakref
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from every_metric import EVERY_METRIC
from fastseg.data.loader import EvalLoader, open_files
from fastseg.device import AsyncMetrics
from fastseg.evaluation import evaluator
from fastseg.evaluation.evaluator import EvaluatedModel, evaluate
from fastseg.evaluation.frames import WorstFrames
from fastseg.evaluation.metrics import ConfusionMatrix, FrameCounts, Metric, Sample
from fastseg.shards.manifest import read_manifest


def brightness(image: torch.Tensor) -> torch.Tensor:
    """A "network": the class is the brightness, in 19 steps."""
    return (image.float().mean(-1) * 19 / 256).to(torch.uint8)


@pytest.fixture
def loader(shards: Path) -> EvalLoader:
    manifest = read_manifest(shards)
    files, split = open_files(shards, manifest, "val"), manifest.split("val")
    return EvalLoader(files, split, batch=2, device=torch.device("cpu"), threads=1)


def by_hand(loader: EvalLoader) -> list[np.ndarray]:
    """Each frame's confusion matrix, counted pixel by pixel with numpy."""
    matrices = []
    for batch in loader:
        for image, label, valid in zip(batch.image, batch.label, batch.valid, strict=True):
            if valid:
                truth, guess = label.numpy(), brightness(image).numpy()
                matrix = np.zeros((19, 19), int)
                np.add.at(matrix, (truth[truth != 255], guess[truth != 255]), 1)
                matrices.append(matrix)
    return matrices


def confusion() -> ConfusionMatrix:
    return ConfusionMatrix(19, torch.device("cpu"))


def test_adds_up_all_frames_and_keeps_the_worst(loader: EvalLoader) -> None:
    matrices = by_hand(loader)
    told: list[tuple[int, int]] = []
    matrix, worst_frames = confusion(), WorstFrames(2)
    models = [EvaluatedModel(brightness, [matrix, worst_frames])]
    result = evaluate(models, loader, 19, progress=lambda done, total: told.append((done, total)))
    assert result is not None
    assert (matrix.compute() == sum(matrices)).all()
    assert result.images == 5
    assert told == [(2, 5), (4, 5), (5, 5)]

    def iou(matrix: np.ndarray) -> float:
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        return float((matrix.diagonal()[union > 0] / union[union > 0]).mean())

    scores = [iou(matrix) for matrix in matrices]
    order = sorted(range(5), key=lambda i: scores[i])
    samples = worst_frames.compute()
    assert [sample.index for sample in samples] == order[:2]
    assert [sample.iou for sample in samples] == pytest.approx([scores[i] for i in order[:2]])
    worst = samples[0]
    assert (worst.prediction == brightness(torch.from_numpy(worst.image)).numpy()).all()
    assert worst.label.shape == worst.prediction.shape == worst.image.shape[:2]


def test_each_model_has_its_own_metrics(loader: EvalLoader) -> None:
    """The frames are decoded once, whatever the number of models."""
    seen: list[int] = []

    def darkness(image: torch.Tensor) -> torch.Tensor:
        seen.append(len(image))
        return 18 - brightness(image)

    one, other, alone = confusion(), confusion(), confusion()
    evaluate([EvaluatedModel(brightness, [one]), EvaluatedModel(darkness, [other])], loader, 19)
    assert seen == [2, 2, 2]
    evaluate([EvaluatedModel(darkness, [alone])], loader, 19)
    assert (other.compute() == alone.compute()).all()
    assert (one.compute() == sum(by_hand(loader))).all()
    assert (one.compute() != other.compute()).any()


Companion = TypeVar("Companion")


class Late(AsyncMetrics[Companion]):
    """Hands over everything one batch late, as on a GPU."""

    kept: tuple[Companion, list[Any]] | None = None

    def exchange(self, companion: Companion, numbers: torch.Tensor) -> tuple[Companion, list[Any]] | None:
        before, self.kept = self.kept, super().exchange(companion, numbers)
        return before

    def collect(self) -> tuple[Companion, list[Any]] | None:
        before, self.kept = self.kept, None
        return before


def equal(one: Any, other: Any) -> bool:
    """Bit for bit, of arrays, samples, tuples, lists and numbers."""
    if isinstance(one, Sample):
        return equal(astuple(one), astuple(other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other if isinstance(one, str) else bool(np.array_equal(one, other, equal_nan=True))


@pytest.mark.parametrize("name", EVERY_METRIC)
def test_numbers_that_come_late_change_nothing(name: str, loader: EvalLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host looks at a batch when the next one is queued: the same results, to the bit."""

    def results() -> list[Any]:
        metrics = [EVERY_METRIC[name](19, loader.device) for _ in range(2)]
        evaluate(
            [EvaluatedModel(brightness, metrics[:1]), EvaluatedModel(lambda i: 18 - brightness(i), metrics[1:])],
            loader,
            19,
        )
        return [metric.compute() for metric in metrics]

    expected = results()
    monkeypatch.setattr(evaluator, "AsyncMetrics", Late)
    late = results()
    assert equal(late, expected)
    assert not equal(late[0], late[1])


def test_a_class_that_is_none_is_refused_in_the_last_batch_too(
    loader: EvalLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late its numbers come."""
    images = iter(range(3))

    def infer(image: torch.Tensor) -> torch.Tensor:
        return brightness(image) + (19 if next(images) == 2 else 0)

    monkeypatch.setattr(evaluator, "AsyncMetrics", Late)
    with pytest.raises(ValueError, match=r"6144 pixels .* none of the 19 classes"):
        evaluate([EvaluatedModel(infer, [])], loader, 19)


def test_frames_are_held_until_they_are_judged_and_no_longer(
    loader: EvalLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the batch that is predicted only the one before is on the device, and none where no frame is kept."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most: list[int] = []

    def infer(image: torch.Tensor) -> torch.Tensor:
        most.append(sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(image))
        return brightness(image)

    monkeypatch.setattr(evaluator, "AsyncMetrics", Late)
    cases: list[tuple[list[Metric], int]] = [([confusion(), WorstFrames(2)], 1), ([confusion(), FrameCounts(19)], 0)]
    for metrics, held in cases:
        most.clear()
        evaluate([EvaluatedModel(infer, metrics)], loader, 19)
        assert max(most) == held


def test_every_batch_is_a_sign_of_life(loader: EvalLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a rank whose frames take longer than others'; these wait as long as it gets on."""
    signs: list[str] = []
    for name in ("heartbeat", "barrier_no_timeout"):
        monkeypatch.setattr(evaluator, name, partial(signs.append, name))
    evaluate([EvaluatedModel(brightness, [confusion()])], loader, 19)
    assert signs == [*["heartbeat"] * 3, "barrier_no_timeout"]


def test_an_interruption_gives_no_result(loader: EvalLoader) -> None:
    asked = iter([False, True])
    assert evaluate([EvaluatedModel(brightness, [])], loader, 19, interrupted=lambda: next(asked)) is None
    assert evaluate([EvaluatedModel(brightness, [])], loader, 19) is not None  # and the loader starts anew
