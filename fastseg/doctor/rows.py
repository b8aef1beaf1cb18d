"""Define a check's request and its result."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "broken"]
STATES: tuple[State, ...] = ("ok", "warning", "broken")
"""Sorted from good to bad."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    check: str
    state: State
    found: str
    """The finding."""
    cure: str = ""
    """The fix, one sentence without a full stop; empty if there is nothing to do."""


@dataclass(frozen=True)
class Request:
    """The options of the command line."""

    shards: str | None = None
    """Folder or ``s3://`` prefix of a packed set."""
    runs: str = "runs"
    """Folder that training writes to."""


def ok(check: str, found: str) -> list[Row]:
    """Return a single row for a check that finds nothing to fix."""
    return [Row(check, "ok", found)]


def warning(check: str, found: str, cure: str) -> list[Row]:
    """Return a single row for what costs speed or may fail later."""
    return [Row(check, "warning", found, cure)]


def broken(check: str, found: str, cure: str) -> list[Row]:
    """Return a single row for what will not work."""
    return [Row(check, "broken", found, cure)]


def gib(size: float) -> str:
    """Format bytes as GiB, or as MiB below one GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
