"""Every metric of the table: nothing waits for a GPU, and ranks compute together what one computes alone."""

import pickle
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch._subclasses.fake_tensor import FakeTensorMode

from every_metric import EVERY_METRIC
from fastseg.evaluation.metrics import (
    CLASS_METRICS,
    Frame,
    Sample,
    class_metrics,
    class_scores,
    count_classes,
    read_counts,
)
from fastseg.evaluation.results import CheckpointResult
from fastseg.evaluation.scores import Score

CLASSES = 4
FRAMES = 10
SHARE = 4
"""Frames of the first of two ranks."""
CPU = torch.device("cpu")


def results(indexes: range) -> dict[str, Any]:
    """What every metric computes, of frames of blocks in which every third pixel or so is wrong."""
    metrics = {name: make(CLASSES, CPU) for name, make in EVERY_METRIC.items()}
    for index in indexes:
        generator = torch.Generator().manual_seed(index)
        blocks = torch.randint(0, CLASSES, (5, 5), generator=generator, dtype=torch.uint8)
        label = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)
        wrong = torch.rand(label.shape, generator=generator) < 0.1 * index % 1
        prediction = torch.where(wrong, (label + 1) % CLASSES, label)
        label[:3] = 255
        matrix, numbers = count_classes(prediction, label, CLASSES)
        for metric in metrics.values():
            metric.update(Frame(index, label[..., None].expand(-1, -1, 3), label, prediction, matrix))
            metric.on_counts(index, read_counts(numbers.tolist(), CLASSES))
    return {name: metric.compute() for name, metric in metrics.items()}


def run_rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=2)
    found = results(range(SHARE) if rank == 0 else range(SHARE, FRAMES))
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def first_rank(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_rank, args=(folder,), nprocs=2)
    found: dict[str, Any] = pickle.loads((folder / "0.pickle").read_bytes())
    return found


def equal(one: Any, other: Any) -> bool:
    """Bit for bit, of arrays, samples, tuples, lists and numbers."""
    if isinstance(one, Sample):
        return equal(astuple(one), astuple(other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other if isinstance(one, str) else bool(np.array_equal(one, other, equal_nan=True))


@pytest.mark.parametrize("name", EVERY_METRIC)
def test_two_ranks_compute_what_one_does(name: str, first_rank: dict[str, Any]) -> None:
    alone = results(range(FRAMES))[name]
    assert equal(first_rank[name], alone)
    assert not equal(results(range(SHARE))[name], alone)


@pytest.mark.parametrize("name", EVERY_METRIC)
def test_a_metric_asks_a_gpu_for_nothing(name: str) -> None:
    """While frames come: what it computes at the end may wait."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        device = torch.device("cuda", 0)
        image, label, prediction = (
            torch.empty(64, 32, *more, dtype=torch.uint8, device=device) for more in ((3,), (), ())
        )
        metric, (matrix, _) = EVERY_METRIC[name](19, device), count_classes(prediction, label, 19)
        for index in range(2):
            metric.update(Frame(index, image, label, prediction, matrix))


def test_no_metric_takes_a_key_of_the_scores() -> None:
    """A line of metrics.jsonl and of --json holds both."""
    scored = Score(class_iou={}, category_iou={}, class_accuracy={}, accuracy=0.5).to_json()
    others = {"event", "seconds", "epoch", "images", "images_per_second", "matrix", "official", "pixels"}
    keys = {*CLASS_METRICS, *(f"mean_{name}" for name in CLASS_METRICS)}
    assert len(keys) == 2 * len(CLASS_METRICS)
    assert not keys & {*scored, *others, *CheckpointResult.__dataclass_fields__}


def test_metrics_with_a_column_score_every_class() -> None:
    """They are what fastseg-eval shows beside the IoU, each under its own heading and with a sentence."""
    metrics = class_metrics(CLASSES, CPU)
    assert "boundary_iou" in metrics
    scores = class_scores(metrics)
    assert len({score.column for score in scores.values()}) == len(scores)
    for score in scores.values():
        assert score.note
        assert len(score.values) == CLASSES
        assert np.isnan(score.values).all()  # no frames yet
