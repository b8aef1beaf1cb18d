"""How one process becomes many, and which requests are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import commands
from fastseg.distributed import ranks
from fastseg.distributed.ranks import become_ranks
from fastseg.distributed.watchdog import _Seen, hanging
from fastseg.errors import UserError

SCRIPT = """
import sys
from fastseg.errors import run_command
from fastseg.distributed.ranks import become_ranks, gather_on_first, gather_states, joined_ranks, mean_over_ranks
from fastseg.distributed.ranks import sum_over_ranks
import torch

def main():
    become_ranks(int(sys.argv[1]), "cpu")
    with joined_ranks("cpu") as ranks:
        total = sum_over_ranks(torch.tensor(ranks.rank + 1))
        states = gather_states({"rank": ranks.rank})
        assert gather_on_first(ranks.rank) == ([0, 1] if ranks.first else [])
        mean = mean_over_ranks([torch.full((2, 3), float(ranks.rank)), torch.tensor(1.0 + ranks.rank)])
        assert (mean[0] == 0.5).all() and mean[0].shape == (2, 3)
        print(f"rank {ranks.rank} of {ranks.world}: {total} {states} {mean[1].item()}\\n", end="", flush=True)

run_command(main)
"""


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("must not start ranks"))


@pytest.mark.parametrize("launcher", ["python", "torchrun"])
def test_one_process_becomes_two(launcher: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = commands.run(launcher, script, 2)
    assert run.returncode == 0, run.stderr
    states = "[{'rank': 0}, {'rank': 1}]"
    assert sorted(line for line in run.stdout.splitlines() if line) == [
        f"rank {rank} of 2: 3 {states} 1.5" for rank in (0, 1)
    ]


def test_ranks_that_torchrun_started_are_kept(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = commands.run("torchrun", "--nproc-per-node", 2, script, 2)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("of 2: 3") == 2


@pytest.mark.usefixtures("no_launcher")
def test_a_mismatch_with_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    for name, value in (("MASTER_ADDR", "localhost"), ("MASTER_PORT", "29500")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--gpus is 3, but torchrun started 2"):
        become_ranks(3, "cpu")
    with pytest.raises(UserError, match="--max-restarts is 2, but torchrun has started the ranks already"):
        become_ranks(2, "cpu", restarts=2)


@pytest.mark.usefixtures("no_launcher")
@pytest.mark.parametrize(
    ("gpus", "device", "available", "says"),
    [
        (0, "auto", 0, "1 or more"),
        (8, "auto", 2, "there are 2 GPUs here; use --gpus 2"),
        (10_000, "auto", 0, "there is no GPU to use and only"),
        (1, "cuda", 0, "no GPU"),
    ],
)
def test_what_the_machine_has_not_is_refused(
    gpus: int, device: str, available: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available > 0)
    with pytest.raises(UserError, match=says):
        become_ranks(gpus, device)


MORTAL = """
import os, signal, sys
from pathlib import Path
from fastseg.errors import run_command
from fastseg.distributed.ranks import barrier, become_ranks, joined_ranks

def main():
    become_ranks(int(sys.argv[1]), "cpu", restarts=1)
    with joined_ranks("cpu") as ranks:
        Path(f"{sys.argv[2]}/{ranks.rank}").open("a").write("started ")
        barrier()
        if ranks.rank == ranks.world - 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] in sys.argv[3]:
            os.kill(os.getpid(), signal.SIGKILL)
        barrier()

run_command(main)
"""


@pytest.mark.parametrize(("gpus", "dies", "code"), [(2, "0", 0), (1, "0", 0), (2, "01", 137)])
def test_ranks_are_started_again(gpus: int, dies: str, code: int, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(MORTAL)
    command = [sys.executable, str(script), str(gpus), str(tmp_path), dies]
    run = commands.run(*command)
    assert run.returncode == code, run.stderr
    assert [(tmp_path / str(rank)).read_text() for rank in range(gpus)] == ["started started "] * gpus
    says = f"error: rank {gpus - 1} was ended by SIGKILL; run the same command again to resume"
    assert (says in run.stderr) == (code != 0)
    assert "Traceback" not in run.stderr


def heard(*words: str) -> _Seen:
    seen = _Seen()
    for word in words:
        seen.update(word)
    return seen


def test_who_hangs() -> None:
    """Beats of 20 in a timeout; 18 without a new word, or without progress while another rank is ahead."""
    gets_on = heard(*(f"{beat} {beat} host 5" for beat in range(1, 30)))
    waits, behind = (heard(*(f"{beat} {progress} host 6" for beat in range(1, 30))) for progress in (8, 7))
    frozen, hesitates = heard(*["9 8 host 7"] * 19), heard(*["9 8 host 7"] * 18)
    assert hanging({0: gets_on, 1: frozen}) == [1]
    assert hanging({0: waits, 1: frozen}) == [1]
    assert hanging({0: gets_on, 1: hesitates}) == []
    assert hanging({0: waits, 1: behind}) == [1]
    assert hanging({0: waits, 1: behind, 2: gets_on}) == []
    assert hanging({0: waits, 1: waits}) == []  # nobody is known to wait for another
    assert hanging({0: frozen, 1: frozen}) == []
    assert hanging({}) == []


@pytest.mark.usefixtures("no_launcher")
def test_one_stays_one() -> None:
    become_ranks(1, "cpu")
    with ranks.joined_ranks("cpu") as joined:
        assert (joined.rank, joined.world, joined.first) == (0, 1, True)
        assert ranks.sum_over_ranks(torch.tensor(5)) == 5
        assert ranks.gather_states({"a": 1}) == [{"a": 1}]


WATCHED = """
import os, signal, sys, time
import torch.distributed as dist
from fastseg.distributed.watchdog import Watchdog

