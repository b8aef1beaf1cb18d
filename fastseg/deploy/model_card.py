"""The model card beside an exported network: description, score, training data, license."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastseg.errors import one_line, shown
from fastseg.labels import SegmentationClass, cityscapes_ids, parse_class
from fastseg.model.architectures import ARCHITECTURES
from fastseg.model.checkpoint import white_of
from fastseg.model.safetensors_file import EXPORT
from fastseg.model.weights import fitting
from fastseg.shards.manifest import number, whole

MAX_TEXT = 1000
"""Maximum characters of a text out of a checkpoint."""
INPUT = "image: uint8, N×H×W×3, RGB; normalization is part of the network"
OUTPUTS = "classes: uint8 class ids, N×H×W; logits: float32, N×C×H×W, before softmax; both at the image's size"
WEIGHTS = "weights with the network's own names; the image is float RGB, N×3×H×W, 0–255, less mean, divided by std"


@dataclass(frozen=True)
class Description:
    """A checkpoint's description, without paths of the machine that trained it."""

    name: str
    """Name of the run."""
    arch: str
    """Name of the network in :data:`fastseg.model.architectures.ARCHITECTURES`."""
    classes: tuple[SegmentationClass, ...]
    label_ids: tuple[int, ...] | None
    """Cityscapes' id of each class; None for other classes."""
    mean: tuple[float, ...]
    """Mean and standard deviation of the network's normalization, R, G, B, 0–255."""
    std: tuple[float, ...]
    dataset: str
    """Name and digest of the packed set."""
    white: int | None
    """Value of white in 16-bit images; None if the set had none."""
    recipe: dict[str, Any]
    """Settings of the training."""
    step: int
    epochs: float
    score: float | None
    """mIoU of these weights, 0–1; None if they were not evaluated."""
    images: int
    """Number of images of the score."""
    auxiliary: bool
    """Whether the weights hold an auxiliary head."""
    averaged: bool
    """Whether the weights are the run's moving average, which it evaluates."""
    version: str
    """Version of fastseg that trained them; empty if it was not installed as a package."""

    def metadata(self, contract: str) -> dict[str, str]:
        """Return strings by name; ``classes``, ``recipe`` and ``score`` are JSON. ``contract``: inputs and outputs."""
        ids = self.label_ids or (None,) * len(self.classes)
        classes = [
            {"id": i, "name": c.name, "color": c.color}
            | ({"category": c.category} if c.category else {})
            | ({} if label is None else {"label_id": label})
            for i, (c, label) in enumerate(zip(self.classes, ids, strict=True))
        ]
        score = {"mIoU": self.score, "images": self.images} if self.score is not None else {}
        return {
            "format": EXPORT,
            "fastseg": self.version,
            "name": self.name,
            "weights": "ema" if self.averaged else "model",
            "contract": contract,
            "arch": self.arch,
            "classes": json.dumps(classes),
            "mean": " ".join(map(repr, self.mean)),
            "std": " ".join(map(repr, self.std)),
            "dataset": self.dataset,
            **({"white": str(self.white)} if self.white else {}),
            "recipe": json.dumps(self.recipe),
            "step": str(self.step),
            "epochs": repr(self.epochs),
            "score": json.dumps(score),
        }


def describe(saved: dict[str, Any], path: Path) -> Description:
    """Return the facts of a checked checkpoint read from ``path``; whose score it holds itself."""
    with fitting(path):
        return _describe(saved, path)


def _describe(saved: dict[str, Any], path: Path) -> Description:
    classes = tuple(parse_class(entry, f"{path}, class {i}") for i, entry in enumerate(saved["classes"]))
    data = saved["dataset"]
    score = saved["score"] or {"miou": None, "images": 0}
    known = isinstance(score["miou"], float)
    return Description(
        name=_text(saved["config"]["name"]),
        arch=saved["arch"],
        classes=classes,
        label_ids=cityscapes_ids(classes),
        mean=tuple(map(_short, saved["mean"])),
        std=tuple(map(_short, saved["std"])),
        dataset=f"{_text(data['name'])} ({_text(data['digest'])[:12]})",
        white=white_of(saved, path),
        recipe=_settings(saved["config"]),
        step=saved["step"],
        epochs=saved["epoch"],
        score=number(score["miou"], 1) if known else None,
        images=whole(score["images"], 0, 1 << 40),
        auxiliary=ARCHITECTURES[saved["arch"]].has_aux(saved["model"]),
        averaged=saved["ema"] is not None,
        version=_text(saved["versions"].get("fastseg-deeplab", "")),
    )


