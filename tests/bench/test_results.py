"""Rows of the bench suite: exact arithmetic, JSON there and back, tables, and refusals in one sentence."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.docs.plots import plot_throughput
from bench.docs.tables import differing, factor, number, reference_row, sentences, skipped, stage_table
from bench.runner.results import Results, Row, Spread, ratio_to_ours, read_results, spread
from bench.runner.runner import Entry, Runner, Timing
from fastseg.errors import UserError

OURS = Row(
    "loader",
    "fastseg cpu",
    "images/s",
    {"batch": 8, "crop": [768, 768], "threads": 2, "root": "/somewhere/frames"},
    (40.0, 50.0, 60.0),
    Spread(1.0, 1.0, 1.0),
    {"peak_memory_bytes": 1e9},
    1.9,
    2,
    {"torch": "2.12"},
)
NOTEBOOK = replace(
    OURS,
    entry="notebook",
    settings={"batch": 8, "crop": [768, 768], "workers": 2, "root": "/elsewhere"},
    windows=(10.0, 10.0, 30.0),
    ratio_to_ours=Spread(0.25, 0.2, 0.5),
)
ABSENT = Row("loader", "litdata", "images/s", {}, skipped="not installed: litdata")
RESULTS = Results(
    {"processor": "a | b", "cores": "2", "gpus": "none"},
    {"timing": {"windows": 3}},
    (OURS, NOTEBOOK, ABSENT),
    ({"name": "share", "value": 0.5, "sentence": "Half of it."},),
)


def test_spread_is_median_least_and_greatest() -> None:
    assert spread([3.0, 1.0, 10.0, 2.0]) == Spread(2.5, 1.0, 10.0)


def test_ratios_are_taken_window_by_window() -> None:
    """The machine halves its speed in the second round: no ratio sees it, the ratio of medians would."""
    assert ratio_to_ours([10.0, 5.0, 10.0], [40.0, 20.0, 40.0]) == Spread(0.25, 0.25, 0.25)
    assert ratio_to_ours([10.0, 10.0, 30.0], [40.0, 50.0, 60.0]) == Spread(0.25, 0.2, 0.5)
    assert ratio_to_ours([10.0, 10.0], [40.0]) == Spread(0.25, 0.25, 0.25)  # Interrupted after the first.
    assert ratio_to_ours([10.0], []) is None


def test_ratios_refer_to_the_first_of_ours_that_was_measured() -> None:
    def answer(units: int, seconds: float) -> dict[str, Any]:
        return {"units": units, "seconds": seconds, "cpu_seconds": 2 * seconds, "figures": {"a": units, "b": 1}}

    names = ("notebook", "fastseg stream", "fastseg cpu", "fastseg: reading")
    runner = Runner([Entry("loader", name, "images/s", "no:one", {}) for name in names], Timing())
    notebook, stream, cpu, part = runner.measurements
    notebook.answers = [answer(10, 2.0), answer(20, 2.0)]
    stream.answers, stream.skipped = [answer(1, 1.0)], "failed: it broke"
    cpu.answers = [answer(40, 2.0), answer(40, 1.0)]
    part.answers = [answer(400, 2.0), answer(400, 1.0)]
    rows = runner.rows()
    assert rows[0].windows == (5.0, 10.0)
    assert rows[0].ratio_to_ours == Spread(0.25, 0.25, 0.25)
    assert rows[0].figures == {"a": 15, "b": 1}
    assert rows[0].cores_used == 2
    assert (rows[1].windows, rows[1].skipped) == ((), "failed: it broke")
    assert rows[2].ratio_to_ours == Spread(1.0, 1.0, 1.0)
    assert rows[3].ratio_to_ours == Spread(10.0, 10.0, 10.0)
    assert reference_row(rows) == rows[2]


def test_a_part_is_no_reference() -> None:
    """It would make everybody look slow."""
    names = ("fastseg: reading", "fastseg", "notebook")
    runner = Runner([Entry("loader", name, "images/s", "no:one", {}) for name in names], Timing())
    for measurement, units in zip(runner.measurements, (100, 10, 5), strict=True):
        measurement.answers = [{"units": units, "seconds": 1.0, "cpu_seconds": 1.0, "figures": {}}]
    part, ours, notebook = runner.rows()
    assert notebook.ratio_to_ours == Spread(0.5, 0.5, 0.5)
    assert reference_row([part, ours, notebook]) == ours
    assert reference_row([part, notebook]) is None


def test_results_come_back_from_json(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    RESULTS.write(path)
    assert read_results(path) == RESULTS
    document = json.loads(path.read_text())
    assert list(document) == ["environment", "settings", "results", "derived"]
    assert document["results"][1]["median"] == 10
    assert document["results"][1]["ratio_to_ours"] == {"median": 0.25, "min": 0.2, "max": 0.5}
    assert document["results"][2] == {
        "stage": "loader",
        "entry": "litdata",
        "unit": "images/s",
        "settings": {},
        "skipped": "not installed: litdata",
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.pop("results"), "Object missing required field `results`"),
        (lambda d: d["results"].append(3), r"Expected `object`, got `int` - at `\$\.results\[3\]`"),
        (lambda d: d["results"][0].pop("unit"), "Object missing required field `unit`"),
        (lambda d: d["results"][0].update(windows=[]), "'fastseg cpu' has neither windows nor a reason"),
        (
            lambda d: d["results"][0].update(windows=[1, "x"]),
            r"Expected `float`, got `str` - at `\$\.results\[0\]\.windows\[1\]`",
        ),
        (lambda d: d["results"][0].update(ratio_to_ours={"median": 1}), "Object missing required field `min`"),
        (lambda d: d["results"][2].update(skipped=True), "Expected `str \\| null`, got `bool`"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    path = tmp_path / "results.json"
    RESULTS.write(path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=f"results.json holds no results of bench/throughput.py: {says}"):
        read_results(path)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json cannot be read: No such file"):
        read_results(tmp_path / "absent.json")
    (tmp_path / "text").write_text("fast")
    with pytest.raises(UserError, match="text holds no results"):
        read_results(tmp_path / "text")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.01234, "0.0123"), (0.5, "0.500"), (4.567, "4.57"), (45.67, "45.7"), (456.7, "457"), (12345.6, "12,346")],
)
def test_numbers_have_three_figures(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_table_shows_settings_in_which_entries_differ() -> None:
    assert differing([OURS, NOTEBOOK]) == {"threads": [2, None], "workers": [None, 2]}
    lines = stage_table([OURS, NOTEBOOK, ABSENT]).splitlines()
    assert lines[0] == "**loader (images/s)**"
    assert lines[4] == "| fastseg cpu | 50.0 | 40.0–60.0 | 1.00× | 1.9 | threads=2 |"
    assert lines[5] == "| notebook | 10.0 | 10.0–30.0 | 0.25×, 4.0× slower | 1.9 | workers=2 |"
    assert lines[7] == "batch 8, crop 768×768, 3 windows"
    assert lines[-1] == "- litdata: not installed: litdata"
    assert skipped([OURS, ABSENT]) == ["litdata: not installed: litdata"]


def test_a_loaders_work_stands_below_its_table() -> None:
    work = {"crop": [96, 128], "scale": [0.5, 2.0], "batch": 4, "device": "cpu", "seed": 7, "fill": [1, 2, 3]}
    rows = [replace(row, settings={"work": work, "threads": 2}) for row in (OURS, NOTEBOOK)]
    assert stage_table(rows).splitlines()[-1] == "threads 2, crop 96×128, scale 0.5–2.0, batch 4, 3 windows"
    rows[1] = replace(NOTEBOOK, settings={"work": work | {"batch": 8}, "threads": 2})
    assert differing(rows) == {"batch": [4, 8]}


def test_what_rows_say_together_are_sentences() -> None:
    assert sentences([{"name": "a", "sentence": "half of it"}, {"sentence": "Whole"}]) == ["Half of it.", "Whole."]


@pytest.mark.parametrize(
    ("ratio", "says"), [(0.25, "4.0× slower"), (1.02, "even"), (0.98, "even"), (1.5, "1.50× faster")]
)
def test_factors_are_fair_to_both(ratio: float, says: str) -> None:
    assert factor(replace(NOTEBOOK, ratio_to_ours=Spread(ratio, ratio, ratio))) == says


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_results_are_drawn(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"results.{suffix}"
    faster = replace(OURS, entry="fastseg, cached", windows=(80.0,), ratio_to_ours=Spread(2.0, 2.0, 2.0))
    plot_throughput(replace(RESULTS, results=(*RESULTS.results, faster)), path)
    if suffix == "png":
        assert path.read_bytes().startswith(b"\x89PNG")
    else:
        assert all(text in path.read_text() for text in ("fastseg cpu", "4.0× slower", "litdata", "2.00× faster"))


def test_pictures_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--plot is .*results.jpg; its name must end in .png or .svg"):
        plot_throughput(RESULTS, tmp_path / "results.jpg")
    pytest.importorskip("matplotlib")
    with pytest.raises(UserError, match="no entry was measured"):
        plot_throughput(replace(RESULTS, results=(ABSENT,)), tmp_path / "results.png")
