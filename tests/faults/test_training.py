"""Runs that are killed, stopped or starved of disk, and fp16 that overflows: nothing is lost, and it is said."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
import torch
from soak import THOROUGH
from trainings import EPOCHS, EVERY_STEP, count, finish, grown, start, stop, wait, words

import commands
from runs import assert_same_run, lines, weights

Tally = Callable[[str, int, int], None]
KILLS = 22 if THOROUGH else 8
"""Over one run; every third one during a save. A soak does so to ten runs."""


def slow_saves() -> None:
    """A checkpoint takes long to write, to flush and to rename; a file in the working directory says that it is."""
    save, fsync, replace = torch.save, os.fsync, Path.replace

    def slow_save(document: object, file: BytesIO) -> None:
        Path(os.environ["SAVING"]).touch()
        whole = BytesIO()
        save(document, whole)
        data = whole.getvalue()
        for part in range(20):
            file.write(data[part * len(data) // 20 : (part + 1) * len(data) // 20])
            file.flush()
            time.sleep(0.01)

    def slow_fsync(descriptor: int) -> None:
        time.sleep(0.05)
        fsync(descriptor)

    def slow_replace(self: Path, target: Path) -> Path:
        time.sleep(0.03)
        return replace(self, target)

    torch.save, os.fsync, Path.replace = slow_save, slow_fsync, slow_replace  # type: ignore[assignment,method-assign]


def test_killed_at_any_instant(shards: Path, unbroken: Path, tmp_path: Path, tally: Tally, again: int) -> None:
    """Over one run; the last process ends where one that nobody killed does."""
    folder, saving, draw = tmp_path / "killed", tmp_path / "saving", random.Random(5 + again)
    metrics, in_save = folder / "metrics.jsonl", 0
    times = [line["seconds"] for line in lines(unbroken, "train")]
    step = (times[-1] - times[0]) / len(times)
    for kill in range(KILLS):
        slow = kill % 3 == 0
        saving.unlink(missing_ok=True)
        command = start(shards, folder, *EVERY_STEP, before=slow_saves if slow else None, SAVING=str(saving))
        if slow:
            came = wait(command, saving.exists)
            time.sleep(draw.random() * 0.5)
        else:
            # Whatever was drawn: every kill that is left has steps before it.
            left = 5 * EPOCHS * (kill + 1) // KILLS - count(metrics)
            came = grown(metrics, min(draw.randrange(3), max(left, 0)), command)
            time.sleep(draw.random() * step)
        assert came, command.output
        command.process.kill()
        assert command.finish() == -signal.SIGKILL, command.output
        assert "Traceback" not in command.output
        in_save += bool(list((folder / "checkpoints").glob(".*.tmp")))  # the next process removes it
    assert in_save or not THOROUGH, "no kill came in the middle of a file"
    assert "last.pt after step" in finish(start(shards, folder))
    assert not list(folder.rglob(".*.tmp"))
    assert_same_run(unbroken, folder)
    assert [line["step"] for line in lines(folder, "train")] == list(range(1, 5 * EPOCHS + 1))
    tally("SIGKILL at a random instant of training", KILLS - in_save, KILLS - in_save)
    tally("SIGKILL while a checkpoint is written", in_save, in_save)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_stop(
    shards: Path, unbroken: Path, tmp_path: Path, tally: Tally, again: int, number: signal.Signals
) -> None:
    folder = tmp_path / "stopped"
    command = start(shards, folder)
    stop(command, folder / "metrics.jsonl", after=3 + 2 * again, number=number)
    assert command.finish(20) == 128 + number, command.output
    step = weights(folder / "checkpoints" / "last.pt")["step"]
    assert f"stopped at step {step} of {5 * EPOCHS}; the same command resumes from there" in command.output
    assert f"last.pt after step {step}\n" in finish(start(shards, folder))
    assert_same_run(unbroken, folder)
    tally(f"{number.name} during training", 1, 1)


def without_terminal() -> None:
    """As nohup starts it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_the_end_of_a_session_under_nohup(shards: Path, unbroken: Path, tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "kept"
    command = start(shards, folder, before=without_terminal)
    stop(command, folder / "metrics.jsonl", after=3, number=signal.SIGHUP)
    finish(command)
    assert_same_run(unbroken, folder)
    tally("SIGHUP during training under nohup", 1, 1)


def full_log() -> None:
    """Nothing can be written to stdout and stderr, as on a full disk."""
    _replace_streams(os.open("/dev/full", os.O_WRONLY))


def lost_log() -> None:
    """Whoever read the log is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    _replace_streams(writer)


def lost_terminal() -> None:
    """The terminal is gone, as after SIGHUP."""
    leader, terminal = os.openpty()
    os.close(leader)
    _replace_streams(terminal)


def no_log() -> None:
    """There is no stdout and no stderr, whose numbers the next files get."""
    for number in (1, 2):
        os.close(number)
    sys.stdout = sys.stderr = None  # type: ignore[assignment]  # as Python sets them then


def _replace_streams(descriptor: int) -> None:
    for number in (1, 2):
        os.dup2(descriptor, number)


@pytest.mark.parametrize("log", [full_log, lost_log, lost_terminal, no_log])
def test_a_log_that_cannot_be_written(
    shards: Path, unbroken: Path, tmp_path: Path, tally: Tally, log: Callable[[], None]
) -> None:
    """The run goes on to its end without one."""
    folder = tmp_path / "silent"
    command = start(shards, folder, before=log)
    assert command.finish() == 0
    assert command.output == ""
    assert_same_run(unbroken, folder)
    tally("a log that cannot be written", 1, 1)


def slow_evaluation() -> None:
    """An evaluation takes long, and says when it has begun."""
    from fastseg.data.loader import Batch, EvalLoader

    batches = EvalLoader.__iter__

    def slowly(self: EvalLoader) -> Iterator[Batch]:
        for batch in batches(self):
            Path(os.environ["EVALUATING"]).touch()
            time.sleep(0.5)
            yield batch

    EvalLoader.__iter__ = slowly  # type: ignore[method-assign]


@pytest.mark.slow
def test_asked_to_stop_in_an_evaluation(shards: Path, unbroken: Path, tmp_path: Path, tally: Tally, again: int) -> None:
    """The evaluation is given up, owed, and done first by the process that goes on."""
    folder, evaluating = tmp_path / "stopped", tmp_path / "evaluating"
    command = start(shards, folder, before=slow_evaluation, EVALUATING=str(evaluating))
    assert wait(command, evaluating.exists), command.output
    time.sleep(0.04 * again)
    command.send_signal(signal.SIGTERM)
    assert command.finish(20) == 143, command.output
    saved = weights(folder / "checkpoints" / "last.pt")
    assert (saved["step"], saved["eval_pending"]) == (5 * EPOCHS / 2, True)
    assert lines(folder, "eval") == []
    finish(start(shards, folder))
    assert_same_run(unbroken, folder)
    tally("SIGTERM during an evaluation", 1, 1)


SCRIPT = """
mount -t tmpfs -o size={size} none {disk} && {first} || exit 99
sha256sum {disk}/run/checkpoints/last.pt
{second}; echo rc $?
sha256sum {disk}/run/checkpoints/last.pt; ls -A {disk}/run/checkpoints
cp {disk}/run/*.* {kept}/
"""


@pytest.mark.slow
@pytest.mark.parametrize("full", ["checkpoint", "logs"])
def test_a_full_disk(full: str, shards: Path, unbroken: Path, tmp_path: Path, tally: Tally, again: int) -> None:
    """A run copied to a small disk goes on there until the disk is full: of its next checkpoint, or but for one."""
    inside = ["unshare", "--mount", "--map-root-user", "bash", "-c"]
    if subprocess.run([*inside, f"mount -t tmpfs none {tmp_path}"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    disk, kept, last = tmp_path / "disk", tmp_path / "kept", unbroken / "checkpoints" / "last.pt"
    for folder in (disk, kept):
        folder.mkdir()
    records = [unbroken / name for name in ("config.json", "metrics.jsonl", "report.html")]
    run = f"mkdir -p {disk}/run/checkpoints && cp {last} {disk}/run/checkpoints"
    run += f" && cp {' '.join(map(str, records))} {disk}/run"
    # The logs need some pages: with all of them gone it is they that find the disk full.
    size = sum((path.stat().st_size + 4095) // 4096 * 4096 for path in (last, *records))
    size += int(last.stat().st_size * (0.5 + 0.04 * again)) if full == "checkpoint" else 4096 * (16 + again)
    command = " ".join(
        map(str, ("python", *words(shards, disk / "run", "--optim.epochs", EPOCHS + 4, "--resume", "changed")))
    )
    script = SCRIPT.format(size=size, disk=disk, first=run, second=command, kept=kept)
    result = subprocess.run(
        [*inside, script], cwd=commands.ROOT, env=commands.environment(), capture_output=True, text=True, check=False
    )
    assert "rc 2\n" in result.stdout, result.stdout + result.stderr
    before, after = (line.split()[0] for line in result.stdout.splitlines() if line.endswith("/last.pt"))
    assert before == after
    assert result.stdout.splitlines()[-1] == "last.pt"
    sentences = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, result.stderr
    place = (
        r"checkpoints/(best|last)\.pt" if full == "checkpoint" else r"(metrics\.jsonl|tensorboard|overlays|\w+\.json)"
    )
    assert re.match(f"error: the disk is full at {disk}/run/{place}; free some space", sentences[0]), sentences
    assert "Traceback" not in result.stderr
    # What was there is whole: the settings may be those of the run that went on.
    assert json.loads((kept / "config.json").read_text())["optim"]["epochs"] in (EPOCHS, EPOCHS + 4)
    assert (kept / "metrics.jsonl").read_bytes().startswith((unbroken / "metrics.jsonl").read_bytes())
    assert (kept / "report.html").read_bytes() == (unbroken / "report.html").read_bytes()
    tally(f"disk full while writing {'a checkpoint' if full == 'checkpoint' else 'logs'}", 1, 1)


def overflowing() -> None:
    """fp16's gradients are never finite."""
    from fastseg.training.step import TrainStep

    made = TrainStep.__init__

    def init(self: TrainStep, *arguments: object) -> None:
        made(self, *arguments)  # type: ignore[arg-type]
        self.model.net.classifier[-1].weight.register_hook(lambda gradient: gradient * torch.inf)

    TrainStep.__init__ = init  # type: ignore[method-assign]


@pytest.mark.slow
def test_fp16_that_overflows_again_and_again(shards: Path, tmp_path: Path, tally: Tally) -> None:
    """The loss scaler tries on with less; where that does not help the run ends, its weights as they were."""
    folder = tmp_path / "overflow"
    more = ("--model.precision", "fp16", "--data.crop", 32, 32, "--save-every", 3)
    command = start(shards, folder, *more, before=overflowing)
    assert command.finish() == 2, command.output
    sentence = command.output.splitlines()[-1]
    assert sentence.startswith("error: at step 31 the loss is ")
    assert "norm nan for 31 steps now" in sentence or "norm inf for 31 steps now" in sentence
    assert "--model.precision bf16 or fp32" in sentence
    saved = weights(folder / "checkpoints" / "last.pt")
    assert saved["step"] == 30
    assert saved["scaler"]["scale"] == 65536 * 0.5**30
    for name, value in saved["model"].items():  # the average started where the weights did
        assert value.isfinite().all()
        assert re.search("running_|num_batches", name) or torch.equal(value, saved["ema"][name])
    tally("fp16 overflows in every step", 1, 1)
