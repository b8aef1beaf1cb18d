"""Parts of a run that other processes can import, for tests."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.training.callbacks import Callback, Step, StepEvaluation


def small_net(classes: int) -> nn.Module:
    """A network of three layers and a stride of 4."""
    first = nn.Conv2d(3, 8, 3, stride=4, padding=1)
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1))


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy as fastseg's own has it."""
    total = F.cross_entropy(logits, labels, ignore_index=255, reduction="sum")
    return total / (labels != 255).sum().clamp(min=1)


def darken(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    """Make a crop black, and say so in its labels."""
    image[:], mask[:] = 0, 7
    image[0, 0, 0] = rng.integers(1, 256)


class Recorder(Callback):
    """Write a line for each call to a file; ask to stop at a step."""

    def __init__(self, path: Path, stop_at: int = 0) -> None:
        self.path, self.stop_at = path, stop_at

    def on_step(self, step: Step) -> str | None:
        self._write("step", step.step)
        return f"step {step.step} is enough" if step.step == self.stop_at else None

    def on_log(self, record: object) -> None:
        self._write("log", record["step"])  # type: ignore[index]

    def on_evaluation(self, evaluation: StepEvaluation) -> None:
        self._write("evaluation", evaluation.step)

    def on_checkpoint(self, path: Path) -> None:
        self._write("checkpoint", path.name)

    def on_end(self, finished: bool) -> None:
        self._write("end", finished)

    def _write(self, *words: object) -> None:
        with self.path.open("a") as file:
            print(*words, file=file)


class Failing(Callback):
    """Fail at the first step."""

    def on_step(self, step: Step) -> str | None:
        raise ValueError(f"step {step.step} displeases me")


def nan_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Not a number, whatever comes."""
    return mean_loss(logits, labels) * torch.nan
