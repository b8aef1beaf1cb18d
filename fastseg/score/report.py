"""One page about a run: ``report.html``, made from the run folder's files alone, readable without a network."""

import base64
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fastseg.files import write_atomic
from fastseg.labels import SegmentationClass
from fastseg.score.charts import Series, compact, line_chart
from fastseg.score.runfolder import Line, Run, number, read_run

NAME = "report.html"
OVERLAY_BYTES = 1_200_000
"""Pictures shown at most; as base64 they grow by a third, and the page stays under 2 MB."""
MATRIX_CLASSES = 40
"""Classes shown at most in the confusion matrix: those with the most pixels."""
CONFUSIONS = 8
"""Mistakes named under the matrix, the most frequent ones."""
GREY = (128, 128, 128)


def write_report(run_folder: Path) -> Path:
    """Write ``run_folder/report.html`` and return its path; pieces that the folder lacks are left out.

    Raises :class:`fastseg.errors.UserError` where the folder does not exist or one of its files is damaged.
    """
    run = read_run(run_folder)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        run=run,
        headline=_headline(run),
        figures=_figures(run),
        best=_evaluation_title(run.best),
        last=_evaluation_title(run.last),
        means=_means(run.best),
        groups=_groups(run),
        confusion=_confusion(run),
        overlays=_overlays(run.overlays),
        config=list(_flatten(run.config)),
    )
    write_atomic(run_folder / NAME, page)
    return run_folder / NAME


@dataclass(frozen=True)
class Fact:
    """One number at the head of the page."""

    label: str
    value: str
    note: str = ""


def _headline(run: Run) -> list[Fact]:
    facts = []
    if best := run.best:
        facts.append(Fact("best mIoU", _percent(number(best, "miou")), _evaluation_title(best)))
        last = run.last
        if last is not best:
            facts.append(Fact("last mIoU", _percent(number(last, "miou")), _evaluation_title(last)))
        facts.append(Fact("pixel accuracy", _percent(number(best, "accuracy")), _evaluation_title(best)))
    if run.train:
        last = run.train[-1]
        # The first line pays for warming up: compiling, choosing algorithms, filling queues.
        steady = run.train[1:] or run.train
        speeds, waiting = _values(steady, "images_per_second"), _values(steady, "waiting")
        memory, seconds = _values(run.train, "memory"), _values(run.train, "seconds")
        facts += [
            Fact("speed", f"{compact(median(speeds))} img/s" if speeds else "–", "median, per GPU or process"),
            Fact("waiting for data", _percent(fmean(waiting)) if waiting else "–", "share of the time"),
            Fact("loss", compact(number(last, "loss")), f"at step {compact(last['step'])}"),
            Fact("steps", f"{last['step']:,}", f"{compact(number(last, 'epoch'))} epochs"),
            Fact("wall time", _duration(max(seconds)) if seconds else "–"),
            Fact("memory", f"{max(memory) / 2**30:.1f} GiB" if memory else "–", "peak, per GPU or process"),
        ]
    return facts


@dataclass(frozen=True)
class Figure:
    """A chart with its legend: name and last value of each line."""

    title: str
    svg: Markup
    legend: list[tuple[str, str]]
    missing: int
    """Values that are not finite and could not be drawn."""


def _figures(run: Run) -> list[Figure]:
    kinds = sorted({str(e.get("weights", "")) for e in run.evaluations})
    by_kind = {kind: [e for e in run.evaluations if str(e.get("weights", "")) == kind] for kind in kinds}
    losses = {"total": "loss", "main head": "loss_out", "auxiliary head": "loss_aux"}
    figures = (
        _figure("Loss", [_series(name, run.train, key) for name, key in losses.items()]),
        _figure("Validation mIoU", [_series(_weights(k), lines, "miou", 100) for k, lines in by_kind.items()], " %"),
        _figure("Learning rate", [_series("learning rate", run.train, "lr")]),
        _figure("Images per second", [_series("per GPU or process", run.train, "images_per_second")]),
        _figure("Share of time waiting for data", [_series("waiting", run.train, "waiting", 100)], " %"),
    )
    return [figure for figure in figures if figure]


def _series(name: str, lines: Sequence[Line], key: str, factor: float = 1) -> Series:
    return Series(name, [(line["step"], factor * number(line, key)) for line in lines if key in line])


