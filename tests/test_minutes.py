"""How long a whole run takes, by measured and by assumed rates."""

import dataclasses
import math
from pathlib import Path

import pytest

from bench.suite import minutes
from bench.suite.rows import Results, Row

WORK = {"arch": "deeplabv3_resnet50", "crop": [768, 768], "batch": 8}


def test_minutes_are_images_over_rates() -> None:
    assert minutes.evaluated() == 22 * 500  # every 10 of 215 epochs, and at the end
    assert minutes.minutes(100, math.inf, 1) == pytest.approx(640_000 / 100 / 60)
    assert minutes.minutes(100, 50, 1) == pytest.approx((6400 + 220) / 60)
    assert minutes.minutes(100, 50, 8) == pytest.approx((6400 + 220) / 60 / 8)


def test_assumed_rates_are_in_proportion() -> None:
    """A crop's work is known. A frame has more pixels, but goes forward only, a third of forward and backward, and
    not through the auxiliary head."""
    train, evaluation = minutes.assumed_rates(989, 0.5)
    assert train == pytest.approx(0.5 * 989 / 2.336, rel=1e-3)
    pixels = 2048 * 1024 / 768**2
    assert 0.9 < train / evaluation / (pixels / 3) < 1
    assert minutes.assumed_rates(989, 0.25) == pytest.approx((train / 2, evaluation / 2))


def test_what_was_measured_on_a_gpu_stands_above_what_is_assumed(tmp_path: Path) -> None:
    rows = (
        Row("train", "fastseg, streamed", "images/s", WORK, (150.0,)),
        Row("train", "fastseg", "images/s", WORK, (199.0, 200.0, 201.0)),
        Row("evaluation", "fastseg", "frames/s", WORK, (100.0,)),
    )
    card = Results({"gpus": "1 × Card", "processor": "Chip", "cores": "16"}, {}, rows)
    smaller = dataclasses.replace(
        card, rows=(Row("train", "fastseg", "images/s", WORK | {"crop": [256, 256]}, (9.0,)),)
    )
    runs = {"cpu": dataclasses.replace(card, environment=card.environment | {"gpus": "none"}), "small": smaller}
    runs |= {"card": card, "loop": dataclasses.replace(card, rows=rows[1:2])}
    for name, results in runs.items():
        results.write(tmp_path / f"throughput-{name}.json")
    lines = minutes.table([tmp_path / f"throughput-{name}.json" for name in runs]).splitlines()
    found = "[throughput-card.json](../bench/results/throughput-card.json)"
    assert lines[2] == f"| 1 × Card | **measured**, {found} | 200 | 100 | 55.2 | 6.90 |"
    assert "| 200 | not measured, not counted | 53.3 | 6.67 |" in lines[3]
    assert all("assumed: " in line for line in lines[4:])
    assert len(lines) == 4 + len(minutes.CARDS) * len(minutes.SHARES)