rank, silent = int(sys.argv[1]), sys.argv[3]
store = dist.FileStore(sys.argv[2], 3)
store.set(f"here{rank}", "")
store.wait([f"here{other}" for other in range(3)])
if rank == 2 and silent == "never":
    time.sleep(1000)
time.sleep(0.2 * (rank == 0))  # the one that speaks notices last
watch = Watchdog(store, rank, 3, 3.0, lambda: 1)
if rank == 2:
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(1000)
"""


@pytest.mark.parametrize("silent", ["never", "later"])
def test_one_of_three_falls_silent(silent: str, tmp_path: Path) -> None:
    """One of the two others says so, once; the other stays until it has."""
    command = [sys.executable, "-c", WATCHED]
    started = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store"), silent], stderr=subprocess.PIPE, text=True)
        for rank in range(3)
    ]
    try:
        says = [process.communicate(timeout=60)[1] for process in started[:2]]
    finally:
        started[2].kill()
        started[2].communicate()
    assert [process.returncode for process in started[:2]] == [1, 1]
    who = "rank 2 (which never spoke)" if silent == "never" else f"rank 2 (process {started[2].pid} on "
    assert who in says[0]
    assert "error: " not in says[1]


ORPHAN = """
import time
import torch.distributed as dist
from fastseg.distributed.watchdog import Watchdog

server = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
client = dist.TCPStore("127.0.0.1", server.port, None, False, wait_for_workers=False)
watch = Watchdog(client, 0, 2, 2.0, lambda: 1)
time.sleep(0.5)
del server
time.sleep(1000)
"""


def test_a_store_that_goes_ends_the_process() -> None:
    run = commands.run(sys.executable, "-c", ORPHAN)
    assert run.returncode == 1
    assert "error: the process that connects the ranks is gone" in run.stderr


SLOW = """
import sys, time
from fastseg.errors import run_command
from fastseg.distributed import ranks as distributed
from fastseg.distributed.ranks import become_ranks, heartbeat, joined_ranks, barrier_no_timeout

distributed._MARGIN = 1.0

def main():
    become_ranks(2, "cpu")
    with joined_ranks("cpu", timeout=4.0) as ranks:
        for part in range(20 * ranks.rank):
            time.sleep(0.5)
            heartbeat()
            if part == 4 and sys.argv[1] == "hangs":
                time.sleep(1000)
        barrier_no_timeout()

run_command(main)
"""


@pytest.mark.parametrize("how", ["gets on", "hangs"])
def test_a_slow_rank_is_waited_for(how: str, tmp_path: Path) -> None:
    """For much longer than the timeout, of the library too; and no longer than that once it does nothing more."""
    script = tmp_path / "script.py"
    script.write_text(SLOW)
    run = commands.run(sys.executable, script, how)
    assert run.returncode == (how == "hangs"), run.stderr
    assert ("error: no progress for 3.6 s: the others wait for rank 1" in run.stderr) == (how == "hangs")


FAILING = """
import sys, time
from pathlib import Path
from fastseg.errors import UserError, run_command
from fastseg.distributed.ranks import barrier, become_ranks, joined_ranks

def main():
    become_ranks(2, "cpu", restarts=1)
    with joined_ranks("cpu") as ranks:
        Path(f"{sys.argv[3]}/{ranks.rank}").open("a").write("started ")
        barrier()
        if sys.argv[1] in ("both", str(ranks.rank)):
            if sys.argv[2] == "bug":
                raise KeyError("a bug")
            raise UserError("this rank fails")
        barrier()

run_command(main)
"""


@pytest.mark.parametrize(
    ("rank", "how", "code", "starts"),
    [("0", "user", 2, 1), ("1", "user", 2, 1), ("both", "user", 2, 1), ("0", "bug", 1, 2)],
)
def test_of_ranks_that_fail_one_says_why(rank: str, how: str, code: int, starts: int, tmp_path: Path) -> None:
    """The true reason, and nothing of lost connections; what is the user's to mend is not tried again."""
    script = tmp_path / "script.py"
    script.write_text(FAILING)
    command = [sys.executable, str(script), rank, how, str(tmp_path)]
    run = commands.run(*command)
    assert run.returncode == code, run.stderr
    assert [(tmp_path / name).read_text() for name in "01"] == ["started " * starts] * 2
    sentences = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == (how == "user"), run.stderr
    assert all(line.endswith("this rank fails") for line in sentences)
    assert run.stderr.count("KeyError: 'a bug'") == starts * (how == "bug")
