"""Dilated bottlenecks on a folded map: a pixel's neighbors at distance d become neighbors at distance 1.

N×C×H×W becomes (N·d²)×C×H/d×W/d, every image holding the pixels of one remainder modulo d both ways. There a 3×3
convolution of dilation d is one of dilation 1, zeros at the border included; 1×1 convolutions and batch norm see the
same elements. Runs of bottlenecks with one dilation are folded once, if the map's sides divide by d.

Prediction: ResNet-50 has five such convolutions of 256 channels in layer 3 and three of 512 in layer 4, 1.5 TFLOP
forward and 4.4 of the step's 18.7 with gradients: 7.4 ms at 600 TFLOP/s, 14.8 at the 300 that cuDNN reaches if dilation
costs it half. Folding copies maps of 1024 to 2048 channels six times forward and back, 2.7 GB each way to read and
write together: 1.6 ms. So 15 % faster in the one case, 4 % slower where dilation is free; MobileNetV3's only dilated
blocks average over the whole image inside (squeeze and excitation), which folding would tear apart.

Source: TensorFlow's first atrous convolutions (``tf.nn.atrous_conv2d``: space_to_batch, conv2d, batch_to_space).
"""

from collections.abc import Iterator
from itertools import groupby

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from bench.stages import Request
from bench.stages.compute import Ours

STRIDE = 8
"""Stride of the maps in layers 3 and 4."""


def fits(request: Request) -> bool:
    """Return whether it is a ResNet, on any device."""
    return "resnet" in request.arch and all(side(length) % 2 == 0 for length in request.crop)


def apply(ours: Ours) -> None:
    """Fold the dilated runs of the network's backbone whose dilations divide the crop's maps."""
    height, width = ours.config.data.crop
    for layer in ours.state.model.net.backbone.values():
        if isinstance(layer, nn.Sequential):
            fold_runs(layer, side(height), side(width))


def side(length: int) -> int:
    """Return the side of the map of a crop's side ``length``."""
    return -(-length // STRIDE)


def fold_runs(layer: nn.Sequential, height: int, width: int) -> None:
    """Fold the dilated runs of a layer whose maps are height×width, if those divide; parameters do not change."""
    for dilation, blocks in _runs(layer):
        if dilation > 1 and height % dilation == width % dilation == 0:
            for block in blocks:
                block.conv2.dilation = block.conv2.padding = (1, 1)
            blocks[0].register_forward_pre_hook(lambda _block, given, d=dilation: (fold(given[0], d),))
            blocks[-1].register_forward_hook(lambda _block, _given, found, d=dilation: unfold(found, d))


def _runs(layer: nn.Sequential) -> Iterator[tuple[int, list[Bottleneck]]]:
    blocks = [block for block in layer if isinstance(block, Bottleneck) and block.stride == 1]
    for dilation, run in groupby(blocks, lambda block: int(block.conv2.dilation[0])):
        yield dilation, list(run)


def fold(x: Tensor, d: int) -> Tensor:
    """Map N×C×H×W to (d·d·N)×C×H/d×W/d, channels-last."""
    n, c, h, w = x.shape
    parts = x.permute(0, 2, 3, 1).reshape(n, h // d, d, w // d, d, c).permute(2, 4, 0, 1, 3, 5)
    return parts.reshape(d * d * n, h // d, w // d, c).permute(0, 3, 1, 2)


def unfold(x: Tensor, d: int) -> Tensor:
    """Undo :func:`fold`."""
    folded, c, h, w = x.shape
    n = folded // (d * d)
    parts = x.permute(0, 2, 3, 1).reshape(d, d, n, h, w, c).permute(2, 3, 0, 4, 1, 5)
    return parts.reshape(n, h * d, w * d, c).permute(0, 3, 1, 2)
