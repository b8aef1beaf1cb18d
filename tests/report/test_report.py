"""The report page: well-formed, self-contained, escaped, and right whatever the run folder lacks."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastseg.errors import UserError
from fastseg.recipe_table import camvid
from fastseg.report.charts import MAX_POINTS, SMALL_POINTS, Series, compact, line_chart, small_chart, ticks
from fastseg.report.facts import duration, energy
from fastseg.report.gallery import write_gallery
from fastseg.report.pictures import MATRIX_CLASSES
from fastseg.report.report import write_report
from fastseg.report.run_folder import started
from report_pages import CLASSES, Page, eval_line, frame, train_line, write, write_lines


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A complete run: 1,000 steps in lines of 2, ten evaluations of which the ninth is the best."""
    folder = tmp_path / "street"
    folder.mkdir()
    evaluations = [
        eval_line(step, 0.6 * (1 - math.exp(-step / 300)) - 0.02 * (step == 1000)) for step in range(100, 1001, 100)
    ]
    write_lines(folder, [train_line(step) for step in range(2, 1001, 2)] + evaluations)
    (folder / "config.json").write_text(json.dumps({"name": "street", "optim": {"lr": 0.01, "clip": None}}))
    (folder / "environment.json").write_text(json.dumps({"command": "torchrun fastseg/train.py demo", "torch": "2.15"}))
    classes = [{"name": c.name, "color": c.color, "category": c.category} for c in CLASSES]
    (folder / "classes.json").write_text(json.dumps(classes))
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 100, (19, 19)) + np.diag(rng.integers(500, 9000, 19))
    matrix[16] = matrix[:, 16] = 0
    matrix[12, 11] = 9999
    (folder / "confusion.json").write_text(json.dumps({"matrix": matrix.tolist()}))
    write_gallery(folder / "overlays", [frame(), frame(0.6)], ["aachen_000000_000019", "ulm_1"], CLASSES)
    return folder


def page_of(folder: Path) -> Page:
    path = write_report(folder)
    assert path == folder / "report.html"
    assert path.stat().st_size < 5_000_000
    page = Page(path.read_text(encoding="utf-8"))
    kinds = ("data:image/jpeg;base64,", "data:image/png;base64,", "data:,", "#")
    assert all(address.startswith(kinds) for address in page.addresses)
    assert "url(" not in path.read_text(encoding="utf-8")
    assert page.tags.count("script") == 1
    return page


def test_a_complete_run_shows_every_section(run_folder: Path) -> None:
    page = page_of(run_folder)
    assert page.tags.count("svg") == 5 + len(CLASSES)
    assert page.tags.count("img") == 2 * 4
    assert page.tags.count("td") > 19 * 19
    best = 0.6 * (1 - math.exp(-900 / 300))
    for expected in (
        f"{100 * best:.2f} %",
        "step 900",
        "212.5 img/s",
        "2.00 %",
        "6 min 40 s",
        "3.0 GiB",
        "1,000",
        "mean of categories",
        "The last evaluation: step 1,000",
        "rider taken for person",
        "aachen_000000_000019, mIoU 41.20 %",
        "torchrun fastseg/train.py demo",
        "optim.lr",
        f"{100 * best * (1 - 10 / 40):.2f} %",  # sky
        f"{90 * best:.2f} %",  # a category
    ):
        assert expected in page.text


def test_a_network_without_auxiliary_head_has_one_loss(run_folder: Path) -> None:
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert "auxiliary head" in page_of(run_folder).text
    write_lines(run_folder, [line | ({"loss_aux": 0.0} if line["event"] == "train" else {}) for line in lines])
    text = page_of(run_folder).text
    assert "total" in text
    assert "auxiliary head" not in text
    assert "main head" not in text


