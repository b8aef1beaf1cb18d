"""Plot results: bars of images per second, a panel for each stage; a panel for each study of accuracy.

A study's panel has curves of mIoU, or a forest plot if its runs have one evaluation each.
"""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.docs.tables import factor, measured, number, reference_row, stages
from bench.runner.machine import hardware, on_gpu
from bench.runner.results import Results, Row
from fastseg.errors import UserError
from fastseg.files import atomic_path, check_writable_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bench.studies.results import StudyResults

SUFFIXES = (".png", ".svg")
OURS, THEIRS, INK, FAINT = "#1b7f5c", "#b4bcc4", "#22282e", "#68727c"
COLORS = ("#c2410c", "#1d4ed8", "#a16207", "#7e22ce", "#0e7490", "#be185d", "#4d7c0f", "#64748b", "#92400e", "#334155")
"""Colors of the variants in order; the base has fastseg's green."""
BAR, AROUND, TEXTS, ROW = 0.36, 0.75, 0.9, 0.34
"""Heights in inches: a bar with the space around it, a panel's title and scale, the texts above and below, a row of a
forest plot."""
WHAT = {
    "loader": "Loading: from files to batches ready for training",
    "compute": "Compute: the training step alone, on a batch already there",
    "train": "Training: loader and step together",
    "packing": "Packing: from PNGs to shards",
    "evaluation": "Evaluation: from whole frames to scores",
    "inference": "Inference: a frame through the network, on an idle machine and a busy one",
    "scaling": "Scaling: the training step on several ranks",
    "startup": "Starting up: from Enter to the first step",
}
CURVES = (
    "Lines: mean over seeds, evaluation by evaluation, evaluations included in the time. Bands: from the lowest to the "
    "highest seed.\nDotted: the targets. In brackets: the last mIoU, %, and the number of seeds."
)
FOREST = (
    "Small points: a seed's difference from the base with the same seed. Large points and whiskers: their mean and "
    "Student's\n95 % interval, filled if it excludes 0; fewer than three seeds have none."
)


def check_outputs(json: Path | None, plot: Path | None) -> None:
    """Raise :class:`UserError`, before anything is measured, if a file of --json or --plot could not be written."""
    if plot:
        check_plot(plot)
    for flag, path in (("--json", json), ("--plot", plot)):
        if path:
            check_writable_file(path, flag)


