"""Results for people: tables in a terminal or as markdown, and one line of progress."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.suite.rows import Row, Spread

SECONDS = 10.0
"""Between two plain lines of progress."""
COLUMNS = ("contestant", "median", "min–max", "ratio to ours", "cores", "settings")


def stage_table(rows: Sequence[Row]) -> Table:
    """One stage's measured rows; ours stand out."""
    table = Table(title=_title(rows), title_justify="left", caption=_caption(rows), caption_justify="left")
    for column in COLUMNS:
        words = column in ("contestant", "settings")
        table.add_column(column, justify="left" if words else "right", no_wrap=not words)
    for row in measured(rows):
        table.add_row(*map(Text, _cells(row, rows)), style="bold green" if row.ours else None)
    return table


def markdown(rows: Sequence[Row]) -> str:
    """One stage's rows as GitHub shows tables, the skipped ones below."""
    lines = [f"**{_title(rows)}**", ""]
    if measured(rows):
        lines += [f"| {' | '.join(COLUMNS)} |", "|---|---:|---:|---:|---:|---|"]
        lines += [f"| {' | '.join(_escape(cell) for cell in _cells(row, rows))} |" for row in measured(rows)]
    if caption := _caption(rows):
        lines += ["", caption]
    lines += ["", *(f"- {sentence}" for sentence in skipped(rows))] if skipped(rows) else []
    return "\n".join(lines)


def measured(rows: Sequence[Row]) -> list[Row]:
    """Those with numbers, in their order."""
    return [row for row in rows if row.windows]


def skipped(rows: Sequence[Row]) -> list[str]:
    """A line for each contestant without numbers: who and why."""
    return [f"{row.contestant}: {row.skipped}" for row in rows if row.skipped is not None]


def stages(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of every stage, in the order in which stages appear."""
    return {name: [row for row in rows if row.stage == name] for name in dict.fromkeys(row.stage for row in rows)}


def baseline(rows: Sequence[Row]) -> Row | None:
    """The row of ours that the stage's ratios refer to."""
    return next((row for row in measured(rows) if row.ours and not row.part), None)


def number(value: float) -> str:
    """Three figures, and all those before the point: 0.0123, 4.57, 1,234."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{max(digits, 0)}f}"


def factor(row: Row) -> str:
    """The ratio to ours in words: 5.6× slower, 1.07× faster, even; nothing where there is none."""
    if row.ratio is None:
        return ""
    ratio = row.ratio.median
    return f"{1 / ratio:.1f}× slower" if ratio < 0.95 else f"{ratio:.2f}× faster" if ratio > 1.05 else "even"


def differing(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Short settings in which the rows differ, with every row's value (None: it has none)."""
    found = [flat(row.settings) for row in rows]
    names = dict.fromkeys(name for settings in found for name in settings)
    values = {name: [settings.get(name) for settings in found] for name in names}
    return {name: many for name, many in values.items() if any(v != many[0] for v in many) and _short(many)}


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """With what a loader's "work" holds that people ask for beside the others: crop, scale, batch, …"""
    work = {name: value for name, value in settings.get("work", {}).items() if name not in ("device", "seed", "fill")}
    return {**{name: value for name, value in settings.items() if name != "work"}, **work}


def sentences(derived: Sequence[dict[str, Any]]) -> list[str]:
    """What derived figures say, each from its capital to its full stop."""
    return [f"{(text := str(figure['sentence']))[0].upper()}{text[1:]}." for figure in derived]


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    own = {name: flat(row.settings).get(name) for name in differing(measured(rows))}
    settings = ", ".join(f"{name}={_value(value)}" for name, value in own.items() if value is not None)
    return [
        row.contestant,
        number(row.spread.median),
        _range(row.spread),
        _ratio(row, baseline(rows)),
        f"{row.cores_used:.1f}" if row.cores_used is not None else "–",
        settings,
    ]


def _ratio(row: Row, ours: Row | None) -> str:
    if row.ratio is None or row.part:
        return "–"
    return f"{row.ratio.median:.2f}×" + ("" if row is ours else f", {factor(row)}")


def _title(rows: Sequence[Row]) -> str:
    return f"{rows[0].stage} ({', '.join(dict.fromkeys(row.unit for row in rows))})"


def _caption(rows: Sequence[Row]) -> str:
    """What all rows share, and how many windows they had."""
    found = measured(rows)
    if not found:
        return ""
    shared = {name: value for name, value in flat(found[0].settings).items() if name not in differing(found)}
    parts = [f"{name} {_value(value)}" for name, value in shared.items() if value is not None and _short([value])]
    least, most = min(len(row.windows) for row in found), max(len(row.windows) for row in found)
    return ", ".join([*parts, f"{least}–{most} windows" if least < most else f"{most} windows"])


def _short(values: Sequence[Any]) -> bool:
    """Whether values fit into a table: no paths, no nested ones."""
    return not any(isinstance(value, dict) or len(_value(value)) > 24 or "/" in _value(value) for value in values)


def _value(value: Any) -> str:
    if not isinstance(value, (list, tuple)):
        return str(value)
    return ("–" if any(isinstance(part, float) for part in value) else "×").join(map(str, value))


def _range(found: Spread) -> str:
    return f"{number(found.min)}–{number(found.max)}"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")


@contextmanager
def show_line() -> Iterator[Callable[[str], None]]:
    """Yield a function that tells on stderr what is being done: one changing line, or now and then a plain one."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("") as status:
            yield lambda text: status.update(Text(text))
        return
    last = -SECONDS

    def tell(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            console.print(Text(text), soft_wrap=True)

    yield tell
