"""Frames of a terminal: what rich writes, drawn anew or not, as it would stand there."""

import io
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live
from rich.text import Text

from bench.docs.terminal import Recording, draw, lines_of, record
from fastseg.errors import UserError


def test_a_bar_that_is_drawn_anew_is_there_once() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=40, color_system="truecolor")
    with Live(Text("step 1"), console=console, auto_refresh=False) as live:
        console.print("[bold]epoch 1[/bold]: mIoU 3 %")
        live.update(Text("step 2"), refresh=True)
        console.print("epoch 2: mIoU 5 %")
        live.update(Text("step 3"), refresh=True)
    lines = lines_of(console.file.getvalue())  # type: ignore[attr-defined]
    assert [Text.from_ansi(line).plain for line in lines] == ["epoch 1: mIoU 3 %", "epoch 2: mIoU 5 %", "step 3"]
    assert "\x1b[1m" in lines[0]


def test_a_frame_has_the_command_and_the_last_lines() -> None:
    svg = draw(["$ pack", *(f"line {i}" for i in range(9))], "pack", 5).replace("&#160;", " ")
    assert [f"line {i}" in svg for i in range(9)] == [False] * 6 + [True] * 3
    assert "$ pack" in svg


def test_an_instant_of_a_recording() -> None:
    recording = Recording("x", ((1.0, b"one\r\n"), (3.0, b"two\r\n"), (4.0, b"three\r\n")))
    assert recording.screen(0.75) == ["$ x", "one", "two"]
    assert recording.screen() == ["$ x", "one", "two", "three"]


def test_a_command_sees_a_terminal(tmp_path: Path) -> None:
    code = "import sys; print(sys.stdout.isatty(), file=sys.stderr)"
    found = record("python", [sys.executable, "-c", code], tmp_path, os.environ)
    assert found.screen() == ["$ python", "True"]
    with pytest.raises(UserError, match=r"false ended with exit code 3: .*sorry"):
        record("false", [sys.executable, "-c", "print('sorry'); raise SystemExit(3)"], tmp_path, os.environ)
