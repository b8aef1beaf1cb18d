"""The evaluation loop: every frame once, the worst kept, an interruption told to all."""

import weakref
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from fastseg.data.loader import EvalLoader, open_files
from fastseg.device import AsyncMetrics
from fastseg.evaluation import compare_models, evaluator
from fastseg.evaluation.compare_models import count_frames
from fastseg.evaluation.evaluator import evaluate
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


def test_adds_up_all_frames_and_keeps_the_worst(loader: EvalLoader) -> None:
    matrices = by_hand(loader)
    told: list[tuple[int, int]] = []
    result = evaluate(brightness, loader, 19, keep_worst=2, progress=lambda done, total: told.append((done, total)))
    assert result is not None
    assert (result.matrix == sum(matrices)).all()
    assert result.images == 5
    assert told == [(2, 5), (4, 5), (5, 5)]

    def iou(matrix: np.ndarray) -> float:
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        return float((matrix.diagonal()[union > 0] / union[union > 0]).mean())

    scores = [iou(matrix) for matrix in matrices]
    order = sorted(range(5), key=lambda i: scores[i])
    assert [sample.place for sample in result.worst] == order[:2]
    assert [sample.iou for sample in result.worst] == pytest.approx([scores[i] for i in order[:2]])
    worst = result.worst[0]
    assert (worst.prediction == brightness(torch.from_numpy(worst.image)).numpy()).all()
    assert worst.label.shape == worst.prediction.shape == worst.image.shape[:2]


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


def test_numbers_that_come_late_change_nothing(loader: EvalLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host looks at a batch when the next one is queued: the same worst frames, to the bit."""
    expected, compared = evaluate(brightness, loader, 19, keep_worst=2), count_frames([brightness] * 2, loader, 19)
    for module in (evaluator, compare_models):
        monkeypatch.setattr(module, "AsyncMetrics", Late)
    result, counted = evaluate(brightness, loader, 19, keep_worst=2), count_frames([brightness] * 2, loader, 19)
    assert result
    assert expected
    assert (result.matrix == expected.matrix).all()
    assert [(s.iou, s.place) for s in result.worst] == [(s.iou, s.place) for s in expected.worst]
    for ours, theirs in zip(result.worst, expected.worst, strict=True):
        assert all((a == b).all() for a, b in zip(ours[2:], theirs[2:], strict=True))
    assert counted
    assert compared
    for ours, theirs in zip(counted.models, compared.models, strict=True):
        assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))


def test_a_class_that_is_none_is_refused_in_the_last_batch_too(
    loader: EvalLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late its numbers come."""
    images = iter(range(3))

    def infer(image: torch.Tensor) -> torch.Tensor:
        return brightness(image) + (19 if next(images) == 2 else 0)

    monkeypatch.setattr(evaluator, "AsyncMetrics", Late)
    with pytest.raises(ValueError, match=r"6144 pixels .* none of the 19 classes"):
        evaluate(infer, loader, 19)


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
    for keep_worst, held in ((2, 1), (0, 0)):
        most.clear()
        evaluate(infer, loader, 19, keep_worst=keep_worst)
        assert max(most) <= held


def test_every_batch_is_a_sign_of_life(loader: EvalLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a rank whose frames take longer than others'; these wait as long as it gets on."""
    signs: list[str] = []
    for module in (evaluator, compare_models):
        for name in ("heartbeat", "barrier_no_timeout"):
            monkeypatch.setattr(module, name, partial(signs.append, name))
    evaluate(brightness, loader, 19)
    count_frames([brightness], loader, 19)
    assert signs == [*["heartbeat"] * 3, "barrier_no_timeout"] * 2


def test_an_interruption_gives_no_result(loader: EvalLoader) -> None:
    asked = iter([False, True])
    assert evaluate(brightness, loader, 19, interrupted=lambda: next(asked)) is None
    assert evaluate(brightness, loader, 19) is not None  # and the loader starts anew
