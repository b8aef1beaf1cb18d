"""The step and the evaluation of the notebook project, which fastseg replaces (loicduchesne/SemanticSegmentation).

torchvision's DeepLabv3 in float32 and NCHW, Adam 1e-4, cross-entropy of the main output alone, torch's settings left as
they are, the loss shown after every step. As in fastseg, void is ignored, which the project trained as a 20th class.
Its auxiliary head, computed and never used, and nn.DataParallel, which does nothing on one GPU, are left out.
"""

from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import JaccardIndex
from torchvision.models import get_model
from torchvision.transforms.functional import normalize, to_tensor

from bench.runner.worker import Benchmark
from bench.stages.steps import CLASSES, Steps, first_device, normalized, synthetic_batch
from fastseg.labels import IGNORE
from fastseg.memory import peak_memory
from fastseg.training.flops import step_flops

NAME = "notebook"
REQUIRES = ("torchvision",)


class Step:
    """Network, loss and optimizer."""

    def __init__(self, arch: str, device: torch.device) -> None:
        self.model = get_model(arch, weights=None, weights_backbone=None, num_classes=CLASSES).to(device).train()
        self.criterion = nn.CrossEntropyLoss(ignore_index=IGNORE)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)

    def train(self, image: Tensor, label: Tensor) -> float:
        """Do one step on float32 N×3×H×W and int64 N×H×W; return the loss."""
        self.optimizer.zero_grad()
        loss = self.criterion(self.model(image)["out"], label)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())


def open_step(device: str, arch: str, crop: list[int], batch: int, precision: str) -> Steps:  # noqa: ARG001
    """Build the benchmark; ``precision`` is ignored, the project's is float32."""
    on, size = first_device(device), (crop[0], crop[1])
    step, (image, label) = Step(arch, on), normalized(*synthetic_batch(batch, size, on))
    flops = step_flops(arch, CLASSES, batch, size, aux=False)
    return Steps(lambda: step.train(image, label), batch, flops, on, "fp32")


class PngFrames(Dataset[tuple[Tensor, Tensor]]):
    """Whole frames by Pillow: normalized float32 3×H×W, int64 H×W."""

    def __init__(self, folder: Path) -> None:
        self.masks = sorted((folder / "masks").glob("*.png"))
        self.images = [folder / "images" / mask.name for mask in self.masks]

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = to_tensor(Image.open(self.images[index]).convert("RGB"))
        label = torch.from_numpy(np.array(Image.open(self.masks[index])))
        return normalize(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), label.long()


class Evaluation(Benchmark):
    """A benchmark: one batch of whole frames per step, cyclically."""

    def __init__(self, folder: Path, device: torch.device, arch: str, classes: int, batch: int, workers: int) -> None:
        self.model = get_model(arch, weights=None, weights_backbone=None, num_classes=classes).to(device).eval()
        self.metric = JaccardIndex(task="multiclass", num_classes=classes, ignore_index=IGNORE).to(device)
        self.device, self.warmup_steps = device, 2 * workers + 1 if device.type == "cuda" else 1
        self.loader = DataLoader(
            PngFrames(folder),
            batch,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )
        self._batches = self._endless()

    @torch.inference_mode()
    def step(self) -> int:
        """Predict and count one batch; return its number of frames."""
        image, label = (tensor.to(self.device, non_blocking=True) for tensor in next(self._batches))
        self.metric.update(self.model(image)["out"].argmax(1), label)
        return len(image)

    def figures(self) -> dict[str, float]:
        """Return the peak memory."""
        return {"peak_memory_bytes": peak_memory(self.device)}

    def close(self) -> None:
        """Stop the loader's workers."""
        self._batches.close()

    def _endless(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        while True:
            yield from self.loader


def open_evaluation(folder: str, device: str, arch: str, classes: int, batch: int, workers: int) -> Evaluation:
    """Build the evaluation; ``folder`` holds images and masks of train ids under the same names."""
    return Evaluation(Path(folder), first_device(device), arch, classes, batch, workers)
