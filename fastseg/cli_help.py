"""``--help`` on one screen for a command with more settings than a screen has lines."""

import ast
import inspect
import json
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import field, fields, is_dataclass, make_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints

import tyro

from fastseg.progress import be_quiet

WIDTH = 100
"""Maximum characters of a line."""


def shown_as(name: str) -> object:
    """Name a value in tyro's help, in place of a default that its help text explains."""
    return tyro.conf.arg(metavar=name, help_behavior_hint="")


def command_name() -> str:
    """Return how the command was typed, for usage lines: ``fastseg-eval``, ``torchrun fastseg/train.py``."""
    program = Path(sys.argv[0])
    if program.suffix != ".py":
        return program.name
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module and module.origin == str(program):
        return f"python -m {module.name}"
    return f"{'torchrun' if 'TORCHELASTIC_RUN_ID' in os.environ else 'python'} {program}"


@contextmanager
def json_on_stdout(wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Yield a function that prints a document as JSON, and send all else that is printed inside to stderr.

    Without ``wanted`` the function does nothing, and nothing is sent elsewhere.
    """
    stdout = sys.stdout
    with redirect_stdout(sys.stderr) if wanted else nullcontext():
        yield lambda document: print(json.dumps(document, indent=1), file=stdout) if wanted else None


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


def to_type(row: Setting) -> str:
    """Return a flag with its default; a switch alone, with the word that turns it the other way: ``--no-sweep``."""
    if row.value not in ("True", "False"):
        return f"{row.flag} {row.value}".rstrip()
    part, dot, name = row.flag.removeprefix("--").rpartition(".")
    return f"--{part}{dot}no-{name}" if row.value == "True" else row.flag


def spell_out(arguments: Sequence[str], tree: Any) -> list[str]:
    """Return a command line with the full names of the flags of nested dataclasses, and a value for every third state.

    ``--batch 4`` is ``--data.batch 4``, if nothing else is called batch. A switch that may also be None, chosen by the
    program, becomes ``--model.compile True``, or ``False`` for ``--model.no-compile``.
    """
    full, three = _flags(tree)
    spelled: list[str] = []
    for argument, following in zip_longest(arguments, arguments[1:]):
        flag, equals, value = argument.partition("=")
        flag = full.get(flag.replace("_", "-"), flag)
        if not equals and flag in three and following not in ("True", "False", "None"):
            flag, _, value = three[flag].partition(" ")
            spelled += [flag, value]
        else:
            spelled.append(f"{flag}{equals}{value}")
    return spelled


def _flags(tree: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the full flags by their last word, and what switches of three states stand for, by what is typed."""
    rows = [(row.flag, kind) for row, kind in zip(settings(tree), _kinds(tree), strict=True)]
    words = Counter(flag.rpartition(".")[2].removeprefix("--") for flag, _ in rows)
    full: dict[str, str] = {}
    three: dict[str, str] = {}
    for flag, kind in rows:
        part, dot, name = flag.removeprefix("--").rpartition(".")
        unique = dot and words[name] == 1
        if unique:
            full |= {f"--{name}": flag, f"--no-{name}": f"--{part}.no-{name}"}
        if kind == bool | None:
            three |= {flag: f"{flag} True", f"--{part}{dot}no-{name}": f"{flag} False"}
    return full, three


def _kinds(tree: Any) -> Iterator[Any]:
    """Yield the types of what :func:`settings` yields."""
    for setting in fields(tree):
        value = getattr(tree, setting.name)
        if is_dataclass(value):
            yield from _kinds(value)
        else:
            yield setting.type


def help_lines(rows: Sequence[Setting]) -> list[str]:
    """Return a line for each flag: its default and the beginning of its help."""
    names = [to_type(row) for row in rows]
    indent = max(map(len, names)) + 4
    return [cut(f"  {name:<{indent - 2}}{row.text}") for name, row in zip(names, rows, strict=True)]


def listed(title: str, rows: Sequence[Setting]) -> list[str]:
    """Return a paragraph of flags with their defaults."""
    # Keep a flag and its value on one line.
    text = "  ".join(to_type(row).replace(" ", "\0") for row in rows)
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
    values = {name: value for part in vars(parsed).values() for name, value in vars(part).items()}
    be_quiet(bool(values.get("quiet")))
    return options(**values)


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
