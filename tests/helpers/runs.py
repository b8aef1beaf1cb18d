"""What a training run left in its folder, for tests."""

import json
from pathlib import Path

import torch


def lines(folder: Path, event: str) -> list[dict]:
    """The records of metrics.jsonl of one kind: train or eval."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == event]


def weights(path: Path) -> dict:
    """A checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_equal(one: object, other: object, where: str = "") -> None:
    """Equal bit for bit, however deep."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}[{i}]")
    else:
        assert one == other, where


def assert_same_run(one: Path, other: Path) -> None:
    """Two run folders hold the same state bit for bit, and each step and evaluation once, with the same numbers."""
    first, second = (weights(folder / "checkpoints" / "last.pt") for folder in (one, other))
    progress = ("step", "epoch", "images_seen", "best", "eval_pending")
    for part in ("model", "ema", "optimizer", "scaler", "ranks", *progress):
        assert_equal(first[part], second[part], part)
    for event, values in (("train", ("step", "loss", "lr")), ("eval", ("step", "miou", "classes"))):
        records = [[[line[value] for value in values] for line in lines(folder, event)] for folder in (one, other)]
        assert records[0] == records[1]
