"""Run a module as ``python -m`` does, but import nothing from the current folder: ``python run_module.py MODULE …``.

``python -m`` and ``python -c`` put the current folder first on the path, so that a ``torch.py`` lying there would run,
and Python 3.10 has no ``PYTHONSAFEPATH``. A script that is started by its path has its own folder there instead.
"""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # before anything is imported: the modules of this folder are not for the top level

import os
import runpy
from collections.abc import Iterator
from contextlib import contextmanager


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs ``module`` with this Python."""
    return [sys.executable, __file__, module, *arguments]


@contextmanager
def safe_children() -> Iterator[None]:
    """Let Pythons that others start in the meantime import nothing from the current folder; 3.10 knows no such way."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]


def child_environment() -> dict[str, str]:
    """Return the environment of a Python process that is to find packages where this one does, installed or not."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


if __name__ == "__main__":
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
