"""List of all commands: ``python -m fastseg``."""

import ast
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

DISTRIBUTION = "fastseg-deeplab"


def commands() -> dict[str, str]:
    """Return what each installed command does, the first line of its module's docstring, by its name."""
    found = {}
    for entry in sorted(distribution(DISTRIBUTION).entry_points.select(group="console_scripts"), key=lambda e: e.name):
        spec = find_spec(entry.module)
        if spec and spec.origin:
            text = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
            found[entry.name] = text.partition("\n")[0].partition(": ``")[0].rstrip(".")
    return found


if __name__ == "__main__":
    for name, text in commands().items():
        print(f"{name:18}{text}")
    print("Each explains itself with --help.")
