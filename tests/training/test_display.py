"""The bar as terminals of any width show it, a notebook's line, and what is left without either."""

import io
import math
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from fastseg.progress import be_quiet, show_progress
from fastseg.training import display
from fastseg.training.display import MIN_BAR, Display, RunProgress, shrink

LONG = {
    "epoch": 112.4,
    "loss": 0.1234,
    "lr": 0.00123,
    "images_per_second_per_gpu": 212.34,
    "tflops": 612.3,
    "mfu": 0.62,
    "waiting": 0.01,
    "memory": 61.2 * 2**30,
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> RunProgress:
    """Half of a run of days on many GPUs, whose last score is not its best."""
    monkeypatch.setattr(display.time, "monotonic", lambda: 0.0)
    run = RunProgress(41000, 79980, " per GPU", 0.789, epoch=41000 * 112.4 / 41800)
    run.advance(41000)
    monkeypatch.setattr(display.time, "monotonic", lambda: 800.0)
    run.advance(41800)
    run.window(41800, LONG)
    run.evaluated(0.7856)
    return run


def drawn(run: RunProgress, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system="truecolor", force_terminal=True)
    console.print(run)
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return Text.from_ansi(line).plain.rstrip()


def test_eighty_columns_show_what_matters(run: RunProgress) -> None:
    line = drawn(run, 80)
    for words in ("112/215", "41800/79980", "10:36:20", "loss 0.12", "212 img/s", "mIoU 78.6"):
        assert words in line
    assert line.count("━") + line.count("╸") + line.count("╺") >= MIN_BAR
    assert len(line) <= 80


def test_more_columns_show_more(run: RunProgress) -> None:
    line = drawn(run, 120)
    for words in ("epoch 112.4/215", "10:36:20 left", "loss 0.123", "212.3 img/s", "mIoU 78.56 %", "waiting 1 %"):
        assert words in line
    wide = drawn(run, 200)
    for words in ("(best 78.90)", "img/s per GPU", "lr 0.0012", "61.2 GiB", "612 TFLOP/s (62 % MFU)"):
        assert words in wide


@pytest.mark.parametrize("width", range(20, 200, 3))
def test_nothing_is_cut_at_any_width(width: int, run: RunProgress) -> None:
    line = drawn(run, width)
    assert len(line) <= width
    assert "…" not in line
    known = {form for forms in run.facts().values() for form in forms}
    words = line.replace("━", " ").replace("╸", " ").replace("╺", " ")
    assert all(part.strip() in known for part in words.split("  ") if part.strip() and "/" not in part)


def test_facts_shrink_before_the_bar(run: RunProgress) -> None:
    for width in range(60, 130):
        bar = sum(drawn(run, width).count(c) for c in "━╸╺")
        assert bar >= MIN_BAR or not shrink(run.facts(), width - MIN_BAR).get("left")


def test_a_young_run_says_what_is_known() -> None:
    run = RunProgress(0, 180, "", math.nan)
    assert drawn(run, 80).endswith("step 0/180")
    run.advance(1)
    run.frames = (3, 40)
    assert "evaluating 3/40" in drawn(run, 80)
    run.evaluated(0.25)
    assert "evaluating" not in drawn(run, 80)
    assert "mIoU 25.00 %" in drawn(run, 80)


class Cell:
    """Stands for IPython's display, which needs a kernel: notes what a cell shows."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.replaced = 0

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> "Cell":
        assert raw
        assert display_id
        self.lines.append(data["text/plain"])
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.lines[-1] = data["text/plain"]
        self.replaced += 1


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    cell = Cell()
    shell = SimpleNamespace(kernel=object())
    ipython: Any = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=cell.display))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    return cell


def test_a_notebook_has_one_line_that_changes(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Display(0, 20)
    shown.say("a sentence")
    for step in range(1, 21):
        shown.advance(step)
        if step % 10 == 0:
            shown.train(step, {**LONG, "epoch": step / 10})
    shown.evaluated(0.5)
    shown.close()
    assert len(cell.lines) == 1
    assert cell.replaced
    assert "epoch 2.0/2" in cell.lines[0]
    assert "mIoU 50.00 %" in cell.lines[0]
    assert len(cell.lines[0]) <= 100
    out, err = capsys.readouterr()
    assert (out, err) == ("a sentence\n", "")
    with show_progress("packing", "frames") as show:
        for done in range(101):
            show(done, 100)
    assert len(cell.lines) == 2
    assert cell.lines[1].startswith("packing: 100/100, ")


@pytest.fixture
def quiet() -> Iterator[None]:
    be_quiet()
    yield
    be_quiet(False)


@pytest.mark.usefixtures("quiet")
def test_quiet_leaves_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Display(0, 20)
    shown.say("a sentence")
    shown.say("warning: a disk is slow")
    shown.train(10, LONG)
    shown.close()
    with show_progress("packing", "frames") as show:
        show(1, 1)
    assert capsys.readouterr().err == "warning: a disk is slow\n"
