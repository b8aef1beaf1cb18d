"""ASPP's dilated convolutions without the taps that read padding at every pixel, since their rate reaches past the map.

At rate r a tap beside the middle reads r pixels away; on a map no longer than r it only ever finds padding. Its rows
and columns are cut out of the kernel, 3×3 → 1×1, and their weights get the zero gradient that they get anyway.

Prediction: nothing at 768², where ResNet's map is 96 and MobileNetV3's 48 long and rates are 12, 24, 36. For crops of
288 and less (MobileNetV3: 576) the rate 36 keeps one tap of nine; at 256 MobileNetV3's map is 16 long, so that 11 taps
of 27 are left, and ASPP is two thirds of its arithmetic: up to 40 % less time if a library computes padding.

Source: Chen et al. 2017, arXiv 1706.05587, section 3.3: at large rates the 3×3 filter degenerates to a 1×1 filter.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPPConv

from bench.stages import Request
from bench.stages.compute import Ours
from fastseg.model.architectures import ARCHITECTURES

STAGE = "compute"
LARGEST_RATE = 36


def fits(request: Request) -> bool:
    """Return whether the map is no longer than the largest rate."""
    return min(request.crop) <= LARGEST_RATE * ARCHITECTURES[request.arch].stride


def apply(ours: Ours) -> None:
    """Replace the forward pass; modules and parameters stay the same."""
    cut_kernels(ours.state.model.net)


VARIANTS = {"live taps only": apply}


def cut_kernels(net: nn.Module) -> None:
    """Replace the forward pass of every dilated convolution of an ASPP."""
    for module in net.modules():
        if isinstance(module, ASPPConv):
            module[0].__class__ = LiveConv2d


class LiveConv2d(nn.Conv2d):
    """A 3×3 convolution padded by its dilation, without the rows and columns of its kernel that read only padding."""

    def forward(self, x: Tensor) -> Tensor:
        """Map N×C×H×W to N×C'×H×W."""
        (down, right), (height, width) = self.dilation, x.shape[2:]
        weight = self.weight
        weight = weight if down < height else weight[:, :, 1:2]
        weight = weight if right < width else weight[:, :, :, 1:2]
        padding = (down if down < height else 0, right if right < width else 0)
        return F.conv2d(x, weight, self.bias, padding=padding, dilation=self.dilation)
