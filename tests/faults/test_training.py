"""Runs that are killed, stopped, frozen, starved of disk and gone on with otherwise: nothing is lost, and it is said.

The commands are real processes (zygote.py), or torchrun's own where it is torchrun that has to act.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
import torch
import zygote

import commands
import layouts
from fastseg.data.packing import PackOptions, pack
from fastseg.data.sources import open_source
from fastseg.train import main
from runs import assert_same_run, lines, weights

Tally = Callable[[str, int, int], None]
KILLS = 22
"""Over one run; every third one during a save."""
EPOCHS = 8
"""Of 5 steps on one rank, of 2 on two."""
pytestmark = pytest.mark.slow


def words(shards: Path, folder: Path, *more: object) -> tuple[object, ...]:
    """The command line of a run in ``folder``."""
    run = ("--shards", shards, "--runs", folder.parent, "--name", folder.name, "--optim.epochs", EPOCHS)
    return ("fastseg/train.py", *commands.TINY, *run, "--eval-every", EPOCHS / 2, *more)


EVERY_STEP = ("--save-every", "0.2")


def start(
    shards: Path, folder: Path, *more: object, before: zygote.Hook | None = None, **environment: str
) -> zygote.Command:
    """The command of :func:`words`, with its output beside the folder."""
    output = folder.with_name(f"{folder.name}{environment.get('RANK', '')}.txt")
    output.unlink(missing_ok=True)
    return zygote.start(main, *words(shards, folder, *more), output=output, before=before, **environment)


def finish(command: zygote.Command) -> str:
    """Run to a good end; returns the output."""
    assert command.finish() == 0, command.output
    return command.output


def ranks(shards: Path, folder: Path, *more: object, before: zygote.Hook | None = None) -> list[zygote.Command]:
    """Two ranks, without a launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        world["MASTER_PORT"] = str(free.getsockname()[1])
    return [
        start(shards, folder, *more, before=before, RANK=str(rank), LOCAL_RANK=str(rank), **world) for rank in (0, 1)
    ]