def check_plot(path: Path) -> None:
    """Raise :class:`UserError` for a file of another kind."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--plot is {path}; its name must end in {' or '.join(SUFFIXES)}")


@contextmanager
def _figure(path: Path, heights: Sequence[float], height: float, title: str, legend: str) -> Iterator[list["Axes"]]:
    """Yield axes one above the other, and write them to a PNG or SVG of ``height`` inches."""
    check_plot(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    style: Any = {"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "svg.fonttype": "none"}
    style["svg.hashsalt"] = "fastseg"  # the same results give the same bytes
    with pyplot.rc_context(style):
        layout = ConstrainedLayoutEngine(h_pad=0.1)
        figure, axes = pyplot.subplots(
            len(heights), figsize=(9.5, height), height_ratios=heights, squeeze=False, layout=layout
        )
        yield list(axes[:, 0])
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.supxlabel(legend, x=0.01, ha="left", fontsize=8.5, color=FAINT)
        with atomic_path(path) as temporary:
            undated: Any = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, facecolor="white", **undated)
        pyplot.close(figure)


def plot_throughput(results: Results, path: Path) -> None:
    """Draw the measured rows: a bar for each entry, a whisker from its slowest to its fastest window."""
    whole = [row for row in results.results if not row.part]
    panels = {name: found for name, rows in stages(whole).items() if (found := measured(rows))}
    if not panels:
        raise UserError(f"there is nothing to draw into {path}: no entry was measured")
    bars = [len(rows) for rows in panels.values()]
    height = BAR * sum(bars) + AROUND * len(bars) + TEXTS
    with _figure(path, bars, height, _title(results.environment), _legend(results.results)) as axes:
        for axis, (name, rows) in zip(axes, panels.items(), strict=True):
            _bars(axis, name, rows)


def _bars(axis: "Axes", name: str, rows: Sequence[Row]) -> None:
    ours = reference_row(rows)
    rows = sorted(rows, key=lambda row: -row.spread.median)
    medians = [row.spread.median for row in rows]
    lowest, highest = [row.spread.min for row in rows], [row.spread.max for row in rows]
    whiskers = [np.subtract(medians, lowest), np.subtract(highest, medians)]
    axis.barh(range(len(rows)), medians, height=0.66, color=[OURS if row.ours else THEIRS for row in rows])
    axis.errorbar(medians, range(len(rows)), xerr=whiskers, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
    for line, row in enumerate(rows):
        beside = "" if ours is None or row is ours or row.ratio_to_ours is None else f", {factor(row)}"
        text = f"{number(row.spread.median)} {row.unit}{beside}"
        end = (row.spread.max, line)
        axis.annotate(text, end, xytext=(7, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set_yticks(range(len(rows)), ["\n".join(textwrap.wrap(row.entry, 34)) for row in rows])
    for label, row in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.ours else "normal")
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(0, 1.3 * max(highest))  # Room for the text.
    axis.set_title(f"{WHAT.get(name, name)} ({rows[0].unit}; longer is better)", loc="left", fontsize=10)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8, colors=FAINT)


def _title(environment: dict[str, str]) -> str:
    machine = f"{environment.get('processor', '')}, {environment.get('cores', '?')} cores"
    gpus = f"{environment['gpus']}; " if on_gpu(environment) else ""
    return f"fastseg beside its peers, on {gpus}{machine}"


def _legend(rows: Sequence[Row]) -> str:
    windows = max(len(row.windows) for row in rows)
    lines = [f"Bars: median of {windows} windows, measured in turns. Whiskers: from the slowest to the fastest window."]
    firsts = [ours.entry for found in stages(rows).values() if (ours := reference_row(found))]
    if firsts:
        lines.append(f"Green: fastseg. Factors compare with {' or '.join(dict.fromkeys(firsts))}, window by window.")
    absent = dict.fromkeys(row.entry for row in rows if row.skipped)
    return "\n".join([*lines, *([f"Not measured: {', '.join(absent)}."] if absent else [])])


def plot_studies(environment: dict[str, str], studies: Sequence["StudyResults"], path: Path) -> None:
    """Draw the finished runs of each study, those with one evaluation as a forest plot, else as curves."""
    panels = [found for found in studies if found.finished()]
    if not panels:
        raise UserError(f"there is nothing to draw into {path}: no run is finished")
    forests = [has_one_evaluation(found) for found in panels]
    rows = [len(found.summary()) for found in panels]
    heights = [ROW * n + AROUND if forest else 4.4 for n, forest in zip(rows, forests, strict=True)]
    legend = "\n".join([CURVES] * (not all(forests)) + [FOREST] * any(forests))
    title = f"mIoU, measured on {hardware(environment)}"
    with _figure(path, heights, sum(heights) + TEXTS, title, legend) as axes:
        for axis, found, forest in zip(axes, panels, forests, strict=True):
            (_forest if forest else _curves)(axis, found)


def has_one_evaluation(found: "StudyResults") -> bool:
    """Return whether no finished run has more than one evaluation, so that there is no curve."""
    return all(len(result.evaluations) == 1 for result in found.finished())


def seed_differences(found: "StudyResults", variant: str) -> list[float]:
    """Return the difference of a variant's mIoU from the base's for every seed that both have, in points."""
    base = {result.seed: result.last for result in found.finished(next(iter(found.flags)))}
    return [100 * (run.last - base[run.seed]) for run in found.finished(variant) if run.seed in base]


def _forest(axis: "Axes", found: "StudyResults") -> None:
    base, *_ = found.flags
    variants = [str(variant) for variant in found.summary().index]
    for line, variant in enumerate(variants):
        if change := found.difference(variant):
            seeds, sure = seed_differences(found, variant), change.verdict in ("better", "worse")
            axis.plot(seeds, [line + 0.22] * len(seeds), ".", color=THEIRS, ms=6, zorder=1)
            axis.plot([100 * change.low, 100 * change.high], [line, line], color=INK, lw=1.6, zorder=2)  # NaN: nothing
            axis.plot(100 * change.mean, line, "o", color=INK, mfc=INK if sure else "white", ms=7, zorder=3)
        beside: Any = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9}
        axis.annotate(_forest_text(found, variant), (1.01, line), **beside)
    axis.axvline(0, color=OURS, lw=1.2, zorder=0)
    axis.set_yticks(range(len(variants)), [textwrap.fill(variant, 34) for variant in variants])
    if base in variants:
        axis.get_yticklabels()[variants.index(base)].set_fontweight("bold")
    axis.set_ylim(len(variants) - 0.5, -0.5)
    axis.set_title(textwrap.fill(f"{found.name}: {found.question}", 95), loc="left", fontsize=10)
    axis.set_xlabel("mIoU, points above or below the base")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8, colors=FAINT)


def _forest_text(found: "StudyResults", variant: str) -> str:
    """Return what stands beside a row: the base's mIoU; of a variant the difference, its interval and the seeds."""
    change, row = found.difference(variant), found.summary().loc[variant]
    if not change:
        spread = f" ± {100 * row['last_std']:.1f}" if np.isfinite(row["last_std"]) else ""
        return f"{100 * row['last']:.1f}{spread} % mIoU, {row['seeds']:.0f} seeds"
    interval = f" ({100 * change.low:+.1f} to {100 * change.high:+.1f})" if np.isfinite(change.low) else ""
    return f"{100 * change.mean:+.1f}{interval}, {change.n} seed{'s' * (change.n != 1)}"


