"""A checkpoint of the small network that predicts many classes, for tests."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import layouts
from fastseg.config import Config, ModelConfig
from fastseg.data.loader import EvalLoader, open_files
from fastseg.labels import SegmentationClass, cityscapes
from fastseg.model import checkpoint
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fastseg.shards.manifest import read_manifest

ARCH = "deeplabv3_mobilenet_v3_large"


def val_loader(shards: Path) -> EvalLoader:
    """The validation frames of a set, one by one."""
    manifest = read_manifest(shards)
    files, split = open_files(shards, manifest, "val"), manifest.split("val")
    return EvalLoader(files, split, batch=1, device=torch.device("cpu"), threads=1)


def write_checkpoint(
    path: Path, shards: Path | str = "nowhere", classes: tuple[SegmentationClass, ...] = cityscapes().classes
) -> Path:
    """Random weights whose statistics are those of noise, each class with its share of the pixels."""
    checkpoint.save(path, {**document(classes), "shards": str(shards)})
    return path


@cache
def document(classes: tuple[SegmentationClass, ...]) -> dict[str, Any]:
    """Everything but where the shards lie."""
    torch.manual_seed(0)
    model = SegmentationNetwork(ARCH, len(classes), IMAGENET_MEAN, IMAGENET_STD, aux=False)
    frames = torch.from_numpy(np.stack([np.asarray(layouts.noise(i, (96, 64))) for i in range(5)]))
    with torch.no_grad():
        for _ in range(20):  # with all of the frames' statistics, frames of other sizes would all look alike
            model.train()(frames)
        logits = model.eval()(frames).out.transpose(0, 1).flatten(1)
        head = model.net.classifier[4]
        head.bias.copy_((head.bias - logits.mean(1)) / logits.std(1))
        head.weight.div_(logits.std(1).view(-1, 1, 1, 1))
    config = Config("/somewhere/private", name="streets-1", seed=3, model=ModelConfig(ARCH, "/home/me/start.pt"))
    return {
        "step": 12,
        "score": {"step": 12, "split": "val", "miou": 0.4321, "images": 5},
        "epoch": 2.0,
        "arch": ARCH,
        "model": model.net.state_dict(),
        "ema": None,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "stretch_to": None,
        "classes": checkpoint.pack_classes(classes),
        "config": config.to_dict(),
        "dataset": {"name": "streets", "digest": "0123456789abcdef"},
        "versions": {"fastseg-deeplab": "0.1.0"},
    }
