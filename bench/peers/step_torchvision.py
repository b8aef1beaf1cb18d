"""The step of torchvision's own training script, references/segmentation/train.py, with --amp and --aux-loss.

NCHW, SGD with momentum in torch's default form, the auxiliary head at ten times the learning rate and half the loss,
float16 with a loss scaler on a GPU, a polynomial schedule stepped and the loss logged in every step.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from bench.stages.steps import CLASSES, RATE, Steps, first_device, normalized, synthetic_batch
from fastseg.device import autocast, precision_of
from fastseg.labels import IGNORE
from fastseg.training.flops import step_flops

NAME = "torchvision reference"
REQUIRES = ("torchvision",)

TOTAL_STEPS = 80_000
"""Steps over which the learning rate falls."""


class Step:
    """Network, loss, optimizer, scaler and schedule."""

    def __init__(self, arch: str, device: torch.device, precision: str) -> None:
        self.device, self.precision = device, precision
        model = get_model(arch, weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
        self.model = model.to(device).train()
        groups: list[dict[str, Any]] = [
            {"params": list(model.backbone.parameters())},
            {"params": list(model.classifier.parameters())},
            {"params": list(model.aux_classifier.parameters()), "lr": RATE * 10},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=RATE, momentum=0.9, weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.PolynomialLR(self.optimizer, TOTAL_STEPS, power=0.9)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def train(self, image: Tensor, label: Tensor) -> float:
        """Do one step on float32 N×3×H×W and int64 N×H×W; return the loss."""
        with autocast(self.precision, self.device):
            output = self.model(image)
            losses = {key: nn.functional.cross_entropy(x, label, ignore_index=IGNORE) for key, x in output.items()}
            loss = losses["out"] + 0.5 * losses["aux"]
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return float(loss.item())


def open_step(device: str, arch: str, crop: list[int], batch: int, precision: str) -> Steps:
    """Build the benchmark; ``precision`` auto: the script's float16 on a GPU, the fastest one on a CPU."""
    torch.backends.cudnn.benchmark = True  # as the script does
    on, size = first_device(device), (crop[0], crop[1])
    if precision == "auto":
        precision = "fp16" if on.type == "cuda" else precision_of("auto", on)
    step, (image, label) = Step(arch, on, precision), normalized(*synthetic_batch(batch, size, on))
    flops = step_flops(arch, CLASSES, batch, size, aux=True)
    return Steps(lambda: step.train(image, label), batch, flops, on, precision)