def test_the_header_says_what_the_run_is(run_folder: Path) -> None:
    config = camvid().to_dict() | {"name": "street", "seed": 3}
    config["optim"] = {**config["optim"], "epochs": 20, "dice": 0.5}
    environment = {
        "command": "python fastseg/train.py --recipe camvid --seed 3",
        "dataset": "CamVid-11",
        "started": "2026-11-30 16:10 UTC",
        "commit": "0123456789" * 4 + " (changed)",
        "gpus": "8 × NVIDIA H200",
    }
    write(run_folder, "config", config)
    write(run_folder, "environment", environment)
    text = page_of(run_folder).text
    assert "street finished: 20 epochs data set CamVid-11 network deeplabv3_resnet50, from scratch" in text
    assert "recipe camvid, 3 settings changed started 2026-11-30 16:10 UTC commit 012345678 (changed)" in text
    assert "machine 8 × NVIDIA H200" in text
    top = text.index("Settings that differ from the recipe camvid")
    assert "setting this run recipe seed 3 0 optim.epochs 20 600 optim.dice 0.5 0.0" in text[top:]
    assert "All settings" in text[top:]
    config["optim"]["epochs"] = 20.5
    write(run_folder, "config", config)
    assert "not finished: epoch 20 of 20.5" in page_of(run_folder).text
    write(run_folder, "config", config | {"patience": 1})
    assert "ended at epoch 20 of 20.5: no better for 1 evaluations" in page_of(run_folder).text


def test_a_resumed_run_keeps_its_start(run_folder: Path) -> None:
    write(run_folder, "environment", {"started": "2026-11-30 16:10 UTC"})
    assert started(run_folder, resumed=True) == "2026-11-30 16:10 UTC"
    now = started(run_folder, resumed=False)
    assert now > "2026-11-30 16:10 UTC" or now.endswith(" UTC")


@pytest.mark.parametrize("command", ["", "python my_script.py --recipe demo", "'unbalanced"])
def test_a_run_from_python_with_a_network_of_its_own(run_folder: Path, command: str) -> None:
    """What is not known is said in a word, and nothing is compared with a recipe that nobody named."""
    write(run_folder, "config", {"model": {"arch": "mine.SmallUnet"}, "loss": ["dice", 2]})
    write(run_folder, "environment", {"command": command, "processor": "Chip", "cores": "1"})
    text = page_of(run_folder).text
    assert "street not finished: epoch 20 data set not known network mine.SmallUnet recipe not known" in text
    assert "started not known commit not known machine Chip, 1 core" in text
    assert "differ from the recipe" not in text
    write(run_folder, "config", {"model": "mine", "optim": None})
    assert "network not known" in page_of(run_folder).text
    write(run_folder, "config", camvid().to_dict() | {"seed": 7})
    text = page_of(run_folder).text
    assert "recipe closest to camvid, 1 setting changed" in text
    assert "Settings that differ from the recipe camvid setting this run recipe seed 7 0" in text
    write(run_folder, "environment", {"recipe": "demo"})
    assert "Settings that differ from the recipe demo" in page_of(run_folder).text


def test_what_was_never_predicted_is_named(run_folder: Path) -> None:
    assert "never predicted" not in page_of(run_folder).text
    matrix = json.loads((run_folder / "confusion.json").read_text())["matrix"]
    for row in matrix:
        row[3] = row[7] = row[16] = 0  # class 16 does not occur
    write(run_folder, "confusion", {"matrix": matrix})
    said = "2 of 19 classes are never predicted (wall, traffic sign): try --optim.class-weights 0.5"
    assert said in page_of(run_folder).text


