"""``--help`` in groups by purpose, for options that stay one flat dataclass."""

from collections.abc import Callable
from dataclasses import field, fields, make_dataclass
from inspect import Parameter, Signature
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from fastseg.helptext import field_docs

Options = TypeVar("Options")
FIRST = "first"
"""The fields above all groups."""


def grouped(**starts: str) -> Callable[[type[Options]], type[Options]]:
    """Show a dataclass's options in groups: with ``speed="batch"`` the field batch and those below are "speed options".

    tyro makes groups of nested dataclasses alone. It is given such ones, and a constructor that lays what it has
    parsed flat again.
    """
    titles = {name: title for title, name in starts.items()}

    def mark(options: type[Options]) -> type[Options]:
        def build(**parts: object) -> Options:
            return options(**{name: value for part in parts.values() for name, value in vars(part).items()})

        members = _members(options, titles)
        groups: dict[str, Any] = {title: make_dataclass(title, members[title]) for title in members}
        # Without a name it is the box that tyro calls "options".
        groups[FIRST] = Annotated[groups[FIRST], tyro.conf.arg(name="")]
        build.__doc__, build.__annotations__ = options.__doc__, groups
        build.__signature__ = Signature(  # type: ignore[attr-defined]
            [Parameter(title, Parameter.KEYWORD_ONLY, annotation=part) for title, part in groups.items()]
        )
        return tyro.conf.configure(tyro.conf.arg(constructor=build), tyro.conf.OmitArgPrefixes)(options)

    return mark


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
