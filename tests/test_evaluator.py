"""The evaluation loop: every frame once, the worst kept, an interruption told to all."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fastseg.data.loader import EvalLoader, open_files
from fastseg.data.manifest import read_manifest
from fastseg.score import contest, evaluator
from fastseg.score.contest import count_frames
from fastseg.score.evaluator import evaluate


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


def test_every_batch_is_a_sign_of_life(loader: EvalLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a rank whose frames take longer than others'; these wait as long as it gets on."""
    signs: list[str] = []
    for module in (evaluator, contest):
        for name in ("get_on", "wait_for_all"):
            monkeypatch.setattr(module, name, partial(signs.append, name))
    evaluate(brightness, loader, 19)
    count_frames([brightness], loader, 19)
    assert signs == [*["get_on"] * 3, "wait_for_all"] * 2


def test_an_interruption_gives_no_result(loader: EvalLoader) -> None:
    asked = iter([False, True])
    assert evaluate(brightness, loader, 19, interrupted=lambda: next(asked)) is None
    assert evaluate(brightness, loader, 19) is not None  # and the loader starts anew
