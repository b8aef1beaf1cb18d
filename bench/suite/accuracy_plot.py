"""Studies as a picture, a panel for each: mIoU against minutes, a line for each variant, a band over its seeds."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from bench.suite.marks import hardware
from bench.suite.plot import FAINT, INK, OURS, check_plot
from bench.suite.studies import BASE
from bench.suite.summaries import Findings
from fastseg.errors import UserError
from fastseg.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#c2410c", "#1d4ed8", "#a16207", "#7e22ce", "#0e7490", "#be185d", "#4d7c0f", "#64748b", "#92400e", "#334155")
"""Of the variants in order; the base has the green that is fastseg's in all pictures."""
LEGEND = (
    "Lines: mean over seeds, evaluation by evaluation, evaluations included in the time. Bands: from the lowest to the "
    "highest seed.\nDotted: the marks. In brackets: the last mIoU, %, and the number of seeds."
)


def draw(environment: dict[str, str], findings: Sequence[Findings], path: Path) -> None:
    """Draw the finished runs into a PNG or SVG."""
    check_plot(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [found for found in findings if found.finished()]
    if not panels:
        raise UserError(f"there is nothing to draw into {path}: no run is finished")
    style: Any = {"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "svg.fonttype": "none"}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(
            len(panels),
            figsize=(9.5, 4.4 * len(panels) + 0.9),
            squeeze=False,
            layout=ConstrainedLayoutEngine(h_pad=0.1),
        )
        for axis, found in zip(axes[:, 0], panels, strict=True):
            _curves(axis, found)
        figure.suptitle(f"mIoU, measured on {hardware(environment)}", x=0.01, ha="left", fontsize=11, weight="bold")
        figure.supxlabel(LEGEND, x=0.01, ha="left", fontsize=8.5, color=FAINT)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, facecolor="white")
        pyplot.close(figure)


def curve(found: Findings, variant: str) -> list[tuple[float, float, float, float]]:
    """(mean minutes, mean, lowest, highest mIoU in %) of every evaluation that all finished seeds of a variant had."""
    runs = [outcome.evaluations for outcome in found.finished(variant)]
    points = []
    for together in zip(*runs, strict=False):
        scores = [100 * evaluation.miou for evaluation in together]
        minutes = sum(evaluation.seconds for evaluation in together) / 60 / len(together)
        points.append((minutes, sum(scores) / len(scores), min(scores), max(scores)))
    return points


def _curves(axis: "Axes", found: Findings) -> None:
    colors = dict(zip((name for name in found.flags if name != BASE), COLORS * 9, strict=False))
    summaries = sorted(found.summaries(), key=lambda summary: -summary.final.mean)
    for summary in summaries:
        name, color = summary.variant, colors.get(summary.variant, OURS)
        minutes, means, lowest, highest = zip(*curve(found, name), strict=True)
        label = f"{name} ({100 * summary.final.mean:.1f}, {len(summary.seeds)})"
        thick = name == BASE
        axis.plot(minutes, means, ".-", color=color, lw=2.4 if thick else 1.3, zorder=3 if thick else 2, label=label)
        axis.fill_between(minutes, lowest, highest, color=color, alpha=0.18 if thick else 0.1, lw=0)
    axis.set_ylim(0)
    axis.set_xlim(0)
    for mark in found.marks:
        if 100 * mark < 1.15 * axis.get_ylim()[1]:
            axis.axhline(100 * mark, ls=":", color=FAINT, lw=0.9, zorder=1)
    axis.set_title(fill(f"{found.name}: {found.question}", 95), loc="left", fontsize=10)
    axis.set_ylabel("mIoU, %")
    axis.set_xlabel("minutes")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, colors=FAINT)
    axis.legend(loc="lower right", frameon=False, fontsize=8.5)
