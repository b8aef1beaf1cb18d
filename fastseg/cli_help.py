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
"""Characters of a line at most."""


def shown_as(name: str) -> object:
    """How tyro's help names a value whose default its text explains."""
    return tyro.conf.arg(metavar=name, help_behavior_hint="")


def command_name() -> str | None:
    """What ``usage:`` calls an installed command, tyro's ``prog``: no folders; None for a script, named as typed."""
    name = Path(sys.argv[0]).name
    return None if name.endswith(".py") else name


class Setting(NamedTuple):
    """One flag of the command line."""

    flag: str
    value: str
    """Its default, as it is typed."""
    text: str
    """What its field's docstring says first, up to its first full stop."""


def settings(tree: Any, prefix: str = "--") -> Iterator[Setting]:
    """The flags that tyro makes of a dataclass, by fields, its parts' included."""
    texts = field_docs(type(tree))
    for setting in fields(tree):
        name, value = prefix + setting.name.replace("_", "-"), getattr(tree, setting.name)
        if is_dataclass(value):
            yield from settings(value, f"{name}.")
        else:
            yield Setting(name, typed(value), first_sentence(texts.get(setting.name, "")))


def typed(value: object) -> str:
    """A value as one would type it after its flag."""
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
    """A text up to its first full stop, without it."""
    return " ".join(text.split()).partition(". ")[0].rstrip(".")


def explained(rows: Sequence[Setting]) -> list[str]:
    """A line for each flag: its default, and the first words about it."""
    names = [f"{row.flag} {row.value}" for row in rows]
    indent = max(map(len, names)) + 4
    return [cut(f"  {name:<{indent - 2}}{row.text}") for name, row in zip(names, rows, strict=True)]


def listed(title: str, rows: Sequence[Setting]) -> list[str]:
    """A paragraph of flags with their defaults."""
    # No flag is to be torn from its value at the end of a line.
    text = "  ".join(f"{row.flag} {row.value}".replace(" ", "\0") for row in rows)
    lines = textwrap.wrap(text, WIDTH - 9, break_long_words=False, break_on_hyphens=False)
    return [f"  {title if i == 0 else '':<6} {line}".replace("\0", " ") for i, line in enumerate(lines)]


def cut(line: str) -> str:
    """A line that is at most :data:`WIDTH` long, ended between two words."""
    return line if len(line) <= WIDTH else line[: WIDTH - 1].rsplit(" ", 1)[0] + " …"


Options = TypeVar("Options")
FIRST = "first"
"""The fields above all groups."""


def parse(options: type[Options], args: Sequence[str] | None = None, **starts: str) -> Options:
    """Parse ``args`` (default: the command line) into a dataclass, whose options ``--help`` shows in groups.

    With ``speed="batch"`` the field batch and those below it are "speed options". tyro makes groups of nested
    dataclasses alone: it is given one, whose values are laid flat.
    """
    members = _members(options, {name: title for title, name in starts.items()})
    parts: dict[str, Any] = {title: make_dataclass(title, members[title]) for title in members}
    # Without a name it is the box that tyro calls "options".
    parts[FIRST] = Annotated[parts[FIRST], tyro.conf.arg(name="")]
    nested: type[Any] = make_dataclass(options.__name__, parts.items(), namespace={"__doc__": options.__doc__})
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    parsed = tyro.cli(nested, prog=command_name(), args=args, config=config)
    return options(**{name: value for part in vars(parsed).values() for name, value in vars(part).items()})


def _members(options: type, titles: dict[str, str]) -> dict[str, list[tuple[str, Any, Any]]]:
    """The fields of each group as :func:`dataclasses.make_dataclass` takes them, with their docstrings as help."""
    hints, texts = get_type_hints(options, include_extras=True), field_docs(options)
    members: dict[str, list[tuple[str, Any, Any]]] = {}
    title = FIRST
    for each in fields(options):
        title = titles.get(each.name, title)
        kind: Any = Annotated[hints[each.name], tyro.conf.arg(help=texts.get(each.name))]
        default: Any = field(default=each.default, default_factory=each.default_factory)
        members.setdefault(title, []).append((each.name, kind, default))
    return members
