"""Format rows as tables, readable both in a terminal and on GitHub."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from bench.runner.results import Row

COLUMNS = ("entry", "median", "min–max", "ratio to ours", "cores", "settings")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: Iterable[int] = (0,), pad: bool = False) -> str:
    """Return a Markdown table; columns ``left`` are text, the others numbers; ``pad``: align for a terminal."""
    words = set(left)
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    rule = ["---" if i in words else "---:" for i in range(len(header))]
    if pad:
        widths = [max(map(len, column)) for column in zip(*lines, rule, strict=True)]
        to = [str.ljust if i in words else str.rjust for i in range(len(header))]
        lines = [[f(cell, width) for f, cell, width in zip(to, line, widths, strict=True)] for line in lines]
        rule = [mark.rjust(width, "-") for mark, width in zip(rule, widths, strict=True)]
    first, *others = [f"| {' | '.join(line)} |" for line in lines]
    between = " | " if pad else "|"
    return "\n".join([first, f"{between.lstrip()}{between.join(rule)}{between.rstrip()}", *others])


def stage_table(rows: Sequence[Row], pad: bool = False) -> str:
    """Return one stage's rows as a table, the skipped ones below."""
    lines = [f"**{rows[0].group} ({', '.join(dict.fromkeys(row.unit for row in rows))})**", ""]
    if found := measured(rows):
        lines += [table(COLUMNS, [_cells(row, found) for row in found], left=(0, 5), pad=pad), "", _caption(found)]
    absent = skipped(rows)
    return "\n".join([*lines, *([""] if found and absent else []), *(f"- {sentence}" for sentence in absent)])


def measured(rows: Sequence[Row]) -> list[Row]:
    """Return the measured rows, in their order."""
    return [row for row in rows if row.windows]


def skipped(rows: Sequence[Row]) -> list[str]:
    """Return a line for each skipped entry: its name and the reason."""
    return [f"{row.entry}: {row.skipped}" for row in rows if row.skipped is not None]


def stages(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of every stage, in the order in which stages appear."""
    return {name: [row for row in rows if row.stage == name] for name in dict.fromkeys(row.stage for row in rows)}


def reference_row(rows: Sequence[Row]) -> Row | None:
    """Return fastseg's row, to which the stage's ratios refer."""
    return next((row for row in measured(rows) if row.ours and not row.part), None)


def number(value: float) -> str:
    """Format with three significant digits, and all digits before the point: 0.0123, 4.57, 1,234."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{max(digits, 0)}f}"


def factor(row: Row) -> str:
    """Format the ratio to fastseg: 5.6× slower, 1.07× faster, even; empty without a ratio."""
    if row.ratio_to_ours is None:
        return ""
    ratio = row.ratio_to_ours.median
    return f"{1 / ratio:.1f}× slower" if ratio < 0.95 else f"{ratio:.2f}× faster" if ratio > 1.05 else "even"


def differing(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return the short settings in which the rows differ, with every row's value (None if missing)."""
    found = [flat(row.settings) for row in rows]
    names = dict.fromkeys(name for settings in found for name in settings)
    values = {name: [settings.get(name) for settings in found] for name in names}
    return {name: many for name, many in values.items() if any(v != many[0] for v in many) and all(map(_short, many))}


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the crop, scale and batch of a loader's "work" beside the others."""
    work = {name: value for name, value in settings.get("work", {}).items() if name not in ("device", "seed", "fill")}
    return {**{name: value for name, value in settings.items() if name != "work"}, **work}


def sentences(derived: Iterable[dict[str, Any]]) -> list[str]:
    """Return the sentences of derived figures, each with a capital and a full stop."""
    return [f"{(text := str(figure['sentence']))[0].upper()}{text[1:]}." for figure in derived]


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    own = {name: flat(row.settings).get(name) for name in differing(rows)}
    ratio = "–"
    if row.ratio_to_ours and not row.part:
        ratio = f"{row.ratio_to_ours.median:.2f}×" + ("" if row is reference_row(rows) else f", {factor(row)}")
    return [
        row.entry,
        number(row.spread.median),
        f"{number(row.spread.min)}–{number(row.spread.max)}",
        ratio,
        f"{row.cores_used:.1f}" if row.cores_used is not None else "–",
        ", ".join(f"{name}={_value(value)}" for name, value in own.items() if value is not None),
    ]


def _caption(rows: Sequence[Row]) -> str:
    """Return the settings that all rows share, and their number of windows."""
    shared = {name: value for name, value in flat(rows[0].settings).items() if name not in differing(rows)}
    parts = [f"{name} {_value(value)}" for name, value in shared.items() if value is not None and _short(value)]
    least, most = min(len(row.windows) for row in rows), max(len(row.windows) for row in rows)
    return ", ".join([*parts, f"{least}–{most} windows" if least < most else f"{most} windows"])


def _short(value: Any) -> bool:
    """Return whether a value fits into a table: no path, nothing nested."""
    return not isinstance(value, dict) and len(_value(value)) <= 24 and "/" not in _value(value)


def _value(value: Any) -> str:
    if not isinstance(value, (list, tuple)):
        return str(value)
    return ("–" if any(isinstance(part, float) for part in value) else "×").join(map(str, value))
