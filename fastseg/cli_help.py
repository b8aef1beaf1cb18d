"""``--help`` on one screen for a command with more settings than a screen has lines."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints

import tyro

WIDTH = 100
"""Maximum characters of a line."""


def shown_as(name: str) -> object:
    """Name a value in tyro's help, in place of a default that its help text explains."""
    return tyro.conf.arg(metavar=name, help_behavior_hint="")


def command_name() -> str | None:
    """Return the installed command's name for tyro's ``prog``, without folders; None for a script, shown as typed."""
    name = Path(sys.argv[0]).name
    return None if name.endswith(".py") else name


class Setting(NamedTuple):
    """One flag of the command line."""

    flag: str
    value: str
    """The default, as typed."""
    text: str
    """First sentence of the field's docstring."""


def settings(tree: Any, prefix: str = "--") -> Iterator[Setting]:
    """Yield the flags that tyro makes of a dataclass and of the dataclasses in its fields."""
    texts = field_docs(type(tree))
    for setting in fields(tree):
        name, value = prefix + setting.name.replace("_", "-"), getattr(tree, setting.name)
        if is_dataclass(value):
            yield from settings(value, f"{name}.")
        else:
            yield Setting(name, typed(value), first_sentence(texts.get(setting.name, "")))


def typed(value: object) -> str:
    """Format a value as typed after its flag."""
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(typed, value)) if isinstance(value, tuple) else str(value)


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstrings that stand below a dataclass's fields, inherited ones too, which Python itself forgets."""
    texts: dict[str, str] = {}
    for each in reversed([each for each in cls.__mro__ if is_dataclass(each)]):
        texts |= _own_field_docs(each)
    return texts


def _own_field_docs(cls: type) -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for entry, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(entry, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(entry.target, ast.Name)
            texts[entry.target.id] = " ".join(str(text.value.value).split())
    return texts


def first_sentence(text: str) -> str:
    """Return a text up to its first full stop, without it."""
    return " ".join(text.split()).partition(". ")[0].rstrip(".")


def help_lines(rows: Sequence[Setting]) -> list[str]:
    """Return a line for each flag: its default and the beginning of its help."""
    names = [f"{row.flag} {row.value}" for row in rows]
    indent = max(map(len, names)) + 4
    return [cut(f"  {name:<{indent - 2}}{row.text}") for name, row in zip(names, rows, strict=True)]


def listed(title: str, rows: Sequence[Setting]) -> list[str]:
    """Return a paragraph of flags with their defaults."""
    # Keep a flag and its value on one line.
    text = "  ".join(f"{row.flag} {row.value}".replace(" ", "\0") for row in rows)
    lines = textwrap.wrap(text, WIDTH - 9, break_long_words=False, break_on_hyphens=False)
    return [f"  {title if i == 0 else '':<6} {line}".replace("\0", " ") for i, line in enumerate(lines)]


def cut(line: str) -> str:
    """Shorten a line to at most :data:`WIDTH` characters, between two words."""
    return line if len(line) <= WIDTH else line[: WIDTH - 1].rsplit(" ", 1)[0] + " …"


Options = TypeVar("Options")
FIRST = "first"
"""Name of the fields above the first group."""


def parse(options: type[Options], args: Sequence[str] | None = None, **starts: str) -> Options:
    """Parse ``args`` (default: the command line) into a dataclass, whose options ``--help`` shows in groups.

    With ``speed="batch"`` the field batch and those below it are "speed options". tyro groups only nested dataclasses,
    so it is given one, whose values are then flattened.
    """
    members = _members(options, {name: title for title, name in starts.items()})
    parts: dict[str, Any] = {title: make_dataclass(title, members[title]) for title in members}
    # Without a name tyro calls its box "options".
    parts[FIRST] = Annotated[parts[FIRST], tyro.conf.arg(name="")]
    nested: type[Any] = make_dataclass(options.__name__, parts.items(), namespace={"__doc__": options.__doc__})
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    parsed = tyro.cli(nested, prog=command_name(), args=args, config=config)
    return options(**{name: value for part in vars(parsed).values() for name, value in vars(part).items()})


def _members(options: type, titles: dict[str, str]) -> dict[str, list[tuple[str, Any, Any]]]:
    """Return each group's fields for :func:`dataclasses.make_dataclass`, with their docstrings as help."""
    hints, texts = get_type_hints(options, include_extras=True), field_docs(options)
    members: dict[str, list[tuple[str, Any, Any]]] = {}
    title = FIRST
    for each in fields(options):
        title = titles.get(each.name, title)
        kind: Any = Annotated[hints[each.name], tyro.conf.arg(help=texts.get(each.name))]
        default: Any = field(default=each.default, default_factory=each.default_factory)
        members.setdefault(title, []).append((each.name, kind, default))
    return members
