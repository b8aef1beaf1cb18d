"""Report what got slower between two runs of the bench: python bench/compare.py A.json B.json"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

if __package__ in (None, ""):
    # Run as a script, sys.path starts with this folder, whose modules are not for the top level.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import tyro
from scipy.stats import bootstrap, mannwhitneyu

from bench.docs.tables import number, table
from bench.runner.results import Results, Row, read_results
from fastseg.cli_help import command_name
from fastseg.errors import run_command

LEVEL = 0.05
SMALLEST = 0.03
"""Smallest change of the median that counts: two runs of the same code on the same machine can differ that much, since
processes land on other pages and cores, which the windows within a run cannot show."""
ENOUGH = 4
"""Minimum windows of each run: with three each, the most extreme of the 20 permutations has p = 0.1."""
ROUNDS = 20_000
MACHINE = ("processor", "cores", "gpus", "affinity", "threads", "governor", "system")


@dataclass(frozen=True)
class Options:
    """Report what got slower or faster beyond noise from one run of bench/throughput.py to another.

    Example: python bench/compare.py before.json after.json

    Beyond noise is a change of an entry's median for which all three hold: a rank test (Mann–Whitney, two-sided) of
    its windows gives p < 0.05, for which each run must have 4 windows or more; the 95 % bootstrap interval of the ratio
    of medians excludes 1; and it is 3 % or more, because two runs of the same code differ that much. The exit
    code is 1 if an entry of fastseg got slower beyond noise; its parts alone, and fastseg without one of its parts or
    under other settings (--ablate, --candidates, --settings), do not count.
    """

    before: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BEFORE.json")]
    """JSON of the earlier run."""
    after: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AFTER.json")]
    """JSON of the later run."""


class Change(NamedTuple):
    """The change of an entry from one run to another."""

    ratio: float
    """Median after over median before."""
    low: float
    """Lower end of the 95 % bootstrap interval of the ratio."""
    high: float
    p: float
    """Two-sided p of the rank test."""

    @property
    def verdict(self) -> str:
        """Return slower, faster, or within noise."""
        noisy = self.p >= LEVEL or self.low <= 1 <= self.high or abs(self.ratio - 1) < SMALLEST
        return "within noise" if noisy else "slower" if self.ratio < 1 else "faster"


def compare(before: tuple[float, ...], after: tuple[float, ...]) -> Change:
    """Return the change from the windows of one run to those of another."""

    def ratio(a: Any, b: Any, axis: int = -1) -> Any:
        return np.median(b, axis=axis) / np.median(a, axis=axis)

    rng = np.random.default_rng(0)
    with np.errstate(invalid="ignore"):
        found = bootstrap((before, after), ratio, n_resamples=ROUNDS, method="percentile", vectorized=True, rng=rng)
    low, high = found.confidence_interval
    # Exact for up to 8 windows without ties.
    p = mannwhitneyu(before, after).pvalue
    return Change(float(ratio(before, after)), float(low), float(high), float(p))


def main() -> None:
    """Print the comparison; exit with 1 if an entry of fastseg got slower."""
    options = tyro.cli(Options, prog=command_name())
    runs = read_results(options.before), read_results(options.after)
    pairs = _pairs(*runs)
    changes = [compare(before.windows, after.windows) for before, after in pairs]
    if pairs:
        print(_table(pairs, changes), end="\n\n")
    for sentence in [*_machines(*runs), *_settings(pairs), *_few(pairs), *_lonely(*runs)]:
        print(f"note: {sentence}")
    slower = [
        row.entry
        for (row, _), change in zip(pairs, changes, strict=True)
        if _counts(row, runs[0]) and change.verdict == "slower"
    ]
    print(f"slower beyond noise: {', '.join(slower)}" if slower else "no entry of fastseg got slower beyond noise")
    sys.exit(1 if slower else 0)


def _counts(row: Row, run: Results) -> bool:
    """Return whether a row counts for the exit code: an entry as users run it, not a part or a variant."""
    changed = any(word in row.entry for word in (" without ", " with "))
    swept = run.settings.get("options", {}).get("settings", False)
    return row.ours and not row.part and not changed and (not swept or row.entry == "fastseg")


def _by_name(run: Results) -> dict[tuple[str, str], Row]:
    return {(row.group, row.entry): row for row in run.results if row.windows}


def _pairs(before: Results, after: Results) -> list[tuple[Row, Row]]:
    later = _by_name(after)
    return [(row, later[name]) for name, row in _by_name(before).items() if name in later]


def _table(pairs: list[tuple[Row, Row]], changes: list[Change]) -> str:
    header = ("stage", "entry", "before", "after", "change", "95 % interval", "p", "verdict")
    rows = []
    for (before, after), change in zip(pairs, changes, strict=True):
        medians = (f"{number(row.spread.median)} {row.unit}" for row in (before, after))
        ratio, low, high = (f"{100 * (value - 1):+.1f} %" for value in change[:3])
        rows.append(
            (before.group, before.entry, *medians, ratio, f"{low} to {high}", f"{change.p:.3f}", change.verdict)
        )
    return table(header, rows, left=(0, 1, 7), pad=True)


def _machines(before: Results, after: Results) -> Iterator[str]:
    """Yield the differences between the machines."""
    a, b = before.environment, after.environment
    versions = sorted((a.keys() | b.keys()) - {*MACHINE, "command"})
    for name in (*MACHINE, *versions):
        if a.get(name) != b.get(name):
            yield f"{name} was {a.get(name, 'not recorded')} and is {b.get(name, 'not recorded')}"


def _settings(pairs: list[tuple[Row, Row]]) -> Iterator[str]:
    for a, b in pairs:
        names = [name for name in {**a.settings, **b.settings} if a.settings.get(name) != b.settings.get(name)]
        if names:
            changed = ", ".join(f"{name} {a.settings.get(name)} → {b.settings.get(name)}" for name in names)
            yield f"{a.group}, {a.entry} had other settings: {changed}"


def _few(pairs: list[tuple[Row, Row]]) -> Iterator[str]:
    """Yield a note on the entries with too few windows."""
    least = min((len(row.windows) for pair in pairs for row in pair), default=ENOUGH)
    if least < ENOUGH:
        said = f"{least} window{'s' * (least != 1)}"
        yield f"a run has only {said} of an entry; with fewer than {ENOUGH} nothing can be called slower"


def _lonely(before: Results, after: Results) -> Iterator[str]:
    """Yield notes on entries that only one of the runs measured."""
    one, other = _by_name(before).keys(), _by_name(after).keys()
    for when, names in (("before", one - other), ("after", other - one)):
        yield from (f"{stage}, {name} was measured only {when}" for stage, name in sorted(names))


if __name__ == "__main__":
    run_command(main)
