"""Values of JSON that anybody may have written: each is what it should be, or a :class:`ValueError` names it."""

import re
from typing import Any

from fastseg.errors import shown


def whole(value: Any, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{shown(value)} instead of a whole number from {low} to {high}")
    return value


def number(value: Any, high: float) -> float:
    """A number from 0 to ``high``."""
    if not isinstance(value, (int, float)) or not 0 <= value <= high:  # false for NaN
        raise ValueError(f"{shown(value)} instead of a number from 0 to {high:g}")
    return float(value)


def yes_or_no(value: Any) -> bool:
    """True or false, and nothing that only counts as such."""
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} instead of true or false")
    return value


def a_list(value: Any) -> list[Any]:
    """A list of anything."""
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} instead of a list")
    return value


def flat(value: Any) -> dict[str, Any]:
    """An object of single values: whatever is shown or written again has no depth."""
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} instead of an object")
    for name, item in value.items():
        if not isinstance(item, (str, int, float, type(None))):
            raise ValueError(f"{shown(item)} as {shown(name)}")
    return value


def sha256(value: Any) -> str:
    """Hexadecimal, 64 small letters and digits."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError(f"{shown(value)} instead of a SHA-256")
    return value
