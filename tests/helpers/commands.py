"""Running our commands for tests: as a user types them, and forked from a process that has the imports behind it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import interpreter
import zygote

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

TINY = (
    *("--recipe", "demo", "--model.arch", "deeplabv3_mobilenet_v3_large", "--data.crop", "64", "64"),
    *("--data.batch", "2", "--data.threads", "1", "--log-every", "1", "--eval-every", "100", "--save-every", "100"),
)
"""Flags of ``train.py`` for a run of seconds on the sets of conftest.py."""


def environment(columns: int = 100) -> dict[str, str]:
    """This process's, with the environment's commands first on the path, one thread each, and a terminal's width."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD_", "LOCAL_", "MASTER_"))}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{kept['PATH']}", "COLUMNS": str(columns), "OMP_NUM_THREADS": "1"}


def run(
    *command: object, cwd: Path = ROOT, timeout: float = 300, columns: int = 100, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of ours, or any of Python's, to its end, without the seconds of its imports.

    It is a process of its own all the same (zygote.py), and so are those that it starts. ``variables`` are added to
    its environment. What the dynamic linker or an import reads there has been read already: such a command is one
    for :func:`typed`.
    """
    words = [str(word) for word in command]
    assert interpreter.understands(words), words
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "stdout", Path(folder) / "stderr"
        variables = environment(columns) | variables
        started = zygote.Command(interpreter.interpret, tuple(words), output, None, variables, errors, cwd)
        code = started.finish(timeout)
        return subprocess.CompletedProcess(words, code, output.read_text(), errors.read_text())


def typed(
    *command: object, cwd: Path = ROOT, timeout: float = 300, columns: int = 100, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as a user types it: a new process that begins with nothing imported."""
    words = [str(word) for word in command]
    variables = environment(columns) | variables
    return subprocess.run(words, cwd=cwd, env=variables, capture_output=True, text=True, timeout=timeout, check=False)


def start(*command: object, output: Path, cwd: Path = ROOT, **variables: str) -> zygote.Command:
    """Start a command as :func:`run` does; what it says goes to the file ``output``."""
    words = tuple(str(word) for word in command)
    return zygote.Command(interpreter.interpret, words, output, None, environment() | variables, cwd=cwd)


def refused(result: subprocess.CompletedProcess[str], *says: str) -> None:
    """The command ended with one sentence and no traceback of ours."""
    assert result.returncode != 0
    sentences = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, result.stderr
    for words in says:
        assert words in sentences[0]
    assert 'fastseg/"' not in result.stderr
    assert "UserError" not in result.stderr
