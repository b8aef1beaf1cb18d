"""A network other than DeepLabv3, from the command that trains it to the one that scores it."""

import json
from pathlib import Path

import pytest

import commands

ARCH = "lraspp_mobilenet_v3_large"


@pytest.mark.slow
def test_a_network_without_an_auxiliary_head_is_trained_and_scored(shards: Path, tmp_path: Path) -> None:
    command = ("fastseg-train", *commands.TINY, "--model.arch", ARCH, "--shards", shards, "--runs", tmp_path)
    result = commands.run(*command, "--name", "x", "--optim.epochs", 1)
    assert result.returncode == 0, result.stderr
    assert f"{ARCH} from none weights" in result.stderr
    lines = [json.loads(line) for line in (tmp_path / "x" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["event"] == "train"]
    assert len(trained) == 5
    assert all(line["loss"] == line["loss_out"] > 0 == line["loss_aux"] for line in trained)

    best = tmp_path / "x" / "checkpoints" / "best.pt"
    result = commands.run("fastseg-eval", best, "--json")
    assert result.returncode == 0, result.stderr
    scores = json.loads(result.stdout)
    assert scores["miou"] == pytest.approx(lines[-1]["miou"], abs=1e-6)
    assert 0 < scores["mean_boundary_iou"] < 1

    commands.refused(
        commands.run(*command, "--name", "y", "--optim.aux", 0.4),
        f"--optim.aux is 0.4; it must be 0 or left out: {ARCH} has no auxiliary head",
    )