def test_minutes_of_evaluations_and_energy(tmp_path: Path) -> None:
    evaluations = [eval_line(step, 0.5, joules=1.8e6, seconds=step) for step in (10, 20)]
    write_lines(tmp_path, [train_line(20), *evaluations])
    text = page_of(tmp_path).text
    assert "wall time 20 s 25 s of it evaluating" in text
    assert "energy 1 kWh of all GPUs, until the last evaluation" in text
    write_lines(tmp_path, [train_line(20), eval_line(20, 0.5)])
    assert "energy" not in page_of(tmp_path).text
    assert [energy(joules) for joules in (1800, 3.6e5, 3.6e6, math.nan)] == ["0.5 Wh", "100 Wh", "1 kWh", "– Wh"]
    assert [duration(s) for s in (3.4, 200, 18420, math.nan)] == ["3 s", "3 min 20 s", "5 h 07 min", "–"]


def test_frames_say_why_they_are_shown(run_folder: Path) -> None:
    frames = [replace(frame(0.1), kind="worst"), replace(frame(0.5), kind="random"), replace(frame(0.9), kind="best")]
    write_gallery(run_folder / "overlays", frames, ["a", "b", "c"], CLASSES)
    text = page_of(run_folder).text
    for said in ("a, mIoU 10.00 % , worst", "b, mIoU 50.00 % , random", "c, mIoU 90.00 % , best"):
        assert said in text


def test_the_same_run_gives_the_same_bytes(run_folder: Path) -> None:
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


@pytest.mark.parametrize(
    "missing", ["config.json", "environment.json", "metrics.jsonl", "classes.json", "confusion.json", "overlays"]
)
def test_each_piece_may_be_missing(run_folder: Path, missing: str) -> None:
    (run_folder / missing).rename(run_folder.parent / "away")
    page_of(run_folder)


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    assert "no measurements yet" in page_of(tmp_path).text


def test_before_the_first_evaluation_there_are_curves_only(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_line(10)])
    page = page_of(tmp_path)
    assert page.tags.count("svg") == 4
    assert "mIoU" not in page.text


def test_one_evaluation_without_training_is_no_curve(run_folder: Path) -> None:
    write_lines(run_folder, [eval_line(10, 0.5)])
    page = page_of(run_folder)
    assert page.tags.count("svg") == 0
    assert "50.00 %" in page.text
    assert "best mIoU" not in page.text
    assert "best evaluation" not in page.text


def test_an_evaluation_alone_says_of_what(run_folder: Path) -> None:
    line = {"checkpoint": "runs/street/checkpoints/best.pt", "split": "val", "images": 4, "split_images": 12}
    line["views"] = ["windows of 40×48"]
    write_lines(run_folder, [eval_line(10, 0.5, **line)])
    folder = run_folder.rename(run_folder.parent / "evaluated")
    text = page_of(folder).text
    assert text.startswith("best.pt of street, on val – fastseg best.pt of street, on val data set")
    assert "mIoU 50.00 %" in text
    assert "finished" not in text
    assert "images 4 of 12 of val, windows of 40×48" in text
    assert "evaluated" not in text
    write_lines(folder, [eval_line(10, 0.5, **{**line, "images": 12, "views": []})])
    assert "images 12 of val" in page_of(folder).text


def test_nan_and_null_are_left_out(tmp_path: Path) -> None:
    lines = [train_line(1, loss=math.nan), train_line(2, loss=math.inf, lr=None), train_line(3, loss=0.5)]
    write_lines(tmp_path, [*lines, eval_line(3, math.nan), eval_line(4, 0.25, accuracy=None)])
    page = page_of(tmp_path)
    assert "25.00 %" in page.text
    assert "Not finite and not drawn: 2." in page.text
    body = (tmp_path / "report.html").read_text().split("</style>")[1]
    assert "nan" not in body.replace(tmp_path.name, "").lower()


def test_damaged_records_are_counted(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_line(10), eval_line(10, 0.5)])
    assert "damaged records" not in page_of(tmp_path).text
    lines = [
        train_line(10, corrupt_samples=1),
        eval_line(10, 0.5, corrupt_samples=0),
        train_line(20, corrupt_samples=3),
    ]
    write_lines(tmp_path, lines)
    assert "damaged records 3 + 0 skipped in training + in an evaluation" in page_of(tmp_path).text