def _text(value: Any) -> str:
    """Return a text out of a checkpoint as one printable line."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"{shown(value)} instead of a text of at most {MAX_TEXT} characters")
    return one_line(value)


def _short(value: float) -> float:
    """Return the number with the fewest digits that has the same value in float32."""
    return float(str(np.float32(value)))


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the result: without folders, and with only the name of a file of weights."""
    model = {**config["model"], "weights": Path(config["model"]["weights"]).name}
    settings = {"seed": config["seed"], "data": config["data"], "model": model, "optim": config["optim"]}
    return dict(json.loads(json.dumps(settings)))


CITYSCAPES_TERMS = """\
The classes are those of Cityscapes. If the network was trained on Cityscapes' images, their terms of use apply: the
data is for non-commercial use, such as research and teaching, and may not be passed on. What the terms mean for
weights trained on the data, this card cannot say: read them at https://www.cityscapes-dataset.com/license/ before you
publish or use the weights."""
TERMS = """\
What may be done with the weights depends on the terms of the images they were trained on, which this card does not
know."""


class Difference(NamedTuple):
    """Difference of an exported network from its checkpoint on one batch."""

    shape: tuple[int, ...]
    """N, H, W."""
    largest: float
    """Largest difference between logits."""
    pixels: int
    """Number of pixels with another class."""

    def describe(self) -> str:
        """Return it in words."""
        n, height, width = self.shape
        return (
            f"{n} × {height}×{width} pixels: logits differ by {self.largest:.1e} at most, "
            f"{self.pixels} pixels by their class"
        )


USE = {
    "onnx": """\
import numpy as np, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession({file})
image = np.asarray(Image.open("image.jpg").convert("RGB"))[None]  # uint8, 1×H×W×3
classes, logits = session.run(["classes", "logits"], {{"image": image}})  # uint8 1×H×W, float32 1×C×H×W
metadata = session.get_modelmeta().custom_metadata_map  # classes with their colors, recipe, score""",
    "torch-export": """\
import numpy as np, torch
from PIL import Image

metadata = {{"classes": "", "recipe": "", "score": ""}}
network = torch.export.load({file}, extra_files=metadata).module()
image = torch.from_numpy(np.array(Image.open("image.jpg").convert("RGB")))[None]  # uint8, 1×H×W×3
classes, logits = network(image)  # uint8 1×H×W, float32 1×C×H×W; sides of 32 pixels at least""",
    "safetensors": """\
import torch
from safetensors.torch import load_file
from torchvision.io import ImageReadMode, read_image
{source}

state = load_file({file})
network = {network}
network.load_state_dict(state)
mean, std = torch.tensor([{mean}]).view(3, 1, 1), torch.tensor([{std}]).view(3, 1, 1)
image = (read_image("image.jpg", ImageReadMode.RGB) - mean) / std
classes = network.eval()(image[None]){out}.argmax(1)  # int64, 1×H×W""",
}
BY_FASTSEG = """\
import fastseg

network = fastseg.load("hf://{repository}")
network("image.jpg").overlay().save("overlay.png")"""
TORCHVISION = {
    "source": "from torchvision.models import get_model",
    "network": 'get_model("{arch}", weights=None, weights_backbone=None, num_classes={classes}, aux_loss={aux})',
    "out": '["out"]',
}
OURS = {
    "source": "from fastseg.model.architectures import ARCHITECTURES",
    "network": 'ARCHITECTURES["{arch}"].build({classes}, {aux})',
    "out": "",
}
"""Code that builds and calls a network of fastseg's table, by :attr:`Architecture.build`'s contract."""


