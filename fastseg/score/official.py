"""The evaluator of cityscapesscripts on saved predictions, instance-level scores included, beside our own scores."""

import copy
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastseg.errors import UserError
from fastseg.progress import show_progress
from fastseg.score.groundtruth import ground_truth, instances_of, other_size, size_of
from fastseg.score.metrics import Score, percent

Progress = Callable[[int, int], None]
"""Told how many are done, of how many."""


@dataclass(frozen=True)
class OfficialScores:
    """What cityscapesscripts says, as fractions 0…1; NaN where it says nothing."""

    classes: dict[str, float]
    """IoU of every class."""
    instances: dict[str, float]
    """iIoU of every class: each object counts as much as one of average size; NaN for classes without objects, and
    everywhere where there are no instanceIds."""
    miou: float
    instance_miou: float
    category_miou: float
    instance_category_miou: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; None in place of NaN."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def run_official(truth: Path, predictions: Mapping[str, Path], progress: Progress | None = None) -> OfficialScores:
    """Score saved predictions (key → PNG of label ids) by cityscapesscripts' own code.

    ``truth``: the folder with ``gtFine/``, that folder itself, or the official zip or the folder with it. Raises
    :class:`UserError` where a frame's ground truth is missing or of another size.
    """
    with ground_truth(truth, list(predictions)) as files:
        for key, path in predictions.items():
            _check_size(path, files[key])
        has_instances = all(instances_of(path).is_file() for path in files.values())
        pairs = [(str(path), str(files[key])) for key, path in predictions.items()]
        return _scores(_evaluate(pairs, has_instances, progress), has_instances)


def _evaluate(pairs: Sequence[tuple[str, str]], has_instances: bool, progress: Progress | None) -> dict[str, Any]:
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as evaluator

    arguments = copy.copy(evaluator.args)
    arguments.evalInstLevelScore, arguments.evalPixelAccuracy = has_instances, False
    arguments.JSONOutput, arguments.quiet = False, True
    predicted, truths = (list(paths) for paths in zip(*pairs, strict=True))
    said = io.StringIO()
    try:
        with redirect_stdout(said), _old_numpy():
            result: dict[str, Any] = evaluator.evaluateImgLists(_Told(predicted, progress), truths, arguments)
    except SystemExit:
        raise UserError(f"cityscapesscripts' evaluator gave up: {said.getvalue().strip()}") from None
    return result


class _Told(list[str]):
    """The evaluator takes minutes and says nothing, but takes one prediction after the other from this list."""

    def __init__(self, paths: Sequence[str], progress: Progress | None) -> None:
        super().__init__(paths)
        self._progress = progress

    def __getitem__(self, place: Any) -> Any:
        if self._progress:
            self._progress(place + 1, len(self))
        return super().__getitem__(place)


@contextmanager
def _old_numpy() -> Iterator[None]:
    """The instance-level part calls np.in1d, which NumPy 2.4 has dropped for np.isin."""
    if hasattr(np, "in1d"):
        yield
        return
    np.in1d = np.isin  # type: ignore[attr-defined]  # noqa: NPY201
    try:
        yield
    finally:
        del np.in1d  # type: ignore[attr-defined]  # noqa: NPY201


def _scores(result: dict[str, Any], has_instances: bool) -> OfficialScores:
    # Without instances it would call 0 what cannot be said.
    known = [name for name, value in result["classScores"].items() if not math.isnan(value)]
    return OfficialScores(
        classes={name: result["classScores"][name] for name in known},
        instances={name: result["classInstScores"][name] if has_instances else math.nan for name in known},
        miou=result["averageScoreClasses"],
        instance_miou=result["averageScoreInstClasses"] if has_instances else math.nan,
        category_miou=result["averageScoreCategories"],
        instance_category_miou=result["averageScoreInstCategories"] if has_instances else math.nan,
    )


def _check_size(prediction: Path, truth: Path) -> None:
    if not prediction.is_file():
        raise UserError(
            f"{prediction} is not here, so another machine has written it; name a folder that all machines share with "
            "--save-predictions"
        )
    ours, theirs = size_of(prediction), size_of(truth)
    if ours != theirs:
        raise UserError(other_size(f"prediction {prediction.name}", ours, truth, theirs))


def compare_official(truth: Path, ours: Score, predictions: Mapping[str, Path], console: Console) -> dict[str, Any]:
    """:func:`run_official` with progress; prints both results side by side and returns the official one for JSON."""
    with show_progress("cityscapesscripts", "images") as progress:
        official = run_official(truth, predictions, progress)
    console.print(official_table(ours, official))
    console.print(explain(ours, official), highlight=False, soft_wrap=True)
    return official.to_json()


def official_table(ours: Score, official: OfficialScores) -> Table:
    """Both side by side, in per cent."""
    table = Table("class", title="Ours beside cityscapesscripts, in %")
    for column in ("IoU, ours", "IoU, official", "difference", "iIoU, official"):
        table.add_column(column, justify="right")
    for name, value in ours.classes.items():
        theirs = official.classes.get(name, math.nan)
        row = (value, theirs, value - theirs, official.instances.get(name, math.nan))
        table.add_row(Text(name), *map(percent, row))
    table.add_section()
    means = (ours.miou, official.miou, ours.miou - official.miou, official.instance_miou)
    table.add_row("mean of classes", *map(percent, means), style="bold")
    gap = ours.category_miou - official.category_miou
    means = (ours.category_miou, official.category_miou, gap, official.instance_category_miou)
    table.add_row("mean of categories", *map(percent, means))
    return table


def explain(ours: Score, official: OfficialScores) -> str:
    """How far apart both are, and what there is no instance-level score for."""
    gap = largest_difference(ours, official)
    apart = f"the largest difference of a class's IoU is {100 * gap:.4f} %"
    if all(map(math.isnan, official.instances.values())):
        return f"{apart}; there is no iIoU, since no instanceIds with objects lie beside all labelIds"
    return apart


def largest_difference(ours: Score, official: OfficialScores) -> float:
    """Between our IoU and theirs, over all classes that both score; infinite where only one of them does."""
    pairs = [(value, official.classes.get(name, math.nan)) for name, value in ours.classes.items()]
    scored = [pair for pair in pairs if not all(map(math.isnan, pair))]
    return max((math.inf if math.isnan(a + b) else abs(a - b) for a, b in scored), default=0.0)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return None if math.isnan(value) else value
