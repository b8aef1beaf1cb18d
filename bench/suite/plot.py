"""Results as a picture: a panel for each stage, a bar for each contestant, a whisker from its least to its greatest."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.suite.rows import Results, Row
from bench.suite.show import baseline, factor, measured, number, stages
from fastseg.errors import UserError
from fastseg.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
OURS, THEIRS, INK, FAINT = "#1b7f5c", "#b4bcc4", "#22282e", "#68727c"
BAR, AROUND, TEXTS = 0.36, 0.75, 0.9
"""Inches of height: of a bar with the space around it, of a panel's title and scale, of the texts above and below."""
WHAT = {
    "loader": "Loading: from files to batches ready for training",
    "compute": "Compute: the training step alone, on a batch already there",
    "train": "Training: loader and step together",
    "packing": "Packing: from PNGs to shards",
    "evaluation": "Evaluation: from whole frames to scores",
    "scaling": "Scaling: the training step on several ranks",
}


def check_plot(path: Path) -> None:
    """:class:`UserError` where :func:`plot` would fail, before anything is measured."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--plot is {path}; its name must end in {' or '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("--plot needs matplotlib; install it with: pip install 'fastseg-deeplab[bench]'") from None


def plot(results: Results, path: Path) -> None:
    """Draw the measured rows into a PNG or SVG."""
    check_plot(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    whole = [row for row in results.rows if not row.part]
    panels = {name: found for name, rows in stages(whole).items() if (found := measured(rows))}
    if not panels:
        raise UserError(f"there is nothing to draw into {path}: no contestant was measured")
    bars = [len(rows) for rows in panels.values()]
    size = (9.5, BAR * sum(bars) + AROUND * len(bars) + TEXTS)
    style: Any = {"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "svg.fonttype": "none"}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(
            len(panels), figsize=size, height_ratios=bars, squeeze=False, layout=ConstrainedLayoutEngine(h_pad=0.1)
        )
        for axis, (name, rows) in zip(axes[:, 0], panels.items(), strict=True):
            _panel(axis, name, rows)
        figure.suptitle(_title(results.environment), x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.supxlabel(_legend(results.rows), x=0.01, ha="left", fontsize=8.5, color=FAINT)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, facecolor="white")
        pyplot.close(figure)


def _panel(axis: "Axes", name: str, rows: Sequence[Row]) -> None:
    fastest_first = sorted(rows, key=lambda row: -row.spread.median)
    ours = baseline(rows)
    medians = [row.spread.median for row in fastest_first]
    whiskers = [
        [row.spread.median - row.spread.min for row in fastest_first],
        [row.spread.max - row.spread.median for row in fastest_first],
    ]
    lines = range(len(rows))
    colors = [OURS if row.ours else THEIRS for row in fastest_first]
    axis.barh(lines, medians, height=0.66, color=colors)
    axis.errorbar(medians, lines, xerr=whiskers, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
    for line, row in enumerate(fastest_first):
        axis.annotate(
            _words(row, ours),
            (row.spread.max, line),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axis.set_yticks(lines, ["\n".join(textwrap.wrap(row.contestant, 34)) for row in fastest_first])
    for label, row in zip(axis.get_yticklabels(), fastest_first, strict=True):
        label.set_fontweight("bold" if row.ours else "normal")
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(0, 1.3 * max(row.spread.max for row in rows))  # Room for the words.
    axis.set_title(f"{WHAT.get(name, name)} ({rows[0].unit}; longer is better)", loc="left", fontsize=10)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8, colors=FAINT)


def _words(row: Row, ours: Row | None) -> str:
    rate = f"{number(row.spread.median)} {row.unit}"
    if ours is None or row is ours or row.ratio is None:
        return rate
    return f"{rate}, {factor(row)}"


def _title(environment: dict[str, str]) -> str:
    gpus = environment.get("gpus", "none")
    machine = f"{environment.get('processor', '')}, {environment.get('cores', '?')} cores"
    return f"fastseg beside its rivals, on {machine if gpus == 'none' else f'{gpus}; {machine}'}"


def _legend(rows: Sequence[Row]) -> str:
    windows = max(len(row.windows) for row in rows)
    lines = [f"Bars: median of {windows} windows, measured in turns. Whiskers: from the slowest to the fastest window."]
    firsts = [ours.contestant for found in stages(rows).values() if (ours := baseline(found))]
    if firsts:
        lines.append(f"Green: fastseg. Factors compare with {' or '.join(dict.fromkeys(firsts))}, window by window.")
    absent = dict.fromkeys(row.contestant for row in rows if row.skipped)
    return "\n".join([*lines, *([f"Not measured: {', '.join(absent)}."] if absent else [])])
