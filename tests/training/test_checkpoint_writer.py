"""Checkpoints written in the background: the same bytes, of the instant of the save, whatever happens meanwhile."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastseg.model import checkpoint
from fastseg.training import checkpoint_writer
from fastseg.training.checkpoint_writer import CheckpointWriter, snapshot


class Training:
    """A network in channels_last and its optimizer, which steps change in place."""

    def __init__(self) -> None:
        self.net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        self.net = self.net.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)

    def step(self) -> None:
        """Change every tensor."""
        self.net(torch.randn(2, 3, 8, 8)).square().sum().backward()
        self.optimizer.step()

    def document(self, step: int) -> dict[str, Any]:
        """A checkpoint of the tensors as they are, as :meth:`RunState.document` gives it."""
        ranks = [{"rng": {"cpu": torch.get_rng_state()}, "loader": {"epoch": 1, "step": step}}]
        optimizer = self.optimizer.state_dict()
        parts = {"model": self.net.state_dict(), "ema": None, "optimizer": optimizer, "ranks": ranks}
        return {"step": step, **parts, "mean": [1.0, 2.0], "size": (3, 4), "score": None}


@pytest.fixture
def training() -> Training:
    training = Training()
    training.step()
    return training


def test_the_file_is_that_of_a_save_that_was_waited_for(training: Training, tmp_path: Path) -> None:
    """Bit for bit, though the next step changes every tensor before the file is written; the buffers are reused."""
    go, save, written = threading.Event(), checkpoint.save, []
    with CheckpointWriter(tmp_path, written.append) as writer, pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_writer.checkpoint, "save", lambda *arguments: go.wait(30) and save(*arguments))
        for step in range(3):
            document = training.document(step)
            save(tmp_path / "waited.pt", document)
            go.clear()
            writer.save(document, best=False)
            training.step()
            writer.poll()
            assert written == []
            go.set()
            writer.wait()
            assert written.pop() == tmp_path / "last.pt"
            assert (tmp_path / "last.pt").read_bytes() == (tmp_path / "waited.pt").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "waited.pt"}


def test_a_snapshot_reuses_the_memory_of_an_earlier_one(training: Training) -> None:
    first = snapshot(training.document(1))
    where = first["optimizer"]["state"][0]["momentum_buffer"].data_ptr()
    training.step()
    again = snapshot(training.document(2), first)
    assert again["optimizer"]["state"][0]["momentum_buffer"].data_ptr() == where
    assert again["step"] == 2
    assert again["model"]["0.weight"].stride() == training.net[0].weight.stride()
    other = snapshot({**training.document(3), "model": {"0.weight": torch.zeros(2)}, "ranks": []}, again)
    assert (other["model"]["0.weight"].tolist(), other["ranks"]) == ([0, 0], [])


def test_one_write_at_a_time(training: Training, tmp_path: Path) -> None:
    """The second save waits for the first; the end of the block waits for both."""
    seen: list[int] = []

    def note(path: Path) -> None:
        seen.append(checkpoint.read_tensors(path, "checkpoint")["step"])

    with CheckpointWriter(tmp_path, note) as writer:
        writer.save(training.document(1), best=True)
        writer.save(training.document(2), best=False)
        assert seen == [1]
        writer.wait()
        assert seen == [1, 2]
    steps = [checkpoint.read_tensors(tmp_path / name, "checkpoint")["step"] for name in ("best.pt", "last.pt")]
    assert steps == [1, 2]


@pytest.mark.parametrize("notice", ["poll", "wait", "save"])
def test_a_failed_write_is_raised_and_loses_nothing(training: Training, tmp_path: Path, notice: str) -> None:
    with CheckpointWriter(tmp_path, lambda _: None) as writer:
        writer.save(training.document(1), best=False)
        writer.wait()
        before = (tmp_path / "last.pt").read_bytes()
        writer.save({**training.document(2), "scaler": lambda: None}, best=False)  # cannot be pickled
        writer._executor.submit(int).result()
        calls: dict[str, Callable[[], None]] = {"save": lambda: writer.save(training.document(3), best=False)}
        with pytest.raises(AttributeError):
            calls.get(notice, getattr(writer, notice))()
        assert (tmp_path / "last.pt").read_bytes() == before
    writer = CheckpointWriter(tmp_path, lambda _: None)
    with pytest.raises(AttributeError), writer:  # at the end at the latest
        writer.save({**training.document(2), "scaler": lambda: None}, best=False)


def test_a_failed_write_does_not_hide_what_ends_the_run(
    training: Training, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> None:
        with CheckpointWriter(tmp_path, lambda _: None) as writer:
            writer.save({**training.document(1), "scaler": lambda: None}, best=False)
            raise ValueError("the run ends")

    with pytest.raises(ValueError, match="the run ends"):
        run()
    assert "warning: the last checkpoint was not written: " in capsys.readouterr().err
