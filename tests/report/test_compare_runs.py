"""The page about two runs: differences, curves over each other, frames side by side, and what they do not share."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastseg.report.compare import write_comparison
from fastseg.report.gallery import write_gallery
from report_pages import CLASSES, Page, eval_line, frame, train_line, write, write_lines


def make_run(folder: Path, miou: float, **settings: Any) -> Path:
    folder.mkdir(parents=True)
    lines = [train_line(step, images_per_second_per_gpu=400 * miou) for step in (10, 20, 30)]
    write_lines(folder, [*lines, *(eval_line(step, miou * step / 30) for step in (10, 20, 30))])
    write(folder, "classes", [{"name": c.name, "color": c.color, "category": c.category} for c in CLASSES])
    write(folder, "config", {"shards": "shards/street", "optim": {"lr": 0.01, "epochs": 0.6, **settings}})
    write(folder, "environment", {"torch": "2.15"})
    write_gallery(folder / "overlays", [frame(miou), frame(0.6)], ["both", folder.name], CLASSES)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return make_run(tmp_path / "base", 0.5), make_run(tmp_path / "dice", 0.6, dice=0.5)


def compared(runs: tuple[Path, Path]) -> Page:
    path = runs[0] / "compare.html"
    assert write_comparison(runs, path) == path
    page = Page(path.read_text(encoding="utf-8"))
    assert all(address.startswith(("data:image/", "data:,", "#")) for address in page.addresses)
    assert page.tags.count("script") == 1
    return page


def test_two_runs_side_by_side(runs: tuple[Path, Path]) -> None:
    page = compared(runs)
    for said in (
        "base and dice",
        "best mIoU 50.00 % 60.00 % +10.00 points",
        "speed 200 img/s 240 img/s +20 %",
        "state finished: 0.6 epochs finished: 0.6 epochs",
        "data set street street",
        "road 50.00 % 60.00 % +10.00",
        "mean of classes 50.00 % 60.00 % +10.00",
        "train – – –",
        "optim.dice – 0.5",
        "both base, mIoU 50.00 %",
        "dice, mIoU 60.00 %",
    ):
        assert said in page.text, said
    assert "do not compare" not in page.text
    assert "optim.lr" not in page.text
    assert "Environment" not in page.text
    assert page.tags.count("svg") == 5 + len(CLASSES)
    assert page.tags.count("polyline") == 2 * (5 + len(CLASSES))
    assert page.tags.count("img") == 4 + 2  # of one frame; image and truth once
    assert "base.truth" not in page.text


def test_the_same_names_become_paths(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "a" / "street", 0.5), make_run(tmp_path / "b" / "street", 0.4)
    assert f"{runs[0]} and {runs[1]}" in compared(runs).text


@pytest.mark.parametrize(
    "missing", ["config.json", "environment.json", "metrics.jsonl", "classes.json", "overlays/gallery.json"]
)
@pytest.mark.parametrize("side", [0, 1])
def test_each_piece_may_be_missing(runs: tuple[Path, Path], missing: str, side: int) -> None:
    (runs[side] / missing).unlink()
    assert "base and dice" in compared(runs).text


def test_what_makes_scores_incomparable_is_said(runs: tuple[Path, Path]) -> None:
    other = runs[1]
    line = eval_line(30, 0.4, images=7)
    write_lines(other, [line])
    assert "scored on 500 and 7 images: their scores do not compare" in compared(runs).text
    write_lines(other, [eval_line(30, 0.4, classes={"road": 0.4})])
    text = compared(runs).text
    assert "different classes: their mean IoU does not compare" in text
    assert "sky 37.50 % – –" in text
    write(other, "environment", {"dataset": "CamVid"})
    assert "of different data sets (street, CamVid): their scores do not compare" in compared(runs).text


def test_an_evaluation_beside_a_run(runs: tuple[Path, Path]) -> None:
    scored = {"split": "val", "images": 4, "split_images": 12, "views": ["once"]}
    line = eval_line(30, 0.7, checkpoint="dice/checkpoints/best.pt", **scored)
    del line["epoch"]
    write_lines(runs[1], [line])
    text = compared(runs).text
    assert "base and best.pt, on val" in text
    assert "state finished: 0.6 epochs an evaluation alone" in text
    assert "images – 4 of 12 –" in text


def test_everything_is_escaped(runs: tuple[Path, Path]) -> None:
    evil = '<script>alert("&")</script>'
    for i, run in enumerate(runs):
        write(run, "config", {"shards": evil, evil: i})
        write(run, "environment", {evil: str(i), "commit": evil, "started": evil})
        write_lines(run, [eval_line(s, 0.5, classes={evil: 0.5}) for s in (1, 2)] + [train_line(1)])
        write(run, "classes", [{"name": evil, "color": [1, 2, 3], "category": evil}])
        write_gallery(run / "overlays", [frame()], ["<u>&"], CLASSES)
    renamed = runs[0].rename(runs[0].parent / "<s>run & co"), runs[1]
    page = compared(renamed)
    assert page.text.count(evil) >= 6
    assert "<s>run & co and dice" in page.text
    assert not {"u", "s"} & set(page.tags)
    assert json.loads((renamed[0] / "config.json").read_text())[evil] == 0
