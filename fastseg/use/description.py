"""What a checkpoint says of itself, for files that leave the house: its classes, recipe, data and score."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastseg.labels import SegmentationClass, cityscapes_ids, parse_class
from fastseg.model.weights import fitting

INPUT = "image: uint8, N×H×W×3, RGB; normalisation is part of the network"
OUTPUTS = "classes: uint8 class ids, N×H×W; logits: float32, N×C×H×W, before softmax; both at the image's size"
WEIGHTS = "weights with torchvision's names; the image is float RGB, N×3×H×W, 0–255, less mean, divided by std"


@dataclass(frozen=True)
class Description:
    """A checkpoint's facts, without places on the machine that trained it."""

    name: str
    """Of the run."""
    arch: str
    """torchvision's name of the network."""
    classes: tuple[SegmentationClass, ...]
    label_ids: tuple[int, ...] | None
    """Cityscapes' own id of each class, where the classes are Cityscapes'."""
    mean: tuple[float, ...]
    """Of R, G, B, 0–255."""
    std: tuple[float, ...]
    dataset: str
    """Name and digest of the packed set."""
    recipe: dict[str, Any]
    """Settings of the training."""
    step: int
    epochs: float
    score: float | None
    """mIoU of these very weights, 0–1; None if they were not evaluated."""
    images: int
    """That the score was taken on."""
    auxiliary: bool
    """Whether the weights hold an auxiliary head."""
    averaged: bool
    """Whether the weights are the run's average, which is what it evaluates."""
    version: str
    """Of fastseg, that trained them; empty where it was not installed as a package."""

    def metadata(self, contract: str) -> dict[str, str]:
        """Strings by name; ``classes``, ``recipe`` and ``score`` are JSON. ``contract``: what goes in and out."""
        ids = self.label_ids or (None,) * len(self.classes)
        classes = [
            {"id": i, "name": c.name, "color": c.color} | ({} if label is None else {"label_id": label})
            for i, (c, label) in enumerate(zip(self.classes, ids, strict=True))
        ]
        score = {"mIoU": self.score, "images": self.images} if self.score is not None else {}
        return {
            "format": "fastseg-export 1",
            "fastseg": self.version,
            "contract": contract,
            "arch": self.arch,
            "classes": json.dumps(classes),
            "mean": " ".join(map(repr, self.mean)),
            "std": " ".join(map(repr, self.std)),
            "dataset": self.dataset,
            "recipe": json.dumps(self.recipe),
            "step": str(self.step),
            "score": json.dumps(score),
        }


def describe(saved: dict[str, Any], path: Path) -> Description:
    """The facts of a checked checkpoint that was read from ``path``; its score comes from its run's metrics.jsonl."""
    with fitting(path):
        return _describe(saved, path)


def _describe(saved: dict[str, Any], path: Path) -> Description:
    classes = tuple(parse_class(entry, f"{path}, class {i}") for i, entry in enumerate(saved["classes"]))
    data = saved["dataset"]
    line = _evaluation(path.parent.parent / "metrics.jsonl", saved["step"])
    return Description(
        name=saved["config"]["name"],
        arch=saved["arch"],
        classes=classes,
        label_ids=cityscapes_ids(classes),
        mean=tuple(map(_short, saved["mean"])),
        std=tuple(map(_short, saved["std"])),
        dataset=f"{data['name']} ({data['digest'][:12]})",
        recipe=_settings(saved["config"]),
        step=saved["step"],
        epochs=saved["step"] / saved["steps_per_epoch"],
        score=line.get("miou"),
        images=line.get("images", 0),
        auxiliary=any(name.startswith("aux_classifier.") for name in saved["ema"] or saved["model"]),
        averaged=saved["ema"] is not None,
        version=saved["versions"].get("fastseg-deeplab", ""),
    )


def _short(value: float) -> float:
    """The number of fewest digits with the same value in float32."""
    return float(str(np.float32(value)))


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """What decides the result: no folders, and of a file of weights the name only."""
    model = {**config["model"], "weights": Path(config["model"]["weights"]).name}
    return {"seed": config["seed"], "data": config["data"], "model": model, "optim": config["optim"]}


def _evaluation(log: Path, step: int) -> dict[str, Any]:
    """The evaluation after ``step`` in a run's log; empty where there is none."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("event") == "eval" and entry.get("step") == step:
            return entry
    return {}
