"""Settings as arguments of a Python call: every leaf of a tree of them by its own name, errors in the same words."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from inspect import Parameter, Signature, formatannotation, signature
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from fastseg.errors import UserError, shown

Tree = TypeVar("Tree")


class Leaf(NamedTuple):
    """A setting that is no dataclass itself."""

    path: tuple[str, ...]
    """Names of the fields that lead to it."""
    kind: Any
    """Its annotated type."""
    value: Any


def leaves(tree: Any, renamed: Mapping[str, str] | None = None) -> dict[str, Leaf]:
    """Return the settings of a tree of dataclasses by their own names.

    ``renamed``: the argument of a setting, by its dotted path, whose own name another setting has.
    """
    found: dict[str, Leaf] = {}
    for leaf in _walk(tree, ()):
        name = (renamed or {}).get(".".join(leaf.path), leaf.path[-1])
        if name in found:
            raise ValueError(f"{'.'.join(leaf.path)} and {'.'.join(found[name].path)} are both called {name}")
        found[name] = leaf
    return found


def _walk(tree: Any, path: tuple[str, ...]) -> Iterator[Leaf]:
    for each in fields(tree):
        value, below = getattr(tree, each.name), (*path, each.name)
        if is_dataclass(value):
            yield from _walk(value, below)
        else:
            yield Leaf(below, each.type, value)


def signature_with_settings(
    function: Callable[..., Any], tree: Any, renamed: Mapping[str, str] | None = None, default: object = None
) -> Signature:
    """Return a function's signature with the settings of a tree in place of ``**settings``, for help() and editors.

    ``default``: shown in place of every setting's own value.
    """
    own = signature(function)
    named = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    for name, (_, kind, value) in leaves(tree, renamed).items():
        if name not in own.parameters:
            shown_as = value if default is None else default
            named.append(Parameter(name, Parameter.KEYWORD_ONLY, default=shown_as, annotation=_bare(kind)))
    return own.replace(parameters=named)


def with_arguments(tree: Tree, arguments: Mapping[str, Any], renamed: Mapping[str, str] | None = None) -> Tree:
    """Return the tree with these settings, each by its own name.

    Raises :class:`UserError` for a name that is none, a value of another type, and what the tree's own checks refuse.
    """
    known = leaves(tree, renamed)
    changes: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}"
            raise UserError(f"{name} is no setting; {hint}")
        *folders, last = known[name].path
        below = changes
        for folder in folders:
            below = below.setdefault(folder, {})
        below[last] = plain(name, value, known[name].kind)
    return _replaced(tree, changes)


def _replaced(tree: Any, changes: Mapping[str, Any]) -> Any:
    values = {
        name: _replaced(getattr(tree, name), value) if is_dataclass(getattr(tree, name)) else value
        for name, value in changes.items()
    }
    return replace(tree, **values)


def plain(name: str, value: object, kind: Any) -> Any:
    """Return ``value`` as its annotated type, in Python's own types: numbers of NumPy and paths given as text too.

    Raises :class:`UserError`, which calls it ``name``, for a value of another type.
    """
    kind = _bare(kind)
    try:
        return _plain(value, kind)
    except ValueError:
        wanted = ", ".join(get_args(kind)) if get_origin(kind) is Literal else formatannotation(kind)
        raise UserError(f"{name} is {shown(value)}; it must be {wanted}") from None


def _bare(kind: Any) -> Any:
    """Return an annotated type without what the command line is told about it."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _plain(value: Any, kind: Any) -> Any:
    """Return ``value`` as ``kind``; raise ValueError for another type."""
    parts, origin = get_args(kind), get_origin(kind)
    if origin in (Union, UnionType):
        for part in parts:
            try:
                return _plain(value, part)
            except ValueError:
                continue
        raise ValueError
    if origin is tuple and isinstance(value, tuple | list):
        each = parts[:1] * len(value) if parts[1:] == (...,) else parts
        if len(value) == len(each):
            return tuple(map(_plain, value, each))
    elif origin is Literal:
        if isinstance(value, str) and value in parts:
            return value
    elif (kind in (Path, str) and isinstance(value, str | Path)) or (
        kind in (int, float) and isinstance(value, {int: Integral, float: Real}[kind])
    ):
        return kind(value)
    elif isinstance(kind, type) and isinstance(value, kind):
        return value
    raise ValueError


_FLAG = re.compile(
    r"(fastseg-\w+ [^;,]*)?--(?:[a-z]+\.)?([a-z](?:[a-z-]*[a-z])?)"
    r"(?: (\d[\w.]*)(?: (\d[\w.]*))?| ([a-z]+)\b(?= ?[,;)]|$| or | and ))?"
)


def in_arguments(sentence: str, renamed: Mapping[str, str] | None = None) -> str:
    """Write a sentence's flags as arguments of Python: ``--data.batch 4`` becomes ``batch=4``.

    Flags of a command that is named, such as ``fastseg-pack --merge``, stay as they are.
    """

    def rewrite(found: re.Match[str]) -> str:
        command, flag, first, second, word = found.groups()
        if command is not None:
            return found[0]
        dotted = found[0].split()[0].removeprefix("--").replace("-", "_")
        name = (renamed or {}).get(dotted, flag.replace("-", "_"))
        if second is not None:
            return f"{name}=({first}, {second})"
        if first is not None:
            return f"{name}={first}"
        return f'{name}="{word}"' if word else name

    return _FLAG.sub(rewrite, sentence)


@contextmanager
def naming_arguments(renamed: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let a :class:`UserError` name the arguments of a Python call in place of a command's flags."""
    try:
        yield
    except UserError as error:
        details = [in_arguments(detail, renamed) for detail in error.details]
        raise UserError(in_arguments(str(error), renamed), details).with_traceback(error.__traceback__) from None
