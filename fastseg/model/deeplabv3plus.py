"""DeepLabv3+: DeepLabv3 with a decoder that sees features of stride 4, in which thin things are still visible.

Chen et al. 2018 (arXiv 1802.02611), on torchvision's ResNet-18 and its ASPP. As there, the decoder reduces the early
features to 48 channels and refines the joined ones by two 3×3 convolutions, and all convolutions behind the backbone
are depthwise separable.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import ASPP

RATES = (6, 12, 18)
"""Dilation of the ASPP's convolutions at stride 16, as in the paper."""
WIDTH = 128
"""Channels of ASPP and decoder, half of the paper's: the backbone has a quarter of its channels."""


class DeepLabV3Plus(nn.Module):
    """Backbone, ASPP and decoder: normalized images N×3×H×W to logits N×C×H×W."""

    def __init__(self, backbone: nn.Module, low: int, high: int, classes: int) -> None:
        """``backbone`` returns features of stride 4 as ``low`` and of stride 16 as ``out``, of so many channels."""
        super().__init__()
        self.backbone = backbone
        self.aspp = ASPP(high, RATES, WIDTH)
        for branch, rate in zip(self.aspp.convs[1:4], RATES, strict=True):
            branch[0] = _separable(high, WIDTH, rate)
        self.reduce = nn.Sequential(nn.Conv2d(low, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.classifier = nn.Sequential(
            *_refine(WIDTH + 48), *_refine(WIDTH), nn.Dropout(0.1), nn.Conv2d(WIDTH, classes, 1)
        )

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """Return the logits at stride 4, N×C×h×w, as ``out``."""
        features = self.backbone(images)
        low = self.reduce(features["low"])
        high = F.interpolate(self.aspp(features["out"]), low.shape[2:], mode="bilinear", align_corners=False)
        return {"out": self.classifier(torch.cat([high, low], 1))}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the logits in the images' size as ``out``."""
        logits = self.logits(images)["out"]
        return {"out": F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)}


def _separable(inputs: int, outputs: int, rate: int = 1) -> nn.Module:
    """Return a depthwise 3×3 convolution of that dilation and a pointwise one, a norm between them."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=rate, dilation=rate, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
    )


def _refine(inputs: int) -> list[nn.Module]:
    return [_separable(inputs, WIDTH), nn.BatchNorm2d(WIDTH), nn.ReLU()]


def build_resnet18(classes: int, aux: bool) -> DeepLabV3Plus:
    """Build it on ResNet-18 with fresh weights, the last stage dilated rather than strided."""
    del aux  # it has no such head
    net = get_model("resnet18", weights=None)
    convolutions = [module for module in net.layer4.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions:
        if convolution.stride == (2, 2):
            convolution.stride = (1, 1)
        elif convolution.kernel_size == (3, 3):
            convolution.dilation = convolution.padding = (2, 2)
    backbone = IntermediateLayerGetter(net, {"layer1": "low", "layer4": "out"})
    return DeepLabV3Plus(backbone, 64, 512, classes)
