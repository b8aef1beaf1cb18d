"""How one process becomes many, and which requests are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastseg.errors import UserError
from fastseg.loop import distributed
from fastseg.loop.distributed import become_ranks

SCRIPT = """
import sys
from fastseg.errors import run_command
from fastseg.loop.distributed import become_ranks, gather_on_first, gather_states, joined_ranks, mean_over_ranks
from fastseg.loop.distributed import sum_over_ranks
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


@pytest.mark.parametrize("launcher", [[sys.executable], [str(Path(sys.executable).parent / "torchrun")]])
def test_one_process_becomes_two(launcher: list[str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = subprocess.run([*launcher, str(script), "2"], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    states = "[{'rank': 0}, {'rank': 1}]"
    assert sorted(line for line in run.stdout.splitlines() if line) == [
        f"rank {rank} of 2: 3 {states} 1.5" for rank in (0, 1)
    ]


def test_ranks_that_torchrun_started_are_kept(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--nproc-per-node", "2", str(script)]
    run = subprocess.run([*torchrun, "2"], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("of 2: 3") == 2


@pytest.mark.usefixtures("no_launcher")
def test_a_mismatch_with_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--gpus is 3, but torchrun started 2"):
        become_ranks(3, "cpu")


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
    with pytest.raises(UserError, match=says):
        become_ranks(gpus, device)


@pytest.mark.usefixtures("no_launcher")
def test_one_stays_one() -> None:
    become_ranks(1, "cpu")
    with distributed.joined_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)
        assert distributed.sum_over_ranks(torch.tensor(5)) == 5
        assert distributed.gather_states({"a": 1}) == [{"a": 1}]
