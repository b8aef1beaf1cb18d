"""What a check finds, and what it is asked about."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "broken"]
STATES: tuple[State, ...] = ("ok", "warning", "broken")
"""From good to bad."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    check: str
    state: State
    found: str
    """What is here."""
    cure: str = ""
    """What to do about it, one sentence without a full stop; empty where nothing is to be done."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    shards: str | None = None
    """Folder or ``s3://`` prefix of a packed set."""
    runs: str = "runs"
    """Folder that training writes into."""


def ok(check: str, found: str) -> list[Row]:
    """A single row of a check that finds nothing to mend."""
    return [Row(check, "ok", found)]


def warning(check: str, found: str, cure: str) -> list[Row]:
    """A single row of what costs speed or may fail later."""
    return [Row(check, "warning", found, cure)]


def broken(check: str, found: str, cure: str) -> list[Row]:
    """A single row of what will not work."""
    return [Row(check, "broken", found, cure)]


def gib(size: float) -> str:
    """Bytes as GiB, or MiB below one."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
