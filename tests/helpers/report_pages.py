"""Records of runs for tests of pages about them, and a reader of such pages."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from fastseg.evaluation.metrics import Sample
from fastseg.labels import cityscapes

VOID = {"meta", "link", "br", "hr", "img", "input", "circle", "line", "polyline", "polygon"}
CLASSES = cityscapes().classes


class Page(HTMLParser):
    """Checks that tags balance; collects tags, addresses and text by the way."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def train_line(step: int, **changes: Any) -> dict[str, Any]:
    loss = 3 * math.exp(-step / 300) + 0.2 + 0.1 * math.sin(step)
    line = {"event": "train", "step": step, "epoch": step / 50, "loss": 1.4 * loss, "loss_out": loss, "loss_aux": loss}
    line |= {
        "lr": 0.01 * max(0, 1 - step / 1100) ** 0.9,
        "images_per_second_per_gpu": 212.5,
        "waiting": 0.02,
        "memory": 3 * 2**30,
    }
    return {**line, "seconds": 0.4 * step, **changes}


def eval_line(step: int, miou: float, **changes: Any) -> dict[str, Any]:
    ious: dict[str, float | None] = {c.name: miou * (1 - i / 40) for i, c in enumerate(CLASSES)}
    ious["train"] = None
    categories = {c.category: 0.9 * miou for c in CLASSES}
    line = {"event": "eval", "step": step, "epoch": step / 50, "miou": miou, "accuracy": 0.9, "classes": ious}
    line |= {"categories": categories, "images": 500, "images_per_second": 40.0, "weights": "ema"}
    line["category_miou"] = 0.9 * miou
    return {**line, **changes}


def write_lines(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def frame(iou: float = 0.412, size: tuple[int, int] = (64, 96), noise: bool = False) -> Sample:
    """A frame of road in which one corner is taken for sky, or one of noise, which hardly compresses."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8) if noise else np.full((*size, 3), 90, np.uint8)
    label, prediction = rng.integers(0, 19, (2, *size), np.uint8) if noise else np.zeros((2, *size), np.uint8)
    prediction[:8, :8] = 10
    return Sample(iou, 0, image, label, prediction)


def write(folder: Path, name: str, document: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(document))
