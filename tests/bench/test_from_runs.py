"""Results of a study from the folders of runs that were started by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

import checkpoints
from bench.docs import accuracy as tables
from bench.studies import from_runs
from bench.studies.results import read_studies
from changes import with_changes
from fastseg.config import Config
from fastseg.errors import UserError
from fastseg.labels import cityscapes
from fastseg.model import checkpoint
from fastseg.recipe_table import RECIPES

WHERE = {
    "command": "fastseg-train --recipe camvid-small --shards /home/me/camvid",
    "commit": "abcdef0123",
    "processor": "Chip",
    "cores": "2",
    "gpus": "none",
    "torch": "9.8",
}


def write_run(folder: Path, config: Config, scores: list[float], best: float | None = None) -> Path:
    """A run's folder with an evaluation every ten epochs, and the best checkpoint."""
    folder.mkdir(parents=True)
    lines = []
    for i, miou in enumerate(scores, 1):
        at: dict[str, Any] = {"step": 450 * i, "seconds": 470.0 * i, "epoch": 10.0 * i}
        scored = {"miou": miou, "classes": {"road": miou, "train": None}, "images": 101, "images_per_second": 10.0}
        lines += [{"event": "train", **at, "images_per_second_per_gpu": 8.0}, {"event": "eval", **at, **scored}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "environment.json").write_text(json.dumps(WHERE))
    (folder / "checkpoints").mkdir()
    saved = checkpoints.document(cityscapes().classes)
    score = {"step": 1, "split": "val", "miou": max(scores) if best is None else best, "images": 101}
    checkpoint.save(folder / "checkpoints" / "best.pt", saved | {"shards": "nowhere", "score": score})
    return folder


def config_of(shards: Path, seed: int, **changes: Any) -> Config:
    return with_changes(RECIPES["camvid-small"](), shards=str(shards), seed=seed, **changes)


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["from_runs", "camvid-small", *map(str, words)])
    from_runs.main()


def test_three_seeds_become_a_row(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    curves = [[0.1 * i + 0.01 * seed for i in range(1, 9)] for seed in range(3)]
    curves[1][7] = 0.6  # the last evaluation is not the best
    runs = [write_run(tmp_path / f"seed{i}", config_of(shards, i), curve) for i, curve in enumerate(curves)]
    out = tmp_path / "accuracy-cpu-camvid-small.json"
    run(monkeypatch, *runs, "--json", out, "--plot", out.with_suffix(".svg"))
    assert f"3 runs; the best is {tmp_path / 'seed2'}, 82.00 % mIoU" in capsys.readouterr().out
    document = read_studies(out)
    assert document.environment["commit"] == "abcdef0123"
    assert document.environment["command"].count("--shards camvid") == 3
    results = document.studies[0].results
    assert [e.miou for e in results[0].evaluations] == curves[0]
    assert (results[0].commits, results[0].hardware) == (("abcdef0123",), "Chip, 2 cores")
    row = tables.short_table([out]).splitlines()[2]
    assert "deeplabv3plus_resnet18, from scratch, 80 epochs, crops of 240×320; [camvid-small]" in row
    assert "74.0 ± 12.2 % (3 seeds (80.0, 60.0, 82.0), 62.7 minutes each)" in row
    assert "base (74.0, 3)" in out.with_suffix(".svg").read_text()


def test_other_runs_are_refused(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [0.1 * i for i in range(1, 9)]
    for name, config, scores, best, says in (
        ("short", config_of(shards, 0), whole[:3], None, r"short is at epoch 30 of 80; resume it"),
        ("other", config_of(shards, 0, optim__lr=0.1), whole, None, r"other is no run of the recipe: .* optim\.lr"),
        ("mixed", config_of(shards, 0), whole, 0.5, r"best\.pt has 50\.00 % mIoU, metrics\.jsonl at best 80\.00 %"),
    ):
        folder = write_run(tmp_path / name, config, scores, best)
        with pytest.raises(UserError, match=says):
            run(monkeypatch, folder, "--json", tmp_path / "x.json")
    good = write_run(tmp_path / "good", config_of(shards, 0), whole)
    with pytest.raises(UserError, match="the seeds of the runs are 0, 0"):
        run(monkeypatch, good, tmp_path / "mixed", "--json", tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()
