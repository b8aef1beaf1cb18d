"""Checkpoints of a GPU's tensors, written in the background: of the instant of the save."""

from pathlib import Path

import torch
from one_gpu import DEVICE, keep_busy, needs_gpu

from fastseg.model.weights import read_tensors
from fastseg.training.checkpoint_writer import CheckpointWriter

pytestmark = needs_gpu


def test_what_is_saved_is_of_that_instant(tmp_path: Path) -> None:
    """The GPU is busy with what comes before, and the next step begins at once."""
    weight = torch.zeros(8, 64, 32, 32, device=DEVICE).to(memory_format=torch.channels_last)
    with CheckpointWriter(tmp_path, lambda _: None) as writer:
        for step in (1, 2, 3):
            keep_busy()
            weight.add_(1)
            writer.save({"model": {"w": weight}}, best=False)
            weight.add_(100)
            weight.sub_(100)
            writer.wait()
            saved = read_tensors(tmp_path / "last.pt", "checkpoint")["model"]["w"]
            assert saved.device.type == "cpu"
            assert saved.is_contiguous()
            assert bool((saved == step).all())