def escape(text: str) -> str:
    """Return a text as one line that Markdown shows as it is: no markup, HTML, link or heading.

    Punctuation with a meaning in GitHub's Markdown becomes a character reference; ``_`` has none within words, and
    ``.`` only in ``www.``, which begins a link.
    """
    pattern = r"(?<![^\W_])_|_(?![^\W_])|(?<=[wW]{3})\.|[][\\`*<>&#|~$@:]"
    return re.sub(pattern, lambda found: f"&#{ord(found[0])};", one_line(text))


def model_card(
    about: Description,
    file: Path,
    format: str,
    checked: list[Difference],
    images: str,
    license: str,
    repository: str | None = None,
) -> str:
    """Return the text of a README.md for the Hugging Face hub.

    ``images``: description of the compared images. ``repository``: ``USER/NAME`` there, if the card is for one.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    data = about.dataset.partition(" (")[0]
    results = [] if about.score is None else [EvalResult(
        task_type="image-segmentation", dataset_type=data, dataset_name=data, metric_type="mean_iou",
        metric_name="mIoU", metric_value=round(about.score, 4),
    )]  # fmt: skip
    header = ModelCardData(
        license=license,
        library_name="fastseg",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", about.arch.partition("_")[0], about.arch, format],
        metrics=["mean_iou"],
        model_name=about.name,
        eval_results=results or None,
    )
    body = "\n\n".join(_body(about, file, format, checked, images, repository))
    return str(ModelCard(f"---\n{header.to_yaml()}\n---\n\n{body}\n"))


def _body(
    about: Description, file: Path, format: str, checked: list[Difference], images: str, repository: str | None
) -> Iterator[str]:
    averaged = " The weights are the moving average that the run evaluates." if about.averaged else ""
    architecture = ARCHITECTURES[about.arch]
    of_torchvision = "torchvision's " if architecture.torchvision else ""
    yield f"# {escape(about.name)}"
    yield (
        f"{of_torchvision}`{about.arch}` for semantic segmentation into {len(about.classes)} classes, trained by "
        f"fastseg {escape(about.version)}".rstrip()
        + f", on the data set {escape(about.dataset)}.{averaged}"
    )
    yield "## Score"
    if about.score is None:
        yield "These weights were not evaluated by the run that trained them."
    else:
        yield f"{100 * about.score:.2f} % mIoU on {about.images} images of the validation split, at full resolution."
    yield "## Use"
    if repository:
        yield f"```python\n{BY_FASTSEG.format(repository=repository)}\n```\n\nOr without fastseg:"
    mean, std = (", ".join(map(str, numbers)) for numbers in (about.mean, about.std))
    code = TORCHVISION if architecture.torchvision else OURS
    network = code["network"].format(arch=about.arch, classes=len(about.classes), aux=about.auxiliary)
    snippet = USE[format].format(file=json.dumps(file.name), mean=mean, std=std, **{**code, "network": network})
    yield f"```python\n{snippet}\n```"
    yield f"Compared with the checkpoint on {escape(images)}:"
    yield "\n".join(f"- {difference.describe()}" for difference in checked)
    yield "## Classes"
    yield "\n".join(_classes(about))
    yield "## Training"
    yield "\n".join(_training(about))
    yield "## Terms"
    yield CITYSCAPES_TERMS if about.label_ids else TERMS


def _classes(about: Description) -> Iterator[str]:
    label = about.label_ids is not None
    yield "| id |" + (" labelId |" if label else "") + " name | color (R, G, B) |"
    yield "|---|" + ("---|" if label else "") + "---|---|"
    for i, c in enumerate(about.classes):
        own = f" {about.label_ids[i]} |" if about.label_ids else ""
        yield f"| {i} |{own} {escape(c.name)} | {', '.join(map(str, c.color))} |"


def _training(about: Description) -> Iterator[str]:
    yield f"{about.step} steps ({about.epochs:.1f} epochs)."
    for part, settings in about.recipe.items():
        if isinstance(settings, dict):
            yield f"- {part}: " + escape(", ".join(f"{k} {json.dumps(v)}" for k, v in settings.items()))
        else:
            yield escape(f"- {part} {json.dumps(settings)}")