def _figure(title: str, series: Sequence[Series], unit: str = "") -> Figure | None:
    """None without a single value."""
    present = [one for one in series if one.points]
    if not present:
        return None
    legend = [(one.name, compact(one.points[-1][1]) + unit) for one in present]
    missing = sum(len(one.points) - len(one.finite()) for one in present)
    return Figure(title, Markup(line_chart(title, present, unit=unit)), legend, missing)


@dataclass(frozen=True)
class ClassRow:
    """One class in the table of scores."""

    name: str
    color: tuple[int, int, int]
    iou: float
    text: str


@dataclass(frozen=True)
class Group:
    """A category with its classes; the name is empty for classes that have none."""

    name: str
    text: str
    classes: list[ClassRow]


def _groups(run: Run) -> list[Group]:
    """The classes of the best evaluation under their categories, both in the data set's order."""
    scores, categories = run.best.get("classes") or {}, run.best.get("categories") or {}
    known = {c.name: c for c in run.classes}
    rows: dict[str, list[ClassRow]] = {}
    for name in scores:
        c = known.get(name, SegmentationClass(name, GREY))
        iou = number(scores, name)
        rows.setdefault(c.category, []).append(ClassRow(name, c.color, iou if math.isfinite(iou) else 0, _percent(iou)))
    return [Group(name, _percent(number(categories, name)), classes) for name, classes in rows.items()]


def _means(best: Line) -> list[tuple[str, str]]:
    means = {"mean of classes": "miou", "mean of categories": "category_miou"}
    return [(name, _percent(number(best, key))) for name, key in means.items() if math.isfinite(number(best, key))]


@dataclass(frozen=True)
class Confusion:
    """Rows of the confusion matrix as shares of the truth, and the worst mistakes in words."""

    names: list[str]
    shares: list[list[float]]
    """Row of the truth by column of the prediction, 0…1; NaN in the row of a class that does not occur."""
    left_out: int
    mistakes: list[tuple[str, str, float]]
    """(truth, prediction, share of the truth)."""


def _confusion(run: Run) -> Confusion | None:
    matrix = run.matrix
    if not matrix:
        return None
    named = len(run.classes) == len(matrix)
    names = [c.name for c in run.classes] if named else [f"class {i}" for i in range(len(matrix))]
    totals = [sum(row) for row in matrix]
    shares = [[n / total if total else math.nan for n in row] for row, total in zip(matrix, totals, strict=True)]
    largest = sorted(range(len(matrix)), key=lambda i: -totals[i])[:MATRIX_CLASSES]
    shown = sorted(largest)
    mistakes = [
        (names[i], names[j], share)
        for i, row in enumerate(shares)
        for j, share in enumerate(row)
        if i != j and share > 0
    ]
    return Confusion(
        names=[names[i] for i in shown],
        shares=[[shares[i][j] for j in shown] for i in shown],
        left_out=len(matrix) - len(shown),
        mistakes=sorted(mistakes, key=lambda m: -m[2])[:CONFUSIONS],
    )


@dataclass(frozen=True)
class Overlays:
    """The pictures that fit on the page, as (caption, data address), and how many do not."""

    shown: list[tuple[str, str]]
    left_out: int


def _overlays(paths: Sequence[Path]) -> Overlays:
    shown: list[tuple[str, str]] = []
    room = OVERLAY_BYTES
    for path in paths:
        data = path.read_bytes()
        room -= len(data)
        if room >= 0:
            shown.append((_caption(path.stem), "data:image/jpeg;base64," + base64.b64encode(data).decode()))
    return Overlays(shown, len(paths) - len(shown))


def _caption(stem: str) -> str:
    """``aachen_000000_000019, mIoU 41.2 %`` from ``00_aachen_000000_000019_0.412``; other names as they are."""
    match = re.fullmatch(r"\d+_(.+)_([01]\.\d+)", stem)
    return f"{match[1]}, mIoU {100 * float(match[2]):.1f} %" if match else stem


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings as (``optim.lr``, ``0.01``), the values as JSON."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _evaluation_title(line: Line) -> str:
    return f"step {line['step']:,}, {_weights(str(line.get('weights', '')))}" if line else ""


def _weights(kind: str) -> str:
    return {"ema": "averaged weights (EMA)", "model": "weights as trained", "": "mIoU"}.get(kind, kind)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if math.isfinite(share) else "–"


def _values(lines: Sequence[Line], key: str) -> list[float]:
    return [value for line in lines if math.isfinite(value := number(line, key))]


def _duration(seconds: float) -> str:
    """``48 s``, ``3 min 20 s``, ``5 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
