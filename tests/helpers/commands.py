"""Running our commands as a user types them, for tests."""

import os
import subprocess
import sys
from pathlib import Path

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
    *command: object, cwd: Path = ROOT, timeout: float = 300, columns: int = 100
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    words = [str(word) for word in command]
    return subprocess.run(
        words, cwd=cwd, env=environment(columns), capture_output=True, text=True, timeout=timeout, check=False
    )


def start(*command: object, cwd: Path = ROOT) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    words = [str(word) for word in command]
    return subprocess.Popen(
        words,
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def refused(result: subprocess.CompletedProcess[str], *says: str) -> None:
    """The command ended with one sentence and no traceback of ours."""
    assert result.returncode != 0
    sentences = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, result.stderr
    for words in says:
        assert words in sentences[0]
    assert 'fastseg/"' not in result.stderr
    assert "UserError" not in result.stderr
