"""The model card beside an exported network: what it is, how good, from what, on which terms."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fastseg.use.description import Description

CITYSCAPES_TERMS = """\
The classes are those of Cityscapes. If the network was trained on Cityscapes' images, their terms of use apply: the
data is for non-commercial use, such as research and teaching, and may not be passed on. What the terms mean for
weights trained on the data, this card cannot say: read them at https://www.cityscapes-dataset.com/license/ before you
publish or use the weights."""
TERMS = """\
What may be done with the weights depends on the terms of the images they were trained on, which this card does not
know."""


class Difference(NamedTuple):
    """How an exported network compared with its checkpoint on one batch."""

    shape: tuple[int, ...]
    """N, H, W."""
    largest: float
    """Of the differences between logits."""
    pixels: int
    """With another class."""

    def said(self) -> str:
        """In words."""
        n, height, width = self.shape
        return (
            f"{n} × {height}×{width} pixels: logits differ by {self.largest:.1e} at most, "
            f"{self.pixels} pixels by their class"
        )


USE = {
    "onnx": """\
import numpy as np, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("{file}")
image = np.asarray(Image.open("image.jpg").convert("RGB"))[None]  # uint8, 1×H×W×3
classes, logits = session.run(["classes", "logits"], {{"image": image}})  # uint8 1×H×W, float32 1×C×H×W
metadata = session.get_modelmeta().custom_metadata_map  # classes with their colours, recipe, score""",
    "torch-export": """\
import numpy as np, torch
from PIL import Image

metadata = {{"classes": "", "recipe": "", "score": ""}}
network = torch.export.load("{file}", extra_files=metadata).module()
image = torch.from_numpy(np.array(Image.open("image.jpg").convert("RGB")))[None]  # uint8, 1×H×W×3
classes, logits = network(image)  # uint8 1×H×W, float32 1×C×H×W; sides of 32 pixels at least""",
    "safetensors": """\
import torch
from safetensors.torch import load_file
from torchvision.io import ImageReadMode, read_image
from torchvision.models import get_model

state = load_file("{file}")
network = get_model("{arch}", weights=None, weights_backbone=None, num_classes={classes}, aux_loss={aux})
network.load_state_dict(state)
mean, std = torch.tensor([{mean}]).view(3, 1, 1), torch.tensor([{std}]).view(3, 1, 1)
image = (read_image("image.jpg", ImageReadMode.RGB) - mean) / std
classes = network.eval()(image[None])["out"].argmax(1)  # int64, 1×H×W""",
}


def model_card(
    about: Description, file: Path, format: str, checked: list[Difference], images: str, license: str
) -> str:
    """The text of a README.md as the Hugging Face hub reads it. ``images``: what the check was done on."""
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
        tags=["semantic-segmentation", "deeplabv3", about.arch, format],
        metrics=["mean_iou"],
        model_name=about.name,
        eval_results=results or None,
    )
    body = "\n\n".join(_body(about, file, format, checked, images))
    return str(ModelCard(f"---\n{header.to_yaml()}\n---\n\n{body}\n"))


def _body(about: Description, file: Path, format: str, checked: list[Difference], images: str) -> Iterator[str]:
    averaged = " The weights are the moving average that the run evaluates." if about.averaged else ""
    yield f"# {about.name}"
    yield (
        f"torchvision's `{about.arch}` for semantic segmentation into {len(about.classes)} classes, trained by "
        f"fastseg {about.version}".rstrip()
        + f", on the data set {about.dataset}.{averaged}"
    )
    yield "## Score"
    if about.score is None:
        yield "These weights were not evaluated by the run that trained them."
    else:
        yield f"{100 * about.score:.2f} % mIoU on {about.images} images of the validation split, at full resolution."
    yield "## Use"
    mean, std = (", ".join(map(str, numbers)) for numbers in (about.mean, about.std))
    snippet = USE[format].format(
        file=file.name, arch=about.arch, classes=len(about.classes), aux=about.auxiliary, mean=mean, std=std
    )
    yield f"```python\n{snippet}\n```"
    yield f"Compared with the checkpoint on {images}:"
    yield "\n".join(f"- {difference.said()}" for difference in checked)
    yield "## Classes"
    yield "\n".join(_classes(about))
    yield "## Training"
    yield "\n".join(_training(about))
    yield "## Terms"
    yield CITYSCAPES_TERMS if about.label_ids else TERMS


def _classes(about: Description) -> Iterator[str]:
    label = about.label_ids is not None
    yield "| id |" + (" labelId |" if label else "") + " name | colour (R, G, B) |"
    yield "|---|" + ("---|" if label else "") + "---|---|"
    for i, c in enumerate(about.classes):
        own = f" {about.label_ids[i]} |" if about.label_ids else ""
        name = c.name.replace("|", r"\|")  # would end the cell
        yield f"| {i} |{own} {name} | {', '.join(map(str, c.color))} |"


def _training(about: Description) -> Iterator[str]:
    yield f"{about.step} steps ({about.epochs:.1f} epochs)."
    for part, settings in about.recipe.items():
        if isinstance(settings, dict):
            yield f"- {part}: " + ", ".join(f"{k} {json.dumps(v)}" for k, v in settings.items())
        else:
            yield f"- {part} {json.dumps(settings)}"
