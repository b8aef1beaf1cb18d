"""Runs that give the same bits again, and what stands in the way."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import commands
from changes import with_changes
from fastseg.config import Config
from fastseg.errors import UserError
from fastseg.training.deterministic import explain_nondeterminism, set_deterministic
from runs import assert_same_run, weights


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is set for all of a process is as before afterwards."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.backends.cudnn.benchmark
    yield
    set_deterministic(False)
    torch.backends.cudnn.benchmark = before


@pytest.mark.usefixtures("restored")
def test_torch_is_held_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG is ':0:0', with which products are not determ"):
        set_deterministic(True)
    set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (True, False)


@pytest.mark.usefixtures("restored")
def test_an_operation_without_such_an_algorithm_is_named() -> None:
    """torch has none for this one on a CPU either."""
    set_deterministic(True)
    pooled, places = nn.functional.max_pool2d(torch.rand(1, 1, 4, 4), 2, return_indices=True)
    with (
        pytest.raises(UserError, match="torch has no deterministic algorithm for max_unpool"),
        explain_nondeterminism(),
    ):
        nn.functional.max_unpool2d(pooled, places, 2)
    with pytest.raises(RuntimeError, match="another"), explain_nondeterminism():
        raise RuntimeError("another")


def test_the_gpus_decoder_is_refused(tiny: Config) -> None:
    with pytest.raises(UserError, match=r"--data.decoder is gpu; it must be auto or cpu with --deterministic"):
        with_changes(tiny, deterministic=True, data__decoder="gpu")


@pytest.mark.slow
def test_two_runs_are_one(shards: Path, tmp_path: Path) -> None:
    """By the command: weights, optimizer, random generators and metrics, bit for bit; on a CPU without the flag too."""
    folders = []
    for name, flags in (("a", ("--deterministic",)), ("b", ("--deterministic",)), ("c", ())):
        given = (*commands.TINY, "--device", "cpu", "--gpus", 1, "--shards", shards, "--runs", tmp_path, *flags)
        ended = commands.run("fastseg-train", *given, "--name", name, "--optim.epochs", 2)
        assert ended.returncode == 0, ended.stderr
        folders.append(tmp_path / name)
    for other in folders[1:]:
        assert_same_run(folders[0], other)
    saved = [weights(folder / "checkpoints" / "last.pt") for folder in folders]
    assert [one["config"]["deterministic"] for one in saved] == [True, True, False]
    assert [one["versions"]["deterministic"] for one in saved] == ["yes", "yes", "no"]
