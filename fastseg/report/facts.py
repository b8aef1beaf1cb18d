"""What a report says of a run in words and single numbers: what it is, its scores, its speed, its settings."""

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from fastseg.recipe_table import DEFAULT, RECIPES, recipe_in
from fastseg.report.charts import compact
from fastseg.report.run_folder import Line, Run, number, position

UNKNOWN = "not known"
TRAINERS = ("train.py", "fastseg-train")
"""Commands whose flags name a recipe."""
ABOUT_PLACES = ("name", "runs", "shards", "resume")
"""Settings that every run changes, and that say nothing of how it was trained."""
ENOUGH_SETTINGS = 20
"""Known settings with which a recipe can be recognized."""


def percent(share: float) -> str:
    """Format 0.799 as ``79.90 %``, NaN as an en dash."""
    return f"{100 * share:.2f} %" if math.isfinite(share) else "–"


def duration(seconds: float) -> str:
    """Format seconds as ``48 s``, ``3 min 20 s`` or ``5 h 07 min``, NaN as an en dash."""
    if not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def energy(joules: float) -> str:
    """Format joules as ``3.6 Wh`` or ``1.2 kWh``, NaN as an en dash."""
    hours = joules / 3600
    return f"{compact(hours)} Wh" if not hours >= 1000 else f"{compact(hours / 1000)} kWh"


FORMATS = {
    "share": percent,
    "time": duration,
    "energy": energy,
    "speed": lambda value: f"{compact(value)} img/s" if math.isfinite(value) else "–",
    "memory": lambda value: f"{value / 2**30:.1f} GiB" if math.isfinite(value) else "–",
    "count": lambda value: f"{value:,.0f}" if math.isfinite(value) else "–",
    "number": compact,
}
"""How a number of each kind is written."""


@dataclass(frozen=True)
class Fact:
    """One number of a run, NaN if unknown."""

    label: str
    number: float
    kind: str
    """A key of :data:`FORMATS`."""
    note: str = ""
    text: str = ""
    """Text in place of the number."""

    @property
    def value(self) -> str:
        """Return the number as it is shown."""
        return self.text or FORMATS[self.kind](self.number)


def scores(run: Run) -> Iterator[Fact]:
    """Yield the scores of a run's evaluations."""
    best, last = run.best, run.last
    if not best:
        return
    label = "best mIoU" if len(run.evaluations) > 1 else "mIoU"
    yield Fact(label, number(best, "miou"), "share", evaluation_title(best))
    if last is not best:
        yield Fact("last mIoU", number(last, "miou"), "share", evaluation_title(last))
    yield Fact("pixel accuracy", number(best, "accuracy"), "share", evaluation_title(best))
    if "split_images" in best:
        counted, there = best["images"], best["split_images"]
        images = f"{counted:,} of {there:,}" if counted < there else f"{counted:,}"
        yield Fact("images", counted, "count", ", ".join([f"of {best['split']}", *best["views"]]), images)


def speeds(run: Run) -> Iterator[Fact]:
    """Yield a run's last loss and what it cost in time, memory and energy."""
    if run.train:
        last = run.train[-1]
        # The first line pays for warming up: compiling, choosing algorithms, filling queues.
        steady = run.train[1:] or run.train
        rates, waiting = _values(steady, "images_per_second_per_gpu"), _values(steady, "waiting")
        seconds, memory = _values([*run.train, *run.evaluations], "seconds"), _values(run.train, "memory")
        evaluating = f"{duration(spent)} of it evaluating" if (spent := _evaluating(run)) else ""
        each = "per GPU or process"
        yield Fact("loss", number(last, "loss"), "number", f"at step {compact(number(last, 'step'))}")
        yield Fact("steps", number(last, "step"), "count", f"{compact(number(last, 'epoch'))} epochs")
        yield Fact("wall time", max(seconds, default=math.nan), "time", evaluating)
        yield Fact("speed", median(rates) if rates else math.nan, "speed", f"median, {each}")
        yield Fact("waiting for data", fmean(waiting) if waiting else math.nan, "share", "share of the time")
        yield Fact("memory", max(memory, default=math.nan), "memory", f"peak, {each}")
    if used := _values(run.evaluations, "joules"):
        yield Fact("energy", sum(used), "energy", "of all GPUs, until the last evaluation")
    bad = [int(max(_values(lines, "corrupt_samples"), default=0)) for lines in (run.train, run.evaluations)]
    if any(bad):
        note = "skipped in training + in an evaluation"
        yield Fact("damaged records", sum(bad), "count", note, f"{bad[0]} + {bad[1]}")


def _evaluating(run: Run) -> float:
    """Return the seconds spent in evaluations, as far as they are known."""
    pairs = ((number(line, "images"), number(line, "images_per_second")) for line in run.evaluations)
    return sum(images / rate for images, rate in pairs if rate > 0 and math.isfinite(images))


def _values(lines: Sequence[Line], key: str) -> list[float]:
    return [value for line in lines if math.isfinite(value := number(line, key))]


