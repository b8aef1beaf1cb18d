"""One page about a run: ``report.html``, made from the run folder's files alone, readable without a network."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fastseg.files import write_atomic
from fastseg.score.charts import Series, compact, line_chart
from fastseg.score.overlay import RIGHT, WRONG
from fastseg.score.runfolder import Line, Run, number, read_run
from fastseg.score.sections import (
    COLUMNS,
    categories_of,
    classes_of,
    confusion_of,
    gallery_of,
    means_of,
    percent,
    present,
)

NAME = "report.html"


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
    classes = classes_of(run)
    page = environment.get_template("report.html").render(
        run=run,
        title=_title(run),
        headline=_headline(run),
        figures=_figures(run),
        best=_evaluation_title(run.best),
        last=_evaluation_title(run.last),
        classes=classes,
        columns=COLUMNS,
        has=present(classes),
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
    """One number at the head of the page."""

    label: str
    value: str
    note: str = ""


def _title(run: Run) -> str:
    """The run's name; of an evaluation alone the checkpoint's, its run's and the split's."""
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
            facts.append(Fact("images", images, ", ".join([f"of {best['split']}", *best["looks"]])))
    if run.train:
        last = run.train[-1]
        # The first line pays for warming up: compiling, choosing algorithms, filling queues.
        steady = run.train[1:] or run.train
        speeds, waiting = _values(steady, "images_per_second"), _values(steady, "waiting")
        memory, seconds = _values(run.train, "memory"), _values(run.train, "seconds")
        facts += [
            Fact("speed", f"{compact(median(speeds))} img/s" if speeds else "–", "median, per GPU or process"),
            Fact("waiting for data", percent(fmean(waiting)) if waiting else "–", "share of the time"),
            Fact("loss", compact(number(last, "loss")), f"at step {compact(last['step'])}"),
            Fact("steps", f"{last['step']:,}", f"{compact(number(last, 'epoch'))} epochs"),
            Fact("wall time", _duration(max(seconds)) if seconds else "–"),
            Fact("memory", f"{max(memory) / 2**30:.1f} GiB" if memory else "–", "peak, per GPU or process"),
        ]
    bad = [int(max(_values(lines, "bad_samples"), default=0)) for lines in (run.train, run.evaluations)]
    if any(bad):
        facts.append(Fact("damaged records", f"{bad[0]} + {bad[1]}", "passed over in training + in an evaluation"))
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
    if not run.train and len(run.evaluations) < 2:
        return []  # one evaluation is no curve
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


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings as (``optim.lr``, ``0.01``), the values as JSON."""
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
    """``48 s``, ``3 min 20 s``, ``5 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
