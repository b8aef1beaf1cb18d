"""Two ranks of which one is stopped, killed, frozen or waits for ever: nothing is lost, and it is said.

They are started by torchrun, by ``train.py --gpus 2``, or, where no launcher has to act, without one (zygote.py).
"""

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from trainings import EPOCHS, EVERY_STEP, finish, grown, ranks, stop, words

import commands
import zygote
from runs import assert_same_run, weights

Tally = Callable[[str, int, int], None]


@pytest.fixture(scope="module")
def unbroken_pair(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on two ranks that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "pair"
    for command in ranks(shards, folder):
        finish(command)
    return folder


LAUNCHERS = {
    "torchrun": ("torchrun", "--nproc-per-node", 2),
    "ours": ("python",),
}


def launch(launcher: str, command: tuple[object, ...], output: Path, restarts: int = 0) -> zygote.Command:
    """Start two ranks by torchrun, or as ``train.py --gpus 2`` does."""
    flags = ("--max-restarts", restarts) if restarts else ()
    if launcher == "torchrun":
        return commands.start(*LAUNCHERS[launcher], *flags, *command, output=output)
    return commands.start(*LAUNCHERS[launcher], *command, "--gpus", 2, *flags, output=output)


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        pytest.param("torchrun", signal.SIGTERM, marks=pytest.mark.slow),
        ("ours", signal.SIGTERM),
        pytest.param("ours", signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_two_ranks_asked_to_stop(
    launcher: str,
    number: signal.Signals,
    shards: Path,
    unbroken_pair: Path,
    tmp_path: Path,
    tally: Tally,
    again: int,
) -> None:
    folder = tmp_path / "stopped"
    job = launch(launcher, words(shards, folder), tmp_path / "output")
    stop(job, folder / "metrics.jsonl", after=3 + again % 8, number=number)
    code, output = job.finish(60), job.output
    assert code == (128 + number if launcher == "ours" else 1), output  # torchrun has an exit code of its own
    step = weights(folder / "checkpoints" / "last.pt")["step"]
    assert f"stopped at step {step} of {2 * EPOCHS}" in output
    for command in ranks(shards, folder):
        finish(command)
    assert_same_run(unbroken_pair, folder)
    tally(f"{number.name} to two ranks ({'train.py --gpus 2' if launcher == 'ours' else 'torchrun'})", 1, 1)


def process_of(rank: int, job: zygote.Command) -> int:
    """The process id of a rank that the job's launcher has started: they start one after the other."""
    files = Path(f"/proc/{job.pid}/task").glob("*/children")
    children = sorted(int(child) for children in files for child in children.read_text().split())
    assert len(children) == 2
    return children[rank]


@pytest.mark.parametrize("launcher", [pytest.param("torchrun", marks=pytest.mark.slow), "ours"])
def test_a_rank_dies_and_the_job_comes_back_by_itself(
    launcher: str, shards: Path, unbroken_pair: Path, tmp_path: Path, tally: Tally, again: int
) -> None:
    folder = tmp_path / "killed"
    job = launch(launcher, words(shards, folder, *EVERY_STEP), tmp_path / "output", restarts=3)
    assert grown(folder / "metrics.jsonl", 4 + again % 8, job)
    rank = ((launcher == "ours") + again) % 2
    os.kill(process_of(rank, job), signal.SIGKILL)
    assert job.finish() == 0, job.output
    output = job.output
    assert re.search(r"last\.pt after step \d+\n", output), output
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
def test_a_rank_hangs(how: str, shards: Path, tmp_path: Path, tally: Tally, again: int) -> None:
    folder = tmp_path / "frozen"
    pair = ranks(shards, folder, *EVERY_STEP, "--timeout", 8, before=None if how == "SIGSTOP" else stuck)
    try:
        assert grown(folder / "metrics.jsonl", 3 + again % 8 * (how == "SIGSTOP"), pair[0]), pair[0].output
        if how == "SIGSTOP":
            pair[1].send_signal(signal.SIGSTOP)
        assert pair[0].finish(60) == 1, pair[0].output
    finally:
        pair[1].process.kill()
    sentence = f"wait for rank 1 (process {pair[1].process.pid} on {socket.gethostname()})"
    assert sentence in pair[0].output.replace("\n", " ")
    assert pair[0].output.count("error: ") == 1
    assert "Traceback" not in pair[0].output
    assert weights(folder / "checkpoints" / "last.pt")["step"] >= 2
    tally("one of two ranks frozen (SIGSTOP)" if how == "SIGSTOP" else "one of two ranks waits for its disk", 1, 1)
