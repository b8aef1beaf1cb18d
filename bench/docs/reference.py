"""The reference of ``import fastseg`` for docs/python.md, from docstrings and signatures."""

import inspect
import re
from pathlib import Path
from typing import Any

import fastseg
from bench.docs.tables import table
from fastseg.arguments import leaves
from fastseg.cli_help import first_sentence
from fastseg.config import Config
from fastseg.interface.packing import Settings
from fastseg.interface.training import RENAMED


def reference() -> str:
    """Return a table of all public names: arguments that have no default, and the first sentence of the docstring."""
    return table(["", ""], [_row(name) for name in sorted(fastseg.__all__, key=str.lower)], left=range(2))


def _row(name: str) -> tuple[str, str]:
    value = getattr(fastseg, name)
    if isinstance(value, str):
        return f"`{name}`", "The installed version"
    if name == "recipes":
        return f"`{name}`", f"Recipes by name, functions that return a Config: {', '.join(value)}"
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", first_sentence(inspect.getdoc(value) or "").replace("``", "`"))
    return f"`{name}{'' if inspect.isclass(value) else _arguments(value)}`", text


def _arguments(function: Any) -> str:
    """Return the arguments that come by position, and an ellipsis for those that come by name."""
    parameters = inspect.signature(function).parameters.values()
    first = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in first]
    return f"({', '.join([*shown, *(['…'] if len(first) < len(parameters) else [])])})"


def training_settings() -> str:
    """Return the settings of training with their defaults, by the parts of Config."""
    return _settings(Config(), RENAMED, ("shards", "name"))


def packing_settings() -> str:
    """Return the settings of packing with their defaults."""
    return _settings(Settings(), {}, ())


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(str(value) if isinstance(value, Path) else value)


def _settings(tree: Any, renamed: dict[str, str], without: tuple[str, ...]) -> str:
    parts: dict[str, list[str]] = {}
    for name, leaf in leaves(tree, renamed).items():
        if name not in without:
            part = leaf.path[-2] if len(leaf.path) > 1 else "run"
            parts.setdefault(part, []).append(f"`{name}={_shown(leaf.value)}`")
    return "\n".join(f"- {part}: {', '.join(settings)}" for part, settings in parts.items())