def title(run: Run) -> str:
    """Return the run's name; for an evaluation alone, the names of checkpoint, run and split."""
    if not (checkpoint := run.last.get("checkpoint")):
        return run.name
    trained = f" of {name}" if (name := run.config.get("name")) else ""
    return f"{Path(checkpoint).name}{trained}, on {run.last['split']}"


def evaluation_title(line: Line) -> str:
    """Return step and weights of an evaluation."""
    weights = f", {weights_title(line['weights'])}" if line.get("weights") else ""
    return f"step {number(line, 'step'):,.0f}{weights}" if line else ""


def weights_title(kind: str) -> str:
    """Return the weights that were evaluated in words."""
    return {"ema": "averaged weights (EMA)", "model": "weights as trained", "": "mIoU"}.get(kind, kind)


class State(NamedTuple):
    """Progress of a run, in words."""

    finished: bool
    text: str


def state(run: Run) -> State | None:
    """Return how far a run has come; None for an evaluation alone."""
    if run.last.get("checkpoint"):
        return None
    done = max((position(line) for line in (*run.train, *run.evaluations)), default=0.0)
    planned = number(_part(run.config, "optim"), "epochs")
    if done >= planned - 1e-6:
        return State(True, f"finished: {compact(planned)} epochs")
    of = f" of {compact(planned)}" if math.isfinite(planned) else ""
    since_best = len(run.evaluations) - 1 - run.evaluations.index(run.best) if run.best else 0
    if since_best >= number(run.config, "patience", math.inf):
        return State(True, f"ended at epoch {compact(done)}{of}: no better for {since_best} evaluations")
    return State(False, f"not finished: epoch {compact(done)}{of}")


def about(run: Run) -> dict[str, str]:
    """Return what the run is, in words: data set, network, recipe, date, commit and machine."""
    model, environment = _part(run.config, "model"), run.environment
    weights = str(model.get("weights", ""))
    start = {"": "", "none": ", from scratch"}.get(weights, f", from {Path(weights).name} weights")
    recipe, changed = recipe_of(run), len(changed_settings(run))
    closest = "closest to " if recipe.name and not recipe.said else ""
    changes = f", {changed} setting{'s' * (changed != 1)} changed" if changed else ""
    known = {
        "data set": environment.get("dataset") or Path(str(run.config.get("shards", ""))).name,
        "network": f"{model.get('arch', '')}{start}" if model.get("arch") else "",
        "recipe": f"{closest}{recipe.name}{changes}",
        "started": environment.get("started", ""),
        "commit": short_commit(str(environment.get("commit", ""))),
        "machine": machine(environment),
    }
    return {name: str(value) or UNKNOWN for name, value in known.items()}


def short_commit(commit: str) -> str:
    """Return the first nine characters of a commit, with "(changed)" if files differed."""
    return "" if commit == "unknown" else f"{commit[:9]}{commit[40:]}"


def machine(environment: Mapping[str, str]) -> str:
    """Return the GPUs, or the processor without a GPU; empty if unknown."""
    if (gpus := environment.get("gpus", "none")) != "none":
        return gpus
    cores = environment.get("cores", "")
    parts = (environment.get("processor", ""), f"{cores} core{'s' * (cores != '1')}" if cores else "")
    return ", ".join(filter(None, parts))


class Recipe(NamedTuple):
    """The recipe of a run."""

    name: str
    """Empty if unknown."""
    said: bool
    """Whether the run or its command line names it; else it is the one with the fewest other settings."""


def recipe_of(run: Run) -> Recipe:
    """Return the recipe that a run says, or its command line names, or else that its settings are closest to."""
    try:
        words = shlex.split(str(run.environment.get("command", "")))
    except ValueError:
        words = []
    trained = any(Path(word).name in TRAINERS for word in words[:2])
    if name := str(run.environment.get("recipe", "")) or (recipe_in(words) if trained else ""):
        return Recipe(name, said=True)
    known = set(dict(flatten(run.config)))
    if len(known & set(dict(flatten(RECIPES[DEFAULT]().to_dict())))) < ENOUGH_SETTINGS:
        return Recipe("", said=False)
    return Recipe(min(RECIPES, key=lambda name: len(_changed(run, name))), said=False)


def changed_settings(run: Run) -> list[tuple[str, str, str]]:
    """Return the settings that differ from the recipe: name, value, the recipe's; none if that is unknown."""
    name = recipe_of(run).name
    return _changed(run, name) if name in RECIPES and run.config else []


def _changed(run: Run, recipe: str) -> list[tuple[str, str, str]]:
    return [row for row in differing(run.config, RECIPES[recipe]().to_dict()) if row[0] not in ABOUT_PLACES]


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the settings in which two trees differ: name, value in each, an en dash if it is missing there."""
    one, other = dict(flatten(ours)), dict(flatten(theirs))
    rows = ((name, one.get(name, "–"), other.get(name, "–")) for name in {**one, **other})
    return [row for row in rows if row[1] != row[2]]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings as (``optim.lr``, ``0.01``), the values as JSON."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _part(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = tree.get(name)
    return part if isinstance(part, dict) else {}
