"""What got slower between two runs of the suite: python bench/compare.py A.json B.json"""

import sys
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Annotated, NamedTuple

if __package__ in (None, ""):
    # Run as a script, sys.path starts with this folder, whose modules are not for the top level.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.suite.rows import Results, Row, read_results
from bench.suite.show import number
from fastseg.errors import run_command

LEVEL = 0.05
SMALLEST = 0.03
"""Change of the median below which nothing is called: two runs of the same code on the same machine can lie that
far apart, since processes land on other pages and cores, which the windows within a run cannot show."""
ENOUGH = 4
"""Windows of each run: with three and three, the clearest of the 20 ways to deal them out has p = 0.1."""
ROUNDS = 20_000
MACHINE = ("processor", "cores", "gpus", "affinity", "threads", "governor", "system")


@dataclass(frozen=True)
class Options:
    """Say what got slower or faster beyond noise from one run of bench/throughput.py to another.

    Example: python bench/compare.py before.json after.json

    Beyond noise is a change of a contestant's median for which all three hold: an exact rank test (Mann–Whitney,
    two-sided) of its windows gives p < 0.05, for which each run must have 4 windows or more; the 95 % bootstrap
    interval of the ratio of medians leaves out 1; and it is 3 % or more, because two runs of the same code differ that
    much. The exit code is 1 if something of fastseg's got slower beyond noise; parts of it alone, and fastseg without
    one of its parts or under other settings (--ablate, --candidates, --settings), do not count.
    """

    before: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BEFORE.json")]
    """JSON of the earlier run."""
    after: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AFTER.json")]
    """JSON of the later run."""


class Change(NamedTuple):
    """From one run to another."""

    ratio: float
    """Median after over median before."""
    low: float
    """Of the 95 % bootstrap interval of the ratio."""
    high: float
    p: float
    """Of the rank test."""

    @property
    def verdict(self) -> str:
        """slower, faster, or within noise."""
        noisy = self.p >= LEVEL or self.low <= 1 <= self.high or abs(self.ratio - 1) < SMALLEST
        return "within noise" if noisy else "slower" if self.ratio < 1 else "faster"


def compare(before: tuple[float, ...], after: tuple[float, ...]) -> Change:
    """The change from the windows of one run to those of another."""
    a, b = np.asarray(before), np.asarray(after)
    rng = np.random.default_rng(0)
    medians = [np.median(rng.choice(x, (ROUNDS, len(x))), axis=1) for x in (a, b)]
    low, high = np.quantile(medians[1] / medians[0], (0.025, 0.975))
    return Change(float(np.median(b) / np.median(a)), float(low), float(high), rank_test(a, b, rng))


def rank_test(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> float:
    """Two-sided p of Mann–Whitney's test: over all ways to deal out the values, or over many random ones."""
    values = np.concatenate([a, b])
    # The mean of the places that equal values take.
    ranks = (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) + 1) / 2
    if comb(len(values), len(a)) <= ROUNDS:
        hands = np.array(list(combinations(range(len(values)), len(a))))
    else:
        hands = rng.permuted(np.tile(np.arange(len(values)), (ROUNDS, 1)), axis=1)[:, : len(a)]
        hands = np.concatenate([hands, np.arange(len(a))[None]])  # The one that was seen is possible.
    expected = len(a) * (len(values) + 1) / 2
    distances = np.abs(ranks[hands].sum(1) - expected)
    return float((distances >= abs(ranks[: len(a)].sum() - expected) - 1e-9).mean())


def main() -> None:
    """Print the comparison; exit with 1 if something of ours got slower."""
    options = tyro.cli(Options)
    runs = read_results(options.before), read_results(options.after)
    pairs = _pairs(*runs)
    changes = [compare(before.windows, after.windows) for before, after in pairs]
    console = Console()
    if pairs:
        console.print(_table(pairs, changes))
    for sentence in [*_differences(*runs), *_settings(pairs), *_few(pairs), *_lonely(*runs)]:
        console.print(Text(sentence), soft_wrap=True)
    slower = [
        row.contestant
        for (row, _), change in zip(pairs, changes, strict=True)
        if _counts(row, runs[0]) and change.verdict == "slower"
    ]
    print(f"slower beyond noise: {', '.join(slower)}" if slower else "nothing of fastseg's got slower beyond noise")
    sys.exit(1 if slower else 0)


def _counts(row: Row, run: Results) -> bool:
    """Whether it is something that people use: of a run with --settings only what stands beside the other settings."""
    changed = any(word in row.contestant for word in (" without ", " with "))
    swept = run.settings.get("options", {}).get("settings", False)
    return row.ours and not row.part and not changed and (not swept or row.contestant == "fastseg")


def _pairs(before: Results, after: Results) -> list[tuple[Row, Row]]:
    later = {(row.stage, row.contestant): row for row in after.rows if row.windows}
    return [
        (row, later[row.stage, row.contestant])
        for row in before.rows
        if row.windows and (row.stage, row.contestant) in later
    ]


def _table(pairs: list[tuple[Row, Row]], changes: list[Change]) -> Table:
    table = Table("stage", "contestant")
    for column in ("before", "after", "change", "95 % interval", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    colors = {"slower": "red", "faster": "green", "within noise": None}
    for (before, after), change in zip(pairs, changes, strict=True):
        medians = (f"{number(row.spread.median)} {row.unit}" for row in (before, after))
        interval = f"{_percent(change.low)} to {_percent(change.high)}"
        cells = (before.stage, before.contestant, *medians, _percent(change.ratio), interval, f"{change.p:.3f}")
        table.add_row(*map(Text, (*cells, change.verdict)), style=colors[change.verdict])
    return table


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def _differences(before: Results, after: Results) -> list[str]:
    """What of the machine is not the same."""
    a, b = before.environment, after.environment
    named = [name for name in MACHINE if a.get(name) != b.get(name)]
    versions = [
        name for name in a.keys() | b.keys() if name not in (*MACHINE, "command") and a.get(name) != b.get(name)
    ]
    return [
        f"note: {name} was {a.get(name, 'not recorded')} and is {b.get(name, 'not recorded')}"
        for name in [*named, *sorted(versions)]
    ]


def _settings(pairs: list[tuple[Row, Row]]) -> list[str]:
    found = []
    for a, b in pairs:
        names = [name for name in {**a.settings, **b.settings} if a.settings.get(name) != b.settings.get(name)]
        changed = ", ".join(f"{name} {a.settings.get(name)} → {b.settings.get(name)}" for name in names)
        if changed:
            found.append(f"note: {a.stage}, {a.contestant} had other settings: {changed}")
    return found


def _few(pairs: list[tuple[Row, Row]]) -> list[str]:
    """One note for all that were measured too few times."""
    least = min((len(row.windows) for pair in pairs for row in pair), default=ENOUGH)
    if least >= ENOUGH:
        return []
    said = f"{least} window{'s' * (least != 1)}"
    return [f"note: a run has only {said} of a contestant; with fewer than {ENOUGH} nothing can be called slower"]


def _lonely(before: Results, after: Results) -> list[str]:
    """Who was measured in one of the runs only."""
    names = [{(row.stage, row.contestant) for row in run.rows if row.windows} for run in (before, after)]
    found = [("before", names[0] - names[1]), ("after", names[1] - names[0])]
    return [f"note: {stage}, {name} was measured only {when}" for when, which in found for stage, name in sorted(which)]


if __name__ == "__main__":
    run_command(main)
