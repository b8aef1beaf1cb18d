"""Turn the package's docstrings into Markdown: roles become code, doctests code blocks. Every public name has one."""

import re
from collections.abc import Iterator
from typing import Any

from griffe import Alias, Extension, Module, Object

import fastseg

ROLE = re.compile(r":(?:mod|class|func|meth|data|attr):`~?([^`]+)`")
DOCTEST = re.compile(r"^(>>> .*(?:\n(?!\n).*)*)", re.MULTILINE)
"""From a prompt to the next empty line."""


class Docstrings(Extension):
    """Checks that all public names have docstrings, and rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = DOCTEST.sub(r"```pycon\n\1\n```", text)

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Raise if one of the package's public names, or a public member of such a class, has no docstring."""
        if pkg.path == "fastseg" and (bare := sorted(undocumented(pkg))):
            raise ValueError(f"these public names of fastseg have no docstring: {', '.join(bare)}")


def undocumented(package: Module) -> Iterator[str]:
    """Yield the public names without a docstring, members as ``Run.folder``."""
    for name in fastseg.__all__:
        found = package.members[name]
        home = found.target_path.removeprefix("fastseg.") if isinstance(found, Alias) else name
        public = package[home]
        members = public.members.items() if public.is_class else ()
        own = {f"{name}.{key}": value for key, value in members if not (key.startswith("_") or value.is_alias)}
        yield from (key for key, value in {name: public, **own}.items() if not value.has_docstring)