def test_a_resumed_run_counts_repeated_steps_once(tmp_path: Path) -> None:
    before = [train_line(10, loss=1.0), train_line(20, loss=7777.0), eval_line(20, 0.77)]
    after = [train_line(20, loss=0.5), eval_line(20, 0.3), eval_line(20, 0.2, weights="model")]
    write_lines(tmp_path, before + after)
    page = page_of(tmp_path)
    assert "77.00 %" not in page.text
    assert "30.00 %" in page.text
    assert "8k" not in page.text
    assert page.tags.count("circle") == 6 * 2 + 2  # six curves of two steps, an evaluation of each kind of weights


def test_a_line_cut_by_a_crash_is_passed_over(tmp_path: Path) -> None:
    text = json.dumps(train_line(1)) + "\n" + json.dumps(train_line(2))[:40] + "\n" + json.dumps(train_line(3)) + "\n"
    (tmp_path / "metrics.jsonl").write_text(text)
    assert "at step 3" in page_of(tmp_path).text


def test_everything_is_escaped(run_folder: Path) -> None:
    evil = '<script>alert("&")</script>'
    classes = [{"name": evil, "color": [1, 2, 3], "category": evil}]
    (run_folder / "classes.json").write_text(json.dumps(classes))
    (run_folder / "confusion.json").write_text(json.dumps({"matrix": [[3]]}))
    (run_folder / "config.json").write_text(json.dumps({evil: {evil: evil}}))
    (run_folder / "environment.json").write_text(json.dumps({"command": evil, evil: evil}))
    write_gallery(run_folder / "overlays", [frame(0.5)], ["<u>&"], CLASSES)
    line = eval_line(1, 0.5, classes={evil: 0.5}, categories={evil: 0.5}, weights=evil)
    write_lines(run_folder, [line, train_line(1)])
    named = run_folder.rename(run_folder.parent / "<s>run & co")
    page = page_of(named)
    assert page.text.count(evil) >= 8
    assert "<u>&, mIoU 50.00 %" in page.text
    assert not {"u", "s"} & set(page.tags)
    assert page.tags.count("script") == 1  # our own


def test_a_page_with_many_pictures_and_classes_stays_small(run_folder: Path) -> None:
    frames = [frame(i / 20, (512, 1024), noise=True) for i in range(8)]
    write_gallery(run_folder / "overlays", frames, [f"key{i}" for i in range(8)], CLASSES)
    assert sum(path.stat().st_size for path in (run_folder / "overlays").iterdir()) > 5_000_000
    (run_folder / "confusion.json").write_text(json.dumps({"matrix": [[9] * 255] * 255}))
    write_lines(run_folder, [train_line(step) for step in range(20_000)])
    page = page_of(run_folder)
    assert 0 < page.tags.count("img") < 8 * 4
    assert "more in the folder overlays" in page.text
    assert f"{255 - MATRIX_CLASSES} others are left out" in page.text


@pytest.mark.parametrize("count", [2, 255])
def test_few_and_many_classes(tmp_path: Path, count: int) -> None:
    classes = [{"name": f"class {i}", "color": [i, 0, 0], "category": ""} for i in range(count)]
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    (tmp_path / "confusion.json").write_text(json.dumps({"matrix": [[9] * count] * count}))
    ious = {f"class {i}": i / count for i in range(count)}
    write_lines(tmp_path, [eval_line(3, 0.5, classes=ious, categories={}, class_accuracy=ious)])
    text = page_of(tmp_path).text
    assert f"class {count - 1} {100 * (count - 1) / count:.2f} %" in text
    assert "Boundary IoU" not in text
    assert "Category" not in text
    assert f"{100 / count:.2f} %" in text  # the share of pixels


