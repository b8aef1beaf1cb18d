"""Make one page that compares two runs: scores, curves, classes, frames and the settings that differ."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastseg.files import write_atomic
from fastseg.labels import SegmentationClass
from fastseg.report.facts import Fact, about, differing, scores, speeds, state, title
from fastseg.report.figures import class_charts, overlaid_figures
from fastseg.report.report import PICTURE_BYTES, Slide, render, slide
from fastseg.report.run_folder import Run, Shown, number, read_run
from fastseg.report.tables import ClassRow, classes_of

SCORES = ("best mIoU", "last mIoU", "pixel accuracy")
"""Numbers of which more is better."""
SHARED = ("image", "truth")
"""Pictures that are the same for both runs."""


def write_comparison(folders: tuple[Path, Path], out: Path) -> Path:
    """Write a page about two runs to ``out`` and return that.

    Raises :class:`fastseg.errors.UserError` if a folder does not exist or one of its files is damaged.
    """
    one, other = (read_run(folder) for folder in folders)
    write_atomic(out, comparison_page(one, other, names(one, other, folders)))
    return out


def names(one: Run, other: Run, folders: tuple[Path, Path]) -> list[str]:
    """Return the runs' names; their paths if they have the same."""
    if title(one) != title(other):
        return [title(one), title(other)]
    return [str(folder) for folder in folders]


def comparison_page(one: Run, other: Run, names: Sequence[str]) -> str:
    """Return the page about two runs."""
    runs, abouts = (one, other), [about(run) for run in (one, other)]
    classes = class_rows(one, other)
    states = [known.text if (known := state(run)) else "an evaluation alone" for run in runs]
    return render(
        "compare.html",
        names=list(names),
        title=" and ".join(names),
        warnings=list(warnings(one, other)),
        signed=signed,
        facts=list(fact_rows(one, other)),
        about=[("state", states), *((name, [each[name] for each in abouts]) for name in abouts[0])],
        figures=overlaid_figures(dict(zip(names, runs, strict=True))),
        class_charts=class_charts(runs),
        classes=classes,
        widest=max((abs(row.difference) for row in classes if math.isfinite(row.difference)), default=0) or 1,
        mean=ValueRow("", (128, 128, 128), [number(run.best, "miou") for run in runs]),
        slides=pairs_of(one, other),
        colors=colors(one, other),
        settings=differing(one.config, other.config),
        environment=differing(one.environment, other.environment),
    )


def warnings(one: Run, other: Run) -> Iterator[str]:
    """Yield what makes the scores incomparable."""
    sets = [about(run)["data set"] for run in (one, other)]
    if sets[0] != sets[1]:
        yield f"The runs are of different data sets ({sets[0]}, {sets[1]}): their scores do not compare."
    elif one.best and other.best:
        images = [number(run.best, "images") for run in (one, other)]
        if images[0] != images[1] and all(map(math.isfinite, images)):
            yield f"The runs were scored on {images[0]:,.0f} and {images[1]:,.0f} images: their scores do not compare."
        if list(one.best.get("classes") or {}) != list(other.best.get("classes") or {}):
            yield "The runs have different classes: their mean IoU does not compare."


@dataclass(frozen=True)
class FactRow:
    """A number of both runs, as it is shown."""

    label: str
    values: list[str]
    difference: str
    style: str
    """Class in the style sheet: up for a better score, down for a worse one."""


def fact_rows(one: Run, other: Run) -> Iterator[FactRow]:
    """Yield the numbers of two runs side by side; scores differ in points, the others in per cent."""
    sides = [{_label(fact): fact for fact in (*scores(run), *speeds(run))} for run in (one, other)]
    for label in {**sides[0], **sides[1]}:
        facts = [side.get(label) for side in sides]
        a, b = (math.nan if fact is None or fact.text else fact.number for fact in facts)
        known = next(fact for fact in facts if fact)
        scored = label in SCORES
        style = "" if not scored or a == b else "up" if b > a else "down" if b < a else ""
        values = ["–" if fact is None else fact.value for fact in facts]
        yield FactRow(label, values, _difference(a, b, known), style)


def _label(fact: Fact) -> str:
    """Return one label for a run of a single evaluation, its best, and for one of many."""
    return "best mIoU" if fact.label == "mIoU" else fact.label


def _difference(a: float, b: float, fact: Fact) -> str:
    if fact.kind == "share":
        return f"{signed('%.2f', 100 * (b - a))} points" if math.isfinite(b - a) else "–"
    return f"{signed('%.0f', 100 * (b / a - 1))} %" if a and math.isfinite(b / a) else "–"


def signed(form: str, value: float) -> str:
    """Format a difference with its sign; one that rounds to 0 has none."""
    text = form % abs(value)
    return text if not float(text) else f"{'-' if value < 0 else '+'}{text}"


@dataclass(frozen=True)
class ValueRow:
    """A class's IoU in both runs, 0…1, NaN if unknown."""

    name: str
    color: tuple[int, int, int]
    values: list[float]

    @property
    def difference(self) -> float:
        """Return the second run's minus the first one's."""
        return self.values[1] - self.values[0]


def class_rows(one: Run, other: Run) -> list[ValueRow]:
    """Return the classes of both runs by name, the first one's first."""
    sides: list[dict[str, ClassRow]] = [{row.name: row for row in classes_of(run)} for run in (one, other)]
    return [
        ValueRow(name, row.color, [side[name].iou if name in side else math.nan for side in sides])
        for name, row in {**sides[1], **sides[0]}.items()
    ]


def colors(one: Run, other: Run) -> list[SegmentationClass]:
    """Return the classes of both runs, each name once."""
    return list({c.name: c for c in (*one.classes, *other.classes)}.values())


@dataclass(frozen=True)
class Pair:
    """A frame that both runs show."""

    key: str
    kind: str
    sides: list[Slide]
    """The frame of each run; the second has only what differs."""


def pairs_of(one: Run, other: Run) -> list[Pair]:
    """Return the frames that both galleries hold, in the first one's order, up to :data:`.report.PICTURE_BYTES`."""
    theirs = {frame.key: frame for frame in other.gallery}
    pairs, room = [], PICTURE_BYTES
    for frame in one.gallery:
        if frame.key not in theirs:
            continue
        twin = theirs[frame.key]
        layers = {name: path for name, path in twin.layers.items() if name not in SHARED or name not in frame.layers}
        room -= sum(path.stat().st_size for path in (*frame.layers.values(), *layers.values()))
        if room < 0:
            break
        pairs.append(Pair(frame.key, _kind(frame, twin), [slide(frame, frame.layers), slide(twin, layers)]))
    return pairs


def _kind(frame: Shown, twin: Shown) -> str:
    return frame.kind if frame.kind == twin.kind else f"{frame.kind} of one, {twin.kind} of the other"
