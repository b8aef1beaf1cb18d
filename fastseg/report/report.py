"""Make ``report.html``, one page about a run, from the run folder's files alone; it needs no network."""

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fastseg.evaluation.metrics import CLASS_METRICS
from fastseg.evaluation.scores import Mistake, largest_confusions
from fastseg.files import write_atomic
from fastseg.report.charts import Series, compact, line_chart
from fastseg.report.gallery import LAYERS
from fastseg.report.pictures import RIGHT, WRONG
from fastseg.report.run_folder import Line, Run, Shown, number, position, read_run

PICTURE_BYTES = 3_000_000
"""Bytes of pictures at most; base64 adds a third, and the page stays under 5 MB."""
MATRIX_CLASSES = 40
"""Classes in the confusion matrix at most, those with the most pixels."""
CONFUSIONS = 8
"""Mistakes named under the matrix, the most frequent ones."""


class Column(NamedTuple):
    """A column of the table of classes beside IoU, shown if a class has a value."""

    heading: str
    note: str
    mean: str = ""
    """Key of the mean over the classes in a line of metrics.jsonl; empty without one."""


COLUMNS = {
    **{name: Column(m.column[:1].upper() + m.column[1:], m.note, f"mean_{name}") for name, m in CLASS_METRICS.items()},
    "class_accuracy": Column("Accuracy", "the share of the class's pixels that were found", "mean_accuracy"),
    "pixels": Column("Pixels", "the class's share of all labeled pixels"),
}
"""By their keys in a line of metrics.jsonl; pixels are counted in the confusion matrix."""
GREY = (128, 128, 128)


@dataclass(frozen=True)
class ClassRow:
    """One class, or one category, of a table of scores; numbers are shares 0…1, NaN if unknown."""

    name: str
    color: tuple[int, int, int]
    category: str
    iou: float
    scores: dict[str, float]
    """By the keys of :data:`COLUMNS`."""


def classes_of(run: Run) -> list[ClassRow]:
    """Return the classes of the best evaluation, in the data set's order."""
    ious = run.best.get("classes") or {}
    known = {c.name: c for c in run.classes}
    pixels = dict(zip(known, _truth_shares(run.matrix), strict=False)) if len(known) == len(run.matrix) else {}
    columns = {"pixels": pixels} | {key: run.best.get(key) or {} for key in COLUMNS if key != "pixels"}
    return [
        ClassRow(
            name,
            (known[name].color if name in known else GREY),
            (known[name].category if name in known else ""),
            number(ious, name),
            {key: number(columns[key], name) for key in COLUMNS},
        )
        for name in ious
    ]


def present(rows: Sequence[ClassRow]) -> dict[str, Column]:
    """Return those of :data:`COLUMNS` in which any class has a value."""
    return {key: column for key, column in COLUMNS.items() if any(math.isfinite(row.scores[key]) for row in rows)}


def _truth_shares(matrix: list[list[int]]) -> list[float]:
    totals = [sum(row) for row in matrix]
    return [total / (sum(totals) or 1) for total in totals]


def means_of(best: Line) -> dict[str, float]:
    """Return the means below the table's columns, by the keys of :data:`COLUMNS`, of IoU and of the categories' IoU."""
    means = {key: number(best, column.mean) for key, column in COLUMNS.items() if column.mean}
    return {"iou": number(best, "miou"), "category": number(best, "category_miou"), **means}


def categories_of(best: Line) -> list[tuple[str, float]]:
    """Return name and IoU of each category."""
    categories = best.get("categories") or {}
    return [(name, number(categories, name)) for name in categories]


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix's rows as shares of the truth, and the most frequent mistakes."""

    names: list[str]
    shares: list[list[float]]
    """Row of the truth by column of the prediction, 0…1; NaN in the row of a class that does not occur."""
    left_out: int
    mistakes: list[Mistake]


