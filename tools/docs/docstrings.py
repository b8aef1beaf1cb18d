"""Turn the package's docstrings into Markdown: roles become code, doctests code blocks."""

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:mod|class|func|meth|data|attr):`~?([^`]+)`")
DOCTEST = re.compile(r"^(>>> .*(?:\n(?!\n).*)*)", re.MULTILINE)
"""From a prompt to the next empty line."""


class Docstrings(Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = DOCTEST.sub(r"```pycon\n\1\n```", text)
