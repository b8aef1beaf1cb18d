"""A process killed at every stage of a checkpoint's write in the background."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from victims import document

from fastseg.model import checkpoint
from fastseg.training.checkpoint_writer import CheckpointWriter

Tally = Callable[[str, int, int], None]


def killed_at(call: int, folder: Path) -> None:
    """Save over two checkpoints of step 1, and die at one of the calls that change what is on the disk."""
    calls = [0]

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return counted

    os.fsync = deadly(os.fsync)
    for name in ("replace", "hardlink_to", "unlink", "open", "mkdir"):
        setattr(Path, name, deadly(getattr(Path, name)))
    with CheckpointWriter(folder, lambda _: None) as writer:
        writer.save(document(step=2, model={"w": torch.ones(4)}), best=True)
    os._exit(0)


def test_killed_at_every_stage_of_a_write(tmp_path: Path, tally: Tally) -> None:
    """The files are whole, each the old or the new one; the best is never newer than the last, which says whether."""
    call, found, code = 0, set(), -signal.SIGKILL
    while code == -signal.SIGKILL:
        call += 1
        files = [tmp_path / str(call) / name for name in ("best.pt", "last.pt")]
        for file in files:
            checkpoint.save(file, document(step=1))
        process = multiprocessing.get_context("fork").Process(target=killed_at, args=(call, files[0].parent))
        process.start()
        process.join(60)
        code = process.exitcode
        found.add(tuple(checkpoint.load(file)["step"] for file in files))
    assert code == 0
    assert call > 8
    assert found == {(1, 1), (1, 2), (2, 2)}
    tally("SIGKILL at each stage of a checkpoint's write", call - 1, call - 1)
