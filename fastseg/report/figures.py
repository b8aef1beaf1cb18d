"""Charts of a report: the curves of one run or of two, and the IoU of every class over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fastseg.report.charts import Series, compact, line_chart, small_chart
from fastseg.report.facts import percent, weights_title
from fastseg.report.run_folder import Line, Run, number, position
from fastseg.report.tables import classes_of, most_pixels


@dataclass(frozen=True)
class Figure:
    """A chart and its legend: style, name and last value of each line."""

    title: str
    svg: Markup
    legend: list[tuple[int, str, str]]
    missing: int
    """Values that are not finite and are not drawn."""


def figures(run: Run) -> list[Figure]:
    """Draw the curves of a run; one evaluation is no curve."""
    if not run.train and len(run.evaluations) < 2:
        return []
    kinds = sorted({str(e.get("weights", "")) for e in run.evaluations})
    by_kind = {kind: [e for e in run.evaluations if str(e.get("weights", "")) == kind] for kind in kinds}
    losses = {"total": "loss"}
    if any(line.get("loss_aux") for line in run.train):  # without an auxiliary head the main one is the total
        losses |= {"main head": "loss_out", "auxiliary head": "loss_aux"}
    return _drawn(
        _figure("Loss", [_series(name, run.train, key) for name, key in losses.items()]),
        _figure("Validation mIoU", [_series(weights_title(k), ls, "miou", 100) for k, ls in by_kind.items()], " %"),
        _figure("Learning rate", [_series("learning rate", run.train, "lr")]),
        _figure("Images per second", [_series("per GPU or process", run.train, "images_per_second_per_gpu")]),
        _figure("Share of time waiting for data", [_series("waiting", run.train, "waiting", 100)], " %"),
    )


def overlaid_figures(runs: Mapping[str, Run]) -> list[Figure]:
    """Draw the curves of several runs, by their names, into the same charts."""

    def of_all(key: str, factor: float = 1) -> list[Series]:
        return [_series(name, run.train, key, factor, style) for style, (name, run) in enumerate(runs.items())]

    evaluated = [_series(name, run.evaluations, "miou", 100, i) for i, (name, run) in enumerate(runs.items())]
    return _drawn(
        _figure("Validation mIoU", evaluated, " %"),
        _figure("Loss", of_all("loss")),
        _figure("Learning rate", of_all("lr")),
        _figure("Images per second, per GPU or process", of_all("images_per_second_per_gpu")),
        _figure("Share of time waiting for data", of_all("waiting", 100), " %"),
    )


@dataclass(frozen=True)
class ClassChart:
    """The IoU of a class over time."""

    name: str
    color: tuple[int, int, int]
    svg: Markup
    values: list[str]
    """Last value of each run."""


@dataclass(frozen=True)
class ClassCharts:
    """Charts of the classes of one run or of several."""

    charts: list[ClassChart]
    left_out: int
    low: str
    high: str
    """First and last epoch."""


def class_charts(runs: Sequence[Run]) -> ClassCharts | None:
    """Draw the IoU of each class over the evaluations of all ``runs``; None without two of one run."""
    histories = [_one_kind(run) for run in runs]
    if max(map(len, histories), default=0) < 2:
        return None
    rows = {row.name: row for run in runs for row in classes_of(run)}
    shown = most_pixels(list(rows.values()))
    xs = [position(line) for lines in histories for line in lines]
    charts = []
    for row in shown:
        series = [
            Series(row.name, [(position(line), 100 * number(line.get("classes") or {}, row.name)) for line in lines], i)
            for i, lines in enumerate(histories)
        ]
        svg = small_chart(f"IoU of {row.name}", series, min(xs), max(xs))
        last = [one.finite()[-1][1] / 100 if one.finite() else float("nan") for one in series]
        charts.append(ClassChart(row.name, row.color, Markup(svg), [percent(value) for value in last]))
    return ClassCharts(charts, len(rows) - len(shown), compact(min(xs)), compact(max(xs)))


def _one_kind(run: Run) -> list[Line]:
    """Return the evaluations of the weights that the best one was of."""
    return [line for line in run.evaluations if line.get("weights") == run.best.get("weights")]


def _series(name: str, lines: Sequence[Line], key: str, factor: float = 1, style: int = -1) -> Series:
    return Series(name, [(position(line), factor * number(line, key)) for line in lines if key in line], style)


def _figure(title: str, series: Sequence[Series], unit: str = "") -> Figure | None:
    """Draw the chart; None without a single value."""
    present = [one for one in series if one.points]
    if not present:
        return None
    legend = [
        (one.style if one.style >= 0 else i, one.name, compact(one.points[-1][1]) + unit)
        for i, one in enumerate(present)
    ]
    missing = sum(len(one.points) - len(one.finite()) for one in present)
    return Figure(title, Markup(line_chart(title, present, unit=unit)), legend, missing)


def _drawn(*figures: Figure | None) -> list[Figure]:
    return [figure for figure in figures if figure]
