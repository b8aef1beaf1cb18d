"""Memory that is used up, in the first step and later, in an evaluation and in prediction: said, and nothing lost."""

import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from trainings import EPOCHS, finish, start, words

import commands
import layouts
import zygote
from fastseg.commands import predict
from runs import assert_same_run, lines, weights

Tally = Callable[[str, int, int], None]
STEP = 13
ADDRESSES = 8 << 30
"""Bytes of which a process with torch and DALI takes half before it trains."""
pytestmark = pytest.mark.slow


def used_up() -> None:
    """Fail as the allocator does where there is nothing left."""
    torch.empty(1 << 46)


def few_addresses() -> None:
    """This process may take a gigabyte more."""
    lines = Path("/proc/self/status").read_text().splitlines()
    size = 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmSize:")))
    resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30),) * 2)


def later() -> None:
    """Another process takes the memory before step STEP."""
    from fastseg.training.step import TrainStep

    forward, steps = TrainStep._forward, [0]

    def fails(self: TrainStep, *batch: torch.Tensor) -> torch.Tensor:
        steps[0] += 1
        if steps[0] == STEP:
            used_up()
        return forward(self, *batch)

    TrainStep._forward = fails  # type: ignore[method-assign]


def evaluating() -> None:
    """Another process takes the memory in the first evaluation."""
    from fastseg.data.loader import Batch, EvalLoader

    def fails(_self: EvalLoader) -> Iterator[Batch]:
        used_up()
        yield from ()

    EvalLoader.__iter__ = fails  # type: ignore[method-assign]


def sentence(command: zygote.Command) -> str:
    """What a command that ran out of memory says, in one sentence."""
    assert command.finish() == 2, command.output
    assert "Traceback" not in command.output
    said = [line for line in command.output.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, command.output
    return said[0]


def test_the_first_step(shards: Path, tmp_path: Path, tally: Tally) -> None:
    """The flags that it names do fit: in a process of its own, for one forked has little of its addresses left."""
    limited = ("bash", "-c", f'ulimit -v {ADDRESSES >> 10}; exec "$@"', "bash", "python")
    run = (*words(shards, tmp_path / "run"), "--device", "cpu", "--optim.epochs", 1, "--data.crop", 640, 640)
    result = commands.typed(*limited, *run, "--data.batch", 10)
    commands.refused(result)
    assert result.returncode == 2
    found = re.search(r"too little to train with --data.batch 10 and --data.crop 640 640; (--.*) fits", result.stderr)
    assert found, result.stderr
    flags = found[1].split()
    assert flags[::2] in (["--data.batch", "--optim.accumulate"], ["--data.batch", "--data.crop"]), flags
    result = commands.typed(*limited, *run, *flags)
    assert result.returncode == 0, result.stderr
    tally("out of memory in the first step", 1, 1)


def test_a_later_step(shards: Path, unbroken: Path, tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "later"
    said = sentence(start(shards, folder, before=later))
    assert said.endswith("; the run resumes from its last checkpoint"), said
    assert weights(folder / "checkpoints" / "last.pt")["step"] == STEP - 1
    finish(start(shards, folder))
    assert_same_run(unbroken, folder)
    tally("out of memory in a later step", 1, 1)


def test_an_evaluation(shards: Path, unbroken: Path, tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "evaluating"
    assert "too little to evaluate with --data.eval-batch 4; " in sentence(start(shards, folder, before=evaluating))
    saved = weights(folder / "checkpoints" / "last.pt")
    assert (saved["step"], saved["eval_pending"]) == (5 * EPOCHS / 2, True)
    finish(start(shards, folder))
    assert len(lines(folder, "eval")) == 2
    assert_same_run(unbroken, folder)
    tally("out of memory in an evaluation", 1, 1)


def test_an_evaluation_of_two_ranks(shards: Path, tmp_path: Path, tally: Tally) -> None:
    """No steps are done anew until the evaluation succeeds."""
    folder = tmp_path / "evaluating"
    command = commands.start("python", *words(shards, folder), "--gpus", 2, output=tmp_path / "output")
    finish(command)
    step = 2 * EPOCHS // 2
    from trainings import ranks

    other = tmp_path / "failing"
    for rank in ranks(shards, other, before=evaluating):
        assert rank.finish() == 2, rank.output
    saved = weights(other / "checkpoints" / "last.pt")
    assert (saved["step"], saved["eval_pending"]) == (step, True)
    for rank in ranks(shards, other):
        finish(rank)
    assert_same_run(folder, other)
    tally("out of memory in an evaluation of two ranks", 1, 1)


def test_a_large_picture(unbroken: Path, tmp_path: Path, tally: Tally) -> None:
    """The tile that is named does fit."""
    layouts.noise(1, (3072, 3072)).save(tmp_path / "large.png")
    given = ("fastseg-predict", unbroken, tmp_path / "large.png", "--device", "cpu", "--threads", 1)
    given = (*given, "--out", tmp_path / "out", "--masks")
    said = sentence(zygote.start(predict.main, *given, output=tmp_path / "said", before=few_addresses))
    found = re.search(r"too little to predict a picture of 3072×3072 pixels; --tile (\d+) fits", said)
    assert found, said
    assert not list((tmp_path / "out").rglob("*.*"))
    command = zygote.start(predict.main, *given, "--tile", found[1], output=tmp_path / "done", before=few_addresses)
    finish(command)
    assert (tmp_path / "out/masks/large.png").stat().st_size
    tally("out of memory at a large picture", 1, 1)
