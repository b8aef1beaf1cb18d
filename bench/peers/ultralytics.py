"""Ultralytics' loader of semantic segmentation: its dataset and its endless DataLoader, OpenCV augments in a transform.

Its own augmentations cannot be told which window to show, so that OpenCV stands in for them; mosaic is left out, and
with it the memory of decoded images that it draws from. See _opencv.py: its images are not antialiased.

It is AGPL-3.0 and brings many packages: install it in another environment, with fastseg's requirements, and name that
environment's Python in FASTSEG_BENCH_ULTRALYTICS_PYTHON.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.peers import by_workers, nothing
from bench.stages.frames import Draw, Frames, Work

if TYPE_CHECKING:
    from torch import Tensor

NAME = "Ultralytics"
REQUIRES = ("ultralytics", "opencv-python-headless")
candidates = by_workers
prepare = nothing
PREFETCH = 4
"""Finished batches that each of its workers holds."""
ENVIRONMENT = "FASTSEG_BENCH_ULTRALYTICS_PYTHON"


def batches(frames: Frames, work: Work, workers: int) -> Iterator[tuple["Tensor", "Tensor"]]:
    """Yield endless uint8 N×3×H×W images and int32 N×H×W labels."""
    os.environ.setdefault("YOLO_AUTOINSTALL", "False")  # It would install what it misses.
    from ultralytics.data.build import build_dataloader
    from ultralytics.data.dataset import SemanticDataset, YOLOConcatDataset

    from bench.peers._samples import hand_over

    # At its own size no frame is resized after decoding.
    own = {"imgsz": max(frames.about["size"]), "augment": False}
    data = {"names": dict(enumerate(map(str, range(frames.about["classes"])))), "masks_dir": "masks"}
    dataset = SemanticDataset(str(frames.plain / "train/images"), **own, data=data)
    dataset.transforms = _transforms(work)
    # It takes no more workers than an epoch has batches.
    many = YOLOConcatDataset([dataset] * (2 * workers * work.batch))
    loader = build_dataloader(many, work.batch, workers, drop_last=True, device=work.device)
    try:
        while True:
            yield from hand_over(((batch["img"], batch["semantic_mask"]) for batch in loader), work)
    finally:
        loader.close()


def sample(image: bytes, mask: bytes, draw: Draw, work: Work) -> tuple["Tensor", "Tensor"]:
    """Decode and augment one sample as its dataset does: uint8 3×h×w and int32 h×w."""
    from bench.peers._colors import opencv
    from bench.peers._opencv import decode

    frame, labels = decode(image, opencv().IMREAD_COLOR), decode(mask, opencv().IMREAD_ANYDEPTH)
    made = _transforms(work, draw)({"img": frame, "semantic_mask": labels})
    return made["img"], made["semantic_mask"]


def _transforms(work: Work, draw: Draw | None = None) -> Any:
    """Return what its dataset does after decoding: a crop instead of its augmentations, then its own last step."""
    from ultralytics.data.augment import Compose, SemanticFormat

    return Compose([_Crop(work, draw), SemanticFormat()])


class _Crop:
    """Show a window of a sample whose image is in the order B, G, R."""

    def __init__(self, work: Work, draw: Draw | None) -> None:
        self.work, self.draw = replace(work, fill=work.fill[::-1]), draw

    def __call__(self, labels: dict[str, Any]) -> dict[str, Any]:
        from bench.peers import _opencv
        from bench.peers._samples import own_numbers

        frame = labels["img"]
        drawn = (self.draw or self.work.draw(own_numbers(self.work.seed)))(frame.shape[:2])
        if drawn.colors is not None:
            drawn = drawn._replace(colors=drawn.colors[::-1][:, [2, 1, 0, 3]])
        windows = _opencv.cut(frame, drawn.window), _opencv.cut(labels["semantic_mask"], drawn.window)
        image, mask = _opencv.finish(*windows, drawn, self.work)
        return labels | {"img": image.numpy(), "semantic_mask": mask.numpy()}