def confusion_of(run: Run) -> Confusion | None:
    """Return the confusion matrix of a run as shares; None without one."""
    matrix = run.matrix
    if not matrix:
        return None
    named = len(run.classes) == len(matrix)
    names = [c.name for c in run.classes] if named else [f"class {i}" for i in range(len(matrix))]
    totals = [sum(row) for row in matrix]
    shares = [[n / total if total else math.nan for n in row] for row, total in zip(matrix, totals, strict=True)]
    largest = sorted(range(len(matrix)), key=lambda i: -totals[i])[:MATRIX_CLASSES]
    shown = sorted(largest)
    return Confusion(
        names=[names[i] for i in shown],
        shares=[[shares[i][j] for j in shown] for i in shown],
        left_out=len(matrix) - len(shown),
        mistakes=largest_confusions(np.array(matrix, np.int64), names, CONFUSIONS),
    )


@dataclass(frozen=True)
class Slide:
    """One frame of the gallery as the page shows it."""

    key: str
    iou: str
    worst: str
    """Names and IoU of the classes with the most wrong pixels."""
    size: tuple[int, int]
    layers: dict[str, str]
    """Data URL of each picture."""


@dataclass(frozen=True)
class Gallery:
    """The frames whose pictures fit on the page, and how many do not."""

    slides: list[Slide]
    left_out: int


def gallery_of(frames: Sequence[Shown]) -> Gallery:
    """Read the frames' pictures, worst frame first, up to :data:`PICTURE_BYTES`."""
    slides: list[Slide] = []
    room = PICTURE_BYTES
    for frame in frames:
        pictures = {name: path.read_bytes() for name, path in frame.layers.items()}
        room -= sum(map(len, pictures.values()))
        if room < 0:  # keep the order: worst frames first
            break
        worst = ", ".join(f"{name} {percent(iou)}" for name, iou in frame.worst_classes)
        layers = {name: _address(name, data) for name, data in pictures.items()}
        slides.append(Slide(frame.key, percent(frame.iou), worst, frame.size, layers))
    return Gallery(slides, len(frames) - len(slides))


def _address(layer: str, data: bytes) -> str:
    kind = "png" if LAYERS[layer].endswith("png") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def percent(share: float) -> str:
    """Format 0.799 as ``79.90 %``, NaN as an en dash."""
    return f"{100 * share:.2f} %" if math.isfinite(share) else "–"


NAME = "report.html"


def write_report(run_folder: Path) -> Path:
    """Write ``run_folder/report.html`` and return its path; parts that the folder lacks are left out.

    Raises :class:`fastseg.errors.UserError` if the folder does not exist or one of its files is damaged.
    """
    run = read_run(run_folder)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    classes = classes_of(run)
    page = environment.get_template("report.html").render(
        run=run,
        title=_title(run),
        headline=_headline(run),
        figures=_figures(run),
        best=_evaluation_title(run.best),
        last=_evaluation_title(run.last),
        classes=classes,
        columns=present(classes),
        means=means_of(run.best),
        categories=categories_of(run.best),
        percent=percent,
        right=RIGHT,
        wrong=WRONG,
        confusion=confusion_of(run),
        gallery=gallery_of(run.gallery),
        config=list(_flatten(run.config)),
    )
    write_atomic(run_folder / NAME, page)
    return run_folder / NAME


@dataclass(frozen=True)
class Fact:
    """One number at the top of the page."""

    label: str
    value: str
    note: str = ""


def _title(run: Run) -> str:
    """Return the run's name; for an evaluation alone, the names of checkpoint, run and split."""
    if not (checkpoint := run.last.get("checkpoint")):
        return run.name
    trained = f" of {name}" if (name := run.config.get("name")) else ""
    return f"{Path(checkpoint).name}{trained}, on {run.last['split']}"


