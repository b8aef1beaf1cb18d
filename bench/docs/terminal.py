"""Record what a command shows in a terminal, and draw one instant of it as an SVG."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fastseg.errors import UserError

COLUMNS, LINES = 92, 24
"""Size of the terminal."""
CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")
"""A control sequence, a line's end, or a text."""


@dataclass(frozen=True)
class Recording:
    """The output of a command in a terminal."""

    typed: str
    """The command as a user types it."""
    chunks: tuple[tuple[float, bytes], ...]
    """Seconds since its start, and what it wrote then."""

    def screen(self, until: float = 1.0) -> list[str]:
        """Return the lines, with their colors' codes, that stand there after a share of the command's time."""
        end = until * self.chunks[-1][0] if self.chunks else 0.0
        text = b"".join(data for when, data in self.chunks if when <= end).decode(errors="replace")
        return [f"$ {self.typed}", *lines_of(text)]


def lines_of(text: str) -> list[str]:
    """Return the lines that a terminal shows of ``text``: those that a progress bar draws anew are there once.

    Knows what rich writes: line ends, returns, erased lines, the cursor one or more lines up; colors stay in the text.
    """
    lines, row = [""], 0
    for found in CODE.finditer(text):
        whole, argument, letter = found[0], found[1], found[2]
        if whole == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif letter == "A":
            row = max(row - int(argument or 1), 0)
        elif letter == "K":
            lines[row] = ""
        elif whole != "\r" and letter in (None, "m"):
            lines[row] += whole
    return lines[:-1] if not lines[-1] else lines


def record(typed: str, command: Sequence[str | Path], cwd: Path, environment: Mapping[str, str]) -> Recording:
    """Run a command in a terminal of its own to its end. Raises :class:`UserError` if it fails."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    begin, chunks = time.monotonic(), list[tuple[float, bytes]]()
    known = {**environment, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
    process = subprocess.Popen(command, cwd=cwd, env=known, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        while data := _read(ours):
            chunks.append((time.monotonic() - begin, data))
    finally:
        os.close(ours)
    recorded = Recording(typed, tuple(chunks))
    if process.wait():
        said = " ".join(Text.from_ansi(line).plain for line in recorded.screen()[-3:])
        raise UserError(f"{typed} ended with exit code {process.returncode}: {said}; run it by hand")
    return recorded


def _read(terminal: int) -> bytes:
    """Wait for output; return nothing when the last process has closed the terminal."""
    select.select([terminal], [], [])
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux' way to say that it is closed
        return b""


def draw(lines: Sequence[str], title: str, rows: int) -> str:
    """Return an SVG of a terminal that shows ``rows`` lines: the command and the last ones."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, legacy_windows=False)
    shown = [wrapped for line in lines for wrapped in Text.from_ansi(line).wrap(console, COLUMNS)]
    if len(shown) > rows:
        shown = [shown[0], Text("…"), *shown[2 - rows :]]
    for line in [*shown, *[Text("")] * (rows - len(shown))]:
        console.print(line, no_wrap=True, highlight=False)
    return console.export_svg(title=title, unique_id=f"terminal-{title}")