@pytest.fixture(scope="module")
def unbroken(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on one rank that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    finish(start(shards, folder))
    return folder


@pytest.fixture(scope="module")
def unbroken_pair(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on two ranks that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "pair"
    for command in ranks(shards, folder):
        finish(command)
    return folder


def count(path: Path) -> int:
    """Lines written so far."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait(job: zygote.Command | subprocess.Popen[str], until: Callable[[], bool], seconds: float = 200) -> bool:
    """Whether it came to that while the job ran."""
    end = time.monotonic() + seconds
    while not until():
        if not (job.running if isinstance(job, zygote.Command) else job.poll() is None):
            return False
        assert time.monotonic() < end, f"nothing happened in {seconds} s"
        time.sleep(0.005)
    return True


def grown(metrics: Path, more: int, job: zygote.Command | subprocess.Popen[str]) -> bool:
    """Whether the job wrote so many more lines."""
    wanted = count(metrics) + more
    return wait(job, lambda: count(metrics) >= wanted)


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


def test_killed_at_any_instant(shards: Path, unbroken: Path, tmp_path: Path, tally: Tally) -> None:
    """Over one run; the last process ends where one that nobody killed does."""
    folder, saving, draw = tmp_path / "killed", tmp_path / "saving", random.Random(5)
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
            came = grown(metrics, draw.randrange(3), command)
            time.sleep(draw.random() * step)
        assert came, command.output
        command.process.kill()
        assert command.finish() == -signal.SIGKILL, command.output
        assert "Traceback" not in command.output
        in_save += bool(list((folder / "checkpoints").glob(".*.tmp")))  # the next process removes it
    assert in_save, "no kill came in the middle of a file"
    assert "going on after step" in finish(start(shards, folder))
    assert not list(folder.rglob(".*.tmp"))
    assert_same_run(unbroken, folder)
    assert [line["step"] for line in lines(folder, "train")] == list(range(1, 5 * EPOCHS + 1))
    tally("SIGKILL at a random instant of training", KILLS - in_save, KILLS - in_save)
    tally("SIGKILL while a checkpoint is written", in_save, in_save)


def stop(job: zygote.Command | subprocess.Popen[str], metrics: Path) -> None:
    """SIGTERM, twice as batch systems send it, after three steps."""
    assert grown(metrics, 3, job)
    for _ in range(2):
        (job.signal if isinstance(job, zygote.Command) else job.send_signal)(signal.SIGTERM)
        time.sleep(0.1)


def test_asked_to_stop(shards: Path, unbroken: Path, tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "stopped"
    command = start(shards, folder)
    stop(command, folder / "metrics.jsonl")
    assert command.finish(20) == 143, command.output
    step = weights(folder / "checkpoints" / "last.pt")["step"]
    assert f"stopped at step {step} of {5 * EPOCHS}; the same command goes on from there" in command.output
    assert f"going on after step {step}\n" in finish(start(shards, folder))
    assert_same_run(unbroken, folder)
    tally("SIGTERM during training", 1, 1)


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


def test_asked_to_stop_in_an_evaluation(shards: Path, unbroken: Path, tmp_path: Path, tally: Tally) -> None:
    """The evaluation is given up, owed, and done first by the process that goes on."""
    folder, evaluating = tmp_path / "stopped", tmp_path / "evaluating"
    command = start(shards, folder, before=slow_evaluation, EVALUATING=str(evaluating))
    assert wait(command, evaluating.exists), command.output
    command.signal(signal.SIGTERM)
    assert command.finish(20) == 143, command.output
    saved = weights(folder / "checkpoints" / "last.pt")
    assert (saved["step"], saved["evaluation_owed"]) == (5 * EPOCHS / 2, True)
    assert lines(folder, "eval") == []
    finish(start(shards, folder))
    assert_same_run(unbroken, folder)
    tally("SIGTERM during an evaluation", 1, 1)


LAUNCHERS = {
    "torchrun": ("torchrun", "--nproc-per-node", 2),
    "ours": ("python",),
}


def launch(launcher: str, command: tuple[object, ...], restarts: int = 0) -> subprocess.Popen[str]:
    """Start two ranks by torchrun, or as ``train.py --gpus 2`` does."""
    flags = ("--max-restarts", restarts) if restarts else ()
    if launcher == "torchrun":
        return commands.start(*LAUNCHERS[launcher], *flags, *command)
    return commands.start(*LAUNCHERS[launcher], *command, "--gpus", 2, *flags)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_asked_to_stop(
    launcher: str, shards: Path, unbroken_pair: Path, tmp_path: Path, tally: Tally
) -> None:
    folder = tmp_path / "stopped"
    job = launch(launcher, words(shards, folder))
    stop(job, folder / "metrics.jsonl")
    output = job.communicate(timeout=20)[0]
    assert job.returncode == (143 if launcher == "ours" else 1), output  # torchrun has an exit code of its own
    step = weights(folder / "checkpoints" / "last.pt")["step"]
    assert f"stopped at step {step} of {2 * EPOCHS}" in output
    for command in ranks(shards, folder):
        finish(command)
    assert_same_run(unbroken_pair, folder)
    tally(f"SIGTERM to two ranks ({'train.py --gpus 2' if launcher == 'ours' else 'torchrun'})", 1, 1)


def process_of(rank: int, job: subprocess.Popen[str]) -> int:
    """The process id of a rank that the job's launcher has started."""
    for children in Path(f"/proc/{job.pid}/task").glob("*/children"):
        for child in children.read_text().split():
            if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
                return int(child)
    raise AssertionError(f"the launcher has no rank {rank}")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_dies_and_the_job_comes_back_by_itself(
    launcher: str, shards: Path, unbroken_pair: Path, tmp_path: Path, tally: Tally
) -> None:
    folder = tmp_path / "killed"
    job = launch(launcher, words(shards, folder, *EVERY_STEP), restarts=3)
    assert grown(folder / "metrics.jsonl", 4, job)
    os.kill(process_of(int(launcher == "ours"), job), signal.SIGKILL)  # the first rank, or the second
    output = job.communicate(timeout=120)[0]
    assert job.returncode == 0, output
    assert re.search(r"going on after step \d+\n", output), output
    assert_same_run(unbroken_pair, folder)
    tally(f"SIGKILL of one of two ranks, with --max-restarts ({launcher})", 1, 1)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_rank_dies_without_restarts(frozen: int, shards: Path, tmp_path: Path) -> None:
    """What the rank that is left says of it."""
    pair = ranks(shards, tmp_path / "killed")
    assert grown(tmp_path / "killed" / "metrics.jsonl", 2, pair[0])
    pair[frozen].process.kill()
    left = pair[1 - frozen]
    assert left.finish(60) == 1, left.output
    if frozen == 1:
        assert "error: the connection to another rank was lost" in left.output
    assert "Traceback" not in left.output


def stuck() -> None:
    """The second rank's data does not come any more after its third batch, though the process lives."""
    from fastseg.data.loader import Batch, TrainLoader

    following, batches = TrainLoader.next, [0]

    def never(self: TrainLoader) -> Batch:
        batches[0] += 1
        if os.environ["RANK"] == "1" and batches[0] == 4:
            time.sleep(1000)
        return following(self)

    TrainLoader.next = never  # type: ignore[method-assign]


@pytest.mark.parametrize("how", ["SIGSTOP", "storage"])
def test_a_rank_hangs(how: str, shards: Path, tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "frozen"
    pair = ranks(shards, folder, *EVERY_STEP, "--timeout", 8, before=None if how == "SIGSTOP" else stuck)
    try:
        assert grown(folder / "metrics.jsonl", 3, pair[0]), pair[0].output
        if how == "SIGSTOP":
            pair[1].signal(signal.SIGSTOP)
        assert pair[0].finish(60) == 1, pair[0].output
    finally:
        pair[1].process.kill()
    sentence = f"wait for rank 1 (process {pair[1].process.pid} on {socket.gethostname()})"
    assert sentence in pair[0].output.replace("\n", " ")
    assert pair[0].output.count("error: ") == 1
    assert "Traceback" not in pair[0].output
    assert weights(folder / "checkpoints" / "last.pt")["step"] >= 2
    tally("one of two ranks frozen (SIGSTOP)" if how == "SIGSTOP" else "one of two ranks waits for its disk", 1, 1)


@pytest.mark.parametrize("change", ["ranks", "batch"])
def test_gone_on_with_otherwise(change: str, shards: Path, unbroken: Path, tmp_path: Path, tally: Tally) -> None:
    """Weights, optimiser and schedule go on; the order of the data is that of the epoch reached, from its start."""
    folder, last = tmp_path / "changed", unbroken / "checkpoints" / "last.pt"
    more = ("--resume", last, "--optim.epochs", EPOCHS + 2, *(("--data.batch", 4) if change == "batch" else ()))
    pair = ranks(shards, folder, *more) if change == "ranks" else [start(shards, folder, *more)]
    output = finish(pair[0])
    assert all(command.finish() == 0 for command in pair)
    assert f"going on after epoch {EPOCHS}.0 with other settings: the data's order starts anew" in output
    assert f"with that of epoch {EPOCHS + 1}" in output
    assert [line["step"] for line in lines(folder, "train")] == [2 * EPOCHS + step for step in range(1, 5)]
    saved = weights(folder / "checkpoints" / "last.pt")
    assert saved["ranks"][0]["loader"]["epoch"] == EPOCHS + 1  # counted from 0, and done
    assert saved["best"] >= weights(last)["best"]
    tally(f"going on with another {'number of ranks' if change == 'ranks' else 'batch'}", 1, 1)


@pytest.mark.parametrize("change", ["data set", "classes", "network"])
def test_another_run_is_refused(change: str, shards: Path, unbroken: Path, tmp_path: Path, tally: Tally) -> None:
    other, more = shards, ("--model.arch", "deeplabv3_resnet50") if change == "network" else ()
    if change != "network":
        other = tmp_path / "shards"
        write = layouts.write_cityscapes if change == "data set" else layouts.write_folder_dataset
        pack(open_source(write(tmp_path / "source")), other, PackOptions(samples_per_shard=4), workers=1)
    command = start(other, tmp_path / "refused", "--resume", unbroken / "checkpoints" / "last.pt", *more)
    assert command.finish() == 2, command.output
    what = "number of classes" if change == "classes" else change
    assert re.search(f"last.pt cannot be gone on from: its {what} is .*, the run's is ", command.output)
    assert command.output.count("\n") == 1
    assert not (tmp_path / "refused").exists()
    tally("going on with " + {"data set": "another data set", "network": "another network"}.get(change, change), 1, 1)


SCRIPT = """
mount -t tmpfs -o size={size} none {disk} && {first} || exit 99
sha256sum {disk}/run/checkpoints/last.pt
{second}; echo rc $?
sha256sum {disk}/run/checkpoints/last.pt; ls -A {disk}/run/checkpoints
cp {disk}/run/*.* {kept}/
"""


@pytest.mark.parametrize("full", ["checkpoint", "logs"])
def test_a_full_disk(full: str, shards: Path, unbroken: Path, tmp_path: Path, tally: Tally) -> None:
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
    size += last.stat().st_size // 2 if full == "checkpoint" else 1 << 16
    command = " ".join(map(str, ("python", *words(shards, disk / "run", "--optim.epochs", EPOCHS + 4))))
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
    from fastseg.loop.step import TrainStep

    made = TrainStep.__init__

    def init(self: TrainStep, *arguments: object) -> None:
        made(self, *arguments)  # type: ignore[arg-type]
        self.model.net.classifier[-1].weight.register_hook(lambda gradient: gradient * torch.inf)

    TrainStep.__init__ = init  # type: ignore[method-assign]


def test_fp16_that_overflows_again_and_again(shards: Path, tmp_path: Path, tally: Tally) -> None:
    """The loss scaler tries on with less; where that does not help the run ends, its weights as they were."""
    folder = tmp_path / "overflow"
    more = ("--model.precision", "fp16", "--save-every", 3)
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