def _headline(run: Run) -> list[Fact]:
    facts = []
    if best := run.best:
        label = "best mIoU" if len(run.evaluations) > 1 else "mIoU"
        facts.append(Fact(label, percent(number(best, "miou")), _evaluation_title(best)))
        last = run.last
        if last is not best:
            facts.append(Fact("last mIoU", percent(number(last, "miou")), _evaluation_title(last)))
        facts.append(Fact("pixel accuracy", percent(number(best, "accuracy")), _evaluation_title(best)))
        if "split_images" in best:
            counted, there = best["images"], best["split_images"]
            images = f"{counted:,} of {there:,}" if counted < there else f"{counted:,}"
            facts.append(Fact("images", images, ", ".join([f"of {best['split']}", *best["views"]])))
    if run.train:
        last = run.train[-1]
        # The first line pays for warming up: compiling, choosing algorithms, filling queues.
        steady = run.train[1:] or run.train
        speeds, waiting = _values(steady, "images_per_second_per_gpu"), _values(steady, "waiting")
        memory, seconds = _values(run.train, "memory"), _values(run.train, "seconds")
        facts += [
            Fact("speed", f"{compact(median(speeds))} img/s" if speeds else "–", "median, per GPU or process"),
            Fact("waiting for data", percent(fmean(waiting)) if waiting else "–", "share of the time"),
            Fact("loss", compact(number(last, "loss")), f"at step {compact(last['step'])}"),
            Fact("steps", f"{last['step']:,}", f"{compact(number(last, 'epoch'))} epochs"),
            Fact("wall time", _duration(max(seconds)) if seconds else "–"),
            Fact("memory", f"{max(memory) / 2**30:.1f} GiB" if memory else "–", "peak, per GPU or process"),
        ]
    bad = [int(max(_values(lines, "corrupt_samples"), default=0)) for lines in (run.train, run.evaluations)]
    if any(bad):
        facts.append(Fact("damaged records", f"{bad[0]} + {bad[1]}", "skipped in training + in an evaluation"))
    return facts


@dataclass(frozen=True)
class Figure:
    """A chart and its legend: name and last value of each line."""

    title: str
    svg: Markup
    legend: list[tuple[str, str]]
    missing: int
    """Values that are not finite and are not drawn."""


def _figures(run: Run) -> list[Figure]:
    if not run.train and len(run.evaluations) < 2:
        return []  # one evaluation is no curve
    kinds = sorted({str(e.get("weights", "")) for e in run.evaluations})
    by_kind = {kind: [e for e in run.evaluations if str(e.get("weights", "")) == kind] for kind in kinds}
    losses = {"total": "loss", "main head": "loss_out", "auxiliary head": "loss_aux"}
    figures = (
        _figure("Loss", [_series(name, run.train, key) for name, key in losses.items()]),
        _figure("Validation mIoU", [_series(_weights(k), lines, "miou", 100) for k, lines in by_kind.items()], " %"),
        _figure("Learning rate", [_series("learning rate", run.train, "lr")]),
        _figure("Images per second", [_series("per GPU or process", run.train, "images_per_second_per_gpu")]),
        _figure("Share of time waiting for data", [_series("waiting", run.train, "waiting", 100)], " %"),
    )
    return [figure for figure in figures if figure]


def _series(name: str, lines: Sequence[Line], key: str, factor: float = 1) -> Series:
    return Series(name, [(position(line), factor * number(line, key)) for line in lines if key in line])


def _figure(title: str, series: Sequence[Series], unit: str = "") -> Figure | None:
    """Draw the chart; None without a single value."""
    present = [one for one in series if one.points]
    if not present:
        return None
    legend = [(one.name, compact(one.points[-1][1]) + unit) for one in present]
    missing = sum(len(one.points) - len(one.finite()) for one in present)
    return Figure(title, Markup(line_chart(title, present, unit=unit)), legend, missing)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings as (``optim.lr``, ``0.01``), the values as JSON."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _evaluation_title(line: Line) -> str:
    weights = f", {_weights(line['weights'])}" if line.get("weights") else ""
    return f"step {line['step']:,}{weights}" if line else ""


def _weights(kind: str) -> str:
    return {"ema": "averaged weights (EMA)", "model": "weights as trained", "": "mIoU"}.get(kind, kind)


def _values(lines: Sequence[Line], key: str) -> list[float]:
    return [value for line in lines if math.isfinite(value := number(line, key))]


def _duration(seconds: float) -> str:
    """Format seconds as ``48 s``, ``3 min 20 s`` or ``5 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