def curve(found: "StudyResults", variant: str) -> list[tuple[float, float, float, float]]:
    """Return (mean minutes, mean, lowest, highest mIoU in %) of every evaluation that all finished seeds had."""
    points = []
    for together in zip(*(result.evaluations for result in found.finished(variant)), strict=False):
        scores = [100 * evaluation.miou for evaluation in together]
        minutes = sum(evaluation.seconds for evaluation in together) / 60 / len(together)
        points.append((minutes, sum(scores) / len(scores), min(scores), max(scores)))
    return points


def _curves(axis: "Axes", found: "StudyResults") -> None:
    base, *variants = found.flags
    colors = {base: OURS, **dict(zip(variants, COLORS * 9, strict=False))}
    for name, row in found.summary().sort_values("last", ascending=False, kind="stable").iterrows():
        minutes, means, lowest, highest = zip(*curve(found, str(name)), strict=True)
        label = f"{name} ({100 * row['last']:.1f}, {row['seeds']:.0f})"
        width, front, alpha = (2.4, 3, 0.18) if name == base else (1.3, 2, 0.1)
        axis.plot(minutes, means, ".-", color=colors[str(name)], lw=width, zorder=front, label=label)
        axis.fill_between(minutes, lowest, highest, color=colors[str(name)], alpha=alpha, lw=0)
    axis.set_ylim(0)
    axis.set_xlim(0)
    for target in found.targets:
        if 100 * target < 1.15 * axis.get_ylim()[1]:
            axis.axhline(100 * target, ls=":", color=FAINT, lw=0.9, zorder=1)
    axis.set_title(textwrap.fill(f"{found.name}: {found.question}", 95), loc="left", fontsize=10)
    axis.set_ylabel("mIoU, %")
    axis.set_xlabel("minutes")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, colors=FAINT)
    axis.legend(loc="lower right", frameon=False, fontsize=8.5)
