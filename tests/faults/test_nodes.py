"""Several machines: torchrun's agents meet; a rank dies, a machine falls silent and comes back, Slurm takes them."""

import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machines import Agent, Machine, descendants, free_port, set_cable, two_machines, wait_until

import commands
from runs import assert_same_run, lines

Start = Callable[..., Agent]
Tally = Callable[[str, int, int], None]
EPOCHS = 12
"""Of two steps each: seconds in which to do something to a run."""
FLAGS = (*commands.TINY, "--device", "cpu", "--name", "job", "--optim.epochs", EPOCHS, "--save-every", 1)


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as pair:
        if not pair[0].namespace:
            warnings.warn("no network namespaces here: the two machines are two agents on the loopback", stacklevel=1)
        yield pair


@pytest.fixture(scope="module")
def one_machine(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the same ranks on one machine, undisturbed."""
    folder = tmp_path_factory.mktemp("one")
    alone = Machine("127.0.0.1").start(
        *("torchrun", "--standalone", "--nproc-per-node", 2, "fastseg/train.py", *FLAGS),
        *("--shards", shards, "--runs", folder),
        output=folder / "output.txt",
    )
    assert alone.finish() == 0, alone.output
    return folder / "job"


@contextmanager
def a_job(machines: tuple[Machine, Machine], shards: Path, folder: Path) -> Iterator[Start]:
    """Yields what starts torchrun, the same command each time, on machine 0 or 1; all has ended at the end."""
    port, started = free_port(), []

    def start(node: int, *flags: object, nodes: str = "2") -> Agent:
        machine = machines[node]
        agent = machine.start(
            *("torchrun", "--nnodes", nodes, "--nproc-per-node", 1, "--max-restarts", 5),
            *("--rdzv-backend", "c10d", "--rdzv-id", "job", "--rdzv-endpoint", f"{machines[0].address}:{port}"),
            # What a real machine's name says: which one it is, and its address. And not to wait long for others.
            *("--rdzv-conf", f"is_host={node == 0},last_call_timeout=2", "--local-addr", machine.address),
            *("fastseg/train.py", *FLAGS, "--shards", shards, "--runs", folder, *flags),
            output=folder / f"machine{node}.txt",
            # Where torchrun's agents share their store with the ranks, one that comes later never learns its address.
            TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
        )
        started.append(agent)
        return agent

    try:
        yield start
    finally:
        for agent in started:
            agent.kill()


SLURM = {
    "srun": """
trap 'kill -TERM $(jobs -p)' TERM
while [[ $1 == --* ]]; do shift; done
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do "$@" & done
highest=0
for process in $(jobs -p); do
    wait "$process"
    code=$?
    while kill -0 "$process" 2>/dev/null; do wait "$process"; code=$?; done
    ((code > highest)) && highest=$code
done
exit $highest
""",
    "scontrol": 'if [ "$1" = requeue ]; then echo "$2" >>"$REQUEUED"; else echo 127.0.0.1; fi',
    "squeue": "echo RUNNING",
}
"""What tools/slurm/train.sbatch asks of Slurm, done by this machine in the place of two nodes."""


def trained(folder: Path) -> int:
    """The last step that the run has logged."""
    path = folder / "metrics.jsonl"
    found = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)["step"] for line in found if line.endswith("\n")), default=0)


@pytest.mark.slow
def test_two_machines_compute_what_one_does(
    machines: tuple[Machine, Machine], shards: Path, one_machine: Path, tmp_path: Path
) -> None:
    with a_job(machines, shards, tmp_path) as start:
        agents = start(0), start(1)
        assert [agent.finish() for agent in agents] == [0, 0], agents[0].output
    assert_same_run(tmp_path / "job", one_machine)


@pytest.mark.slow
def test_nothing_is_lost(
    machines: tuple[Machine, Machine], shards: Path, one_machine: Path, tmp_path: Path, tally: Tally, again: int
) -> None:
    """A rank dies, then a machine, which closes no connection: the job goes on by itself, to the same end.

    On the loopback there is no cable to pull: the second machine's processes are killed, and it counts as that.
    """
    later = again % 4
    run, patience = tmp_path / "job", ("--timeout", 10)
    with a_job(machines, shards, tmp_path) as start:
        first, second = start(0, *patience), start(1, *patience)
        wait_until(lambda: trained(run) >= 5 + later, (first, second))
        os.kill(descendants(second.process.pid)[0], signal.SIGKILL)
        wait_until(lambda: "last.pt after step" in first.output, (first, second))
        wait_until(lambda: trained(run) >= 9 + later, (first, second))
        if machines[1].namespace:
            set_cable(machines[1], False)
            wait_until(lambda: "no progress for 9 s: the others wait for rank 1" in first.output, (first, second))
        second.kill()
        if machines[1].namespace:
            set_cable(machines[1], True)
        second = start(1, *patience)
        assert [agent.finish() for agent in (first, second)] == [0, 0], first.output
        assert first.output.count("last.pt after step") == 2
    assert_same_run(run, one_machine)
    if machines[1].namespace:
        tally("SIGKILL of a rank on one of two machines", 1, 1)
        tally("one of two machines lost without a word, and back", 1, 1)
    else:
        tally("SIGKILL of a rank below one of two torchruns on one machine", 1, 1)
        tally("SIGKILL of one of two torchruns on one machine and its rank, and back", 1, 1)


@pytest.mark.slow
def test_a_job_of_one_or_two_machines(
    machines: tuple[Machine, Machine], shards: Path, tmp_path: Path, tally: Tally
) -> None:
    """Two machines, one, and two again: by itself, the same global batches, and every step once."""
    run, flags = tmp_path / "job", ("--timeout", 10, "--optim.epochs", 20, "--optim.global-batch", 4)
    alone, both = "global batch 4 = 1 × 2 × 2 accumulated, ", "global batch 4 = 2 × 2, "
    with a_job(machines, shards, tmp_path) as start:
        first, second = (start(node, *flags, nodes="1:2") for node in (0, 1))
        wait_until(lambda: both in first.output, (first, second), 300)
        reached, before = trained(run), first.output.count(alone)  # one may have begun before the other came
        wait_until(lambda: trained(run) >= reached + 3, (first, second))
        second.kill()
        wait_until(lambda: first.output.count(alone) > before, (first,), 300)
        reached = trained(run)
        wait_until(lambda: trained(run) >= reached + 3, (first,))
        second = start(1, *flags, nodes="1:2")
        wait_until(lambda: first.output.count(both) == 2, (first, second), 300)
        assert [agent.finish(300) for agent in (first, second)] == [0, 0], first.output
    assert "with other settings" not in first.output
    assert first.output.count("settings that changed: ranks 2 → 1\n") == 1
    assert first.output.count("settings that changed: ranks 1 → 2\n") >= 1
    assert [line["step"] for line in lines(run, "train")] == list(range(1, 41))
    tally("one of two machines lost for good, and another in its place later (--nnodes 1:2)", 1, 1)


def test_machines_that_see_different_runs_are_refused(
    machines: tuple[Machine, Machine], shards: Path, one_machine: Path, tmp_path: Path
) -> None:
    """--runs on each machine's own disk, the second's without the checkpoint: they would train apart."""
    elsewhere = ("--runs", tmp_path / "own")
    with a_job(machines, shards, one_machine.parent) as start:
        agents = start(0), start(1, *elsewhere)
        said = (
            "rank 0 finds a checkpoint of step 24, rank 1 of step None; put --runs on storage that all machines share"
        )
        wait_until(lambda: said in agents[0].output, agents)
    assert not (tmp_path / "own").exists()


@pytest.mark.slow
def test_a_job_of_slurm_that_is_preempted(
    shards: Path, one_machine: Path, tmp_path: Path, tally: Tally, again: int
) -> None:
    for name, body in SLURM.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    settings = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "REQUEUED": str(tmp_path / "requeued"),
        **{"FASTSEG_ENV": str(commands.BIN.parent), "FASTSEG_SHARDS": str(shards), "FASTSEG_RUNS": str(tmp_path)},
        **{"FASTSEG_RANKS": "1", "SLURM_SUBMIT_DIR": str(commands.ROOT), "SLURM_JOB_ID": str(os.getpid())},
        **{"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_CPUS_PER_TASK": "1"},
    }
    script = ("bash", "tools/slurm/train.sbatch", *FLAGS)
    first = Machine("127.0.0.1").start(*script, output=tmp_path / "first.txt", **settings)
    try:
        wait_until(lambda: trained(tmp_path / "job") >= 5 + again, (first,))
        first.process.terminate()  # to the script alone
        assert first.finish() == 143, first.output
    finally:
        first.kill()
    assert "the same command resumes from there" in first.output
    assert (tmp_path / "requeued").read_text() == f"{os.getpid()}\n"
    second = Machine("127.0.0.1").start(*script, output=tmp_path / "second.txt", **settings)
    try:
        assert second.finish() == 0, second.output
    finally:
        second.kill()
    assert (tmp_path / "requeued").read_text() == f"{os.getpid()}\n"
    assert_same_run(tmp_path / "job", one_machine)
    tally("a job on two nodes preempted by the batch system", 1, 1)