def test_boundary_iou_has_a_column_where_it_was_measured(run_folder: Path) -> None:
    by_class = {"road": 0.4321, "train": None, "sky": 0.1}
    write_lines(run_folder, [eval_line(1, 0.5, boundary_iou=by_class, mean_boundary_iou=0.2661)])
    text = page_of(run_folder).text
    assert "Boundary IoU" in text
    assert "43.21 %" in text
    assert "26.61 %" in text


def test_a_frame_whose_picture_is_gone_shows_the_others(run_folder: Path) -> None:
    (run_folder / "overlays" / "00_aachen_000000_000019.truth.png").unlink()
    assert page_of(run_folder).tags.count("img") == 7


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("classes.json", '[{"name": "a"}]'),
        ("confusion.json", '{"matrix": [[1, 2]]}'),
        ("confusion.json", '{"matrix": [["a"]]}'),
        ("confusion.json", '{"matrix": 3}'),
    ],
)
def test_a_damaged_file_is_named(run_folder: Path, file: str, text: str) -> None:
    (run_folder / file).write_text(text)
    with pytest.raises(UserError, match=file):
        write_report(run_folder)
    assert not (run_folder / "report.html").exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is no run folder"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0), (0, 80_000), (-3, 17), (2e-5, 0.01), (5, 5), (0, 97.3)])
def test_ticks_are_round_and_enclose_the_range(low: float, high: float) -> None:
    values = ticks(low, high)
    assert values[0] <= low
    assert values[-1] >= high
    assert 2 <= len(values) <= 8
    steps = np.diff(values)
    assert np.allclose(steps, steps[0])
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(mantissa - round_one) for round_one in (1, 2, 5, 10)) < 1e-6


def test_compact_numbers() -> None:
    values = (0, 0.01, 5e-5, 412.345, 80_000, 1_500_000, math.nan)
    assert [compact(v) for v in values] == ["0", "0.01", "5e-5", "412.3", "80k", "1.5M", "–"]


def test_a_chart_places_points_by_value() -> None:
    svg = line_chart("t", [Series("a", [(0, 0), (50, 10), (100, 5)])])
    circles = [piece.split('"') for piece in svg.split("<circle ")[1:]]
    (x0, y0), (x1, y1), (x2, y2) = [(float(c[3]), float(c[5])) for c in circles]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(2 * (y0 - y2), abs=0.2)
    assert y1 < y2 < y0


def numbers(svg: str, name: str) -> list[list[float]]:
    """The numbers that the lines of a chart carry for the page's script."""
    return [[float(v) for v in piece.split('"')[0].split()] for piece in svg.split(f' data-{name}="')[1:]]


def test_lines_carry_their_numbers() -> None:
    series = [Series("a", [(2, 7.5), (1, 0.123456), (3, math.nan)]), Series('"b"', [(1, 3)], style=2)]
    svg = line_chart("t", series, unit=" %")
    assert 'data-axis="epoch" data-unit=" %"' in svg
    assert numbers(svg, "x") == [[1], [1, 2]]  # the first series is on top
    assert numbers(svg, "y") == [[3], [0.1235, 7.5]]
    assert 'data-style="s2" data-name="&quot;b&quot;"' in svg
    small = small_chart("t", [Series("a", [(float(x), x / 100) for x in range(1000)])], 0, 999)
    assert len(numbers(small, "y")[0]) <= SMALL_POINTS


def test_a_long_series_keeps_its_extremes_as_a_band() -> None:
    points = [(float(x), 1.0 + 9.0 * (x == 5000)) for x in range(10_000)]
    svg = line_chart("t", [Series("a", points)])
    line = svg.split('<polyline class="line s0" points="')[1].split('"')[0].split()
    band = svg.split('<polygon class="band s0" points="')[1].split('"')[0].split()
    assert len(line) <= MAX_POINTS
    top = {name: min(float(p.split(",")[1]) for p in part) for name, part in (("line", line), ("band", band))}
    assert top["band"] == pytest.approx(12, abs=0.1)  # the value 10 on an axis that ends at 10
    assert top["line"] > 100
