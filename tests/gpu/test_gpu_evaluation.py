"""The evaluation on the GPU: it counts as the CPU does, to the pixel, and does not wait for the GPU batch by batch."""

from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_sets import eval_loader, pack_kind
from one_gpu import CPU, DEVICE, forbid_waiting, keep_busy, needs_gpu

from every_metric import EVERY_METRIC
from fastseg.data.loader import EvalLoader
from fastseg.evaluation.evaluator import EvaluatedModel, Infer, evaluate
from fastseg.evaluation.metrics import ConfusionMatrix, Sample, class_metrics, count_pixels
from fastseg.model.inference import predict
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork

pytestmark = needs_gpu

CLASSES = 19


def brightness(image: torch.Tensor) -> torch.Tensor:
    """A "network" of whole numbers, which every device computes alike: the class is the brightness."""
    return (image.sum(-1, dtype=torch.int32) * CLASSES // (3 * 256)).to(torch.uint8)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNGs, which are decoded alike everywhere."""
    return pack_kind("png", tmp_path_factory.mktemp("frames"))


@pytest.mark.parametrize("classes", [2, 19, 150, 256])
def test_pixels_are_counted_as_on_the_cpu(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    label = torch.randint(0, 256, (512, 1024), generator=generator, dtype=torch.int64).to(torch.uint8)
    prediction = torch.randint(0, classes, (512, 1024), generator=generator).to(torch.uint8)
    for ids in (prediction, prediction.to(torch.int64) + (label == 7)):  # some pixels of no class
        ours, strange = count_pixels(ids.to(DEVICE), label.to(DEVICE), classes)
        expected, others = count_pixels(ids, label, classes)
        assert ours.dtype == expected.dtype == torch.int64
        assert torch.equal(ours.cpu(), expected)
        assert strange.item() == others.item()
    assert expected.sum() > 0


@pytest.mark.parametrize("batch", [1, 2])
def test_an_evaluation_is_the_cpus_to_the_bit(frames: Path, batch: int) -> None:
    """Matrix, worst frames and their IoU. The GPU is late: a host that did not wait for a batch's numbers would look at
    others."""

    def late(image: torch.Tensor) -> torch.Tensor:
        keep_busy()
        return brightness(image)

    ours, expected = (
        results(late, eval_loader(frames, DEVICE, batch)),
        results(brightness, eval_loader(frames, CPU, batch)),
    )
    for name in EVERY_METRIC:
        assert equal(ours[name], expected[name]), name
    assert ours["confusion_matrix"].sum() > 0
    assert len(ours["worst_frames"]) == 3


def results(infer: Infer, loader: EvalLoader) -> dict[str, Any]:
    """What every metric computes."""
    metrics = {name: make(CLASSES, loader.device) for name, make in EVERY_METRIC.items()}
    evaluation = evaluate([EvaluatedModel(infer, list(metrics.values()))], loader, CLASSES)
    assert evaluation
    assert evaluation.images == 3
    return {name: metric.compute() for name, metric in metrics.items()}


def equal(one: Any, other: Any) -> bool:
    """Bit for bit, of arrays, samples, tuples, lists and numbers."""
    if isinstance(one, Sample):
        return equal(astuple(one), astuple(other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other if isinstance(one, str) else bool(np.array_equal(one, other, equal_nan=True))


def test_an_evaluation_does_not_wait_for_the_gpu(frames: Path) -> None:
    """After the first frame, whose sizes are new to all, until the last one is counted; no frames are kept, which would
    have to be copied."""
    model = (
        SegmentationNetwork("deeplabv3_mobilenet_v3_large", CLASSES, IMAGENET_MEAN, IMAGENET_STD, False)
        .to(DEVICE)
        .eval()
    )
    loader, matrix = eval_loader(frames, DEVICE, batch=1), ConfusionMatrix(CLASSES, DEVICE)

    def progress(done: int, total: int) -> None:
        forbid_waiting(done < total)

    try:
        metrics = [matrix, *class_metrics(CLASSES, DEVICE).values()]
        result = evaluate([EvaluatedModel(partial(predict, model), metrics)], loader, CLASSES, progress=progress)
    finally:
        forbid_waiting(False)
    assert result
    assert result.images == 3
    assert matrix.compute().sum() > 0
