"""A user's folder, and the real commands run in it on what somebody has put there who means harm."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measured import Ended, Runner

import commands
import layouts
from fastseg.labels import cityscapes
from fastseg.model.checkpoint import pack_classes

ARCH = "deeplabv3_mobilenet_v3_large"
LITTLE = 3 << 29
"""Bytes that a refusal may take: 0.4 GB for the imports, and the largest file that is packed has 0.5 GB."""


class Victim:
    """A user's folder, and commands run in it."""

    def __init__(self, runner: Runner, folder: Path, shards: Path) -> None:
        self._runner, self.folder, self.shards = runner, folder, shards
        self.tries = 0

    def evaluates(self, checkpoint: Path, **environment: str) -> Ended:
        return self.run(
            "fastseg.commands.evaluate", checkpoint, "--shards", self.shards, "--device", "cpu", **environment
        )

    def trains(self, *flags: object, **environment: str) -> Ended:
        return self.trains_as_rank("--gpus", 1, *flags, **environment)

    def trains_as_rank(self, *flags: object, **environment: str) -> Ended:
        """Train as whatever the environment says."""
        given = ("--shards", self.shards) if "--shards" not in flags else ()
        words = (*commands.TINY, "--device", "cpu", "--name", "x", *given, *flags)
        return self.run("fastseg.commands.train", *words, **environment)

    def predicts(self, checkpoint: Path, **environment: str) -> Ended:
        picture = layouts.noise(1, (64, 48))
        picture.save(self.folder / "street.png")
        words = (checkpoint, "street.png", "--out", "predictions", "--device", "cpu", "--overwrite")
        return self.run("fastseg.commands.predict", *words, **environment)

    def exports(self, checkpoint: Path, **environment: str) -> Ended:
        words = (checkpoint, "--to", "safetensors", "--out", "weights.safetensors", "--overwrite")
        return self.run("fastseg.commands.export", *words, **environment)

    def loads(self, checkpoint: Path, **environment: str) -> Ended:
        return self.run("loaded", checkpoint, **environment)

    def packs(self, source: object, *flags: object) -> Ended:
        return self.run("tools.make_shards", source, "--out", "out", "--workers", 1, *flags)

    def refuses(self, ended: Ended, *says: str) -> None:
        """The last command ended with one sentence, and left nothing."""
        self.tries += 1
        lines = ended.stderr.splitlines()
        sentences = [line for line in lines if line.startswith("error: ")]
        assert ended.code == 2, ended
        assert len(sentences) == 1, ended.stderr
        assert len(sentences[0]) < 1000, sentences
        assert "Traceback" not in ended.stderr
        assert all(words in sentences[0] for words in says), (says, sentences)
        assert ended.peak < LITTLE, f"{ended.peak >> 20} MB"
        strangers = {path.name for path in self.folder.parent.iterdir()} - {self.folder.name}
        assert not strangers, strangers

    def run(self, module: str, *arguments: object, **environment: str) -> Ended:
        """Run the command of ``module`` in the folder to its end."""
        return self._runner.run(module, *arguments, folder=self.folder, **environment)


def document(**changes: object) -> dict[str, Any]:
    """A checkpoint whose every field has the right type."""
    plain = {
        **{"format": "fastseg-checkpoint", "version": 4, "step": 3, "arch": ARCH, "ema": None, "shards": "s"},
        **{"model": {"w": torch.zeros(4)}, "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]},
        **{"classes": pack_classes(cityscapes().classes), "epoch": 1.5, "steps_per_epoch": 2, "best": 0.5},
        **{"eval_pending": False, "since_best": 0, "ranks": [], "optimizer": {}, "scaler": {}, "stretch_to": None},
        **{"images_seen": 6, "origin": None, "best_split": None, "score": None},
        **{"config": {}, "dataset": {}, "versions": {}},
    }
    return plain | changes


def saved(folder: Path, value: object, **options: Any) -> Path:
    torch.save(value, folder / "evil.pt", **options)
    return folder / "evil.pt"


def ways_in(victim: Victim, path: Path, **environment: str) -> Iterator[Ended]:
    """Every command that reads a checkpoint, and the Python interface."""
    yield victim.evaluates(path, **environment)
    yield victim.predicts(path, **environment)
    yield victim.exports(path, **environment)
    yield victim.loads(path, **environment)
    yield victim.trains("--resume", path, **environment)
    yield victim.trains("--model.weights", path, **environment)
