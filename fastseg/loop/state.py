"""What changes while a run goes on, to a checkpoint and back."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastseg.config import Config
from fastseg.data.loader import TrainLoader
from fastseg.data.manifest import Manifest
from fastseg.errors import UserError
from fastseg.loop import checkpoint
from fastseg.loop.distributed import Ranks, average_buffers, gather_states
from fastseg.loop.environment import environment
from fastseg.loop.optim import Average
from fastseg.loop.step import TrainStep
from fastseg.model.deeplab import DeepLab


@dataclass
class RunState:
    """The parts of a run whose values a checkpoint holds."""

    model: DeepLab
    train_step: TrainStep
    average: Average | None
    step: int = 0
    """Steps done."""
    best: float = -math.inf
    """Highest mIoU so far."""
    evaluation_owed: bool = False
    """An evaluation of this step was due and did not come to its end."""

    def average_statistics(self) -> None:
        """Average batch norm's running statistics over the ranks, each of which saw its own images."""
        average_buffers(self.model)
        if self.average:
            average_buffers(self.average.model)

    def document(self, config: Config, manifest: Manifest, loader: TrainLoader, ranks: Ranks) -> dict[str, Any] | None:
        """The checkpoint, on the first rank; every rank has to call."""
        states = gather_states({"rng": _rng_state(ranks.device), "loader": loader.state()})
        if not ranks.first:
            return None
        return {
            "step": self.step,
            "steps_per_epoch": loader.steps_per_epoch,
            "best": self.best,
            "evaluation_owed": self.evaluation_owed,
            "arch": config.model.arch,
            "model": checkpoint.weights_of(self.model.net),
            "ema": checkpoint.weights_of(self.average.model.net) if self.average else None,
            "mean": self.model.mean.tolist(),
            "std": self.model.std.tolist(),
            "optimizer": self.train_step.optimizer.state_dict(),
            "scaler": self.train_step.scaler.state_dict(),
            "ranks": states,
            "config": config.to_dict(),
            "classes": checkpoint.pack_classes(manifest.classes),
            "dataset": {"name": manifest.name, "digest": manifest.digest()},
            "versions": environment(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over weights, average, optimiser and scaler of a checkpoint."""
        self.model.net.load_state_dict(saved["model"])
        if self.average:
            self.average.model.net.load_state_dict(saved["ema"] or saved["model"])
        self.train_step.optimizer.load_state_dict(saved["optimizer"])
        self.train_step.scaler.load_state_dict(saved["scaler"])
        self.step, self.best, self.evaluation_owed = saved["step"], saved["best"], saved["evaluation_owed"]


def find_checkpoint(config: Config, manifest: Manifest) -> dict[str, Any] | None:
    """The checkpoint that ``config.resume`` names, if there is one, and if it belongs to this network and data.

    Raises :class:`UserError` with the difference where it does not.
    """
    path = config.folder / "checkpoints" / "last.pt" if config.resume == "auto" else Path(config.resume)
    if config.resume == "never" or (config.resume == "auto" and not path.exists()):
        return None
    saved = checkpoint.load(path)
    classes = [c["name"] for c in saved["classes"]]
    here = [c.name for c in manifest.classes]
    differences = [
        ("network", saved["arch"], config.model.arch),
        ("optimiser", saved["config"]["optim"]["name"], config.optim.name),
        ("auxiliary head", saved["config"]["optim"]["aux"] > 0, config.optim.aux > 0),
        ("classes", classes, here),
        ("data set", saved["dataset"]["digest"], manifest.digest()),
    ]
    for what, then, now in differences:
        if then != now:
            raise UserError(
                f"{path} cannot be gone on from: its {what} is {_short(then)}, the run's is {_short(now)}; "
                "use another --name, or --resume never"
            )
    return saved


def continues_exactly(saved: dict[str, Any], config: Config, ranks: Ranks) -> bool:
    """Whether ranks, batch and seed are still those of the checkpoint, so that readers and dice can go on."""
    then = saved["config"]
    return len(saved["ranks"]) == ranks.world and (then["data"]["batch"], then["seed"]) == (
        config.data.batch,
        config.seed,
    )


def restore_rng(saved: dict[str, Any], ranks: Ranks) -> None:
    """Put this rank's random generators where they were."""
    state = saved["ranks"][ranks.rank]["rng"]
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and ranks.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], ranks.device)


def _rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
