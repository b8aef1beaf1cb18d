"""Files of weights as people have them: wrapped, prefixed, of mmsegmentation; what does not fit is named.

mmsegmentation is not needed: its network is written down here again, in the names and with the strides, dilations and
widths of its configurations, and gives the features and logits that ours must give with its weights.
"""

import argparse
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from fastseg.errors import UserError
from fastseg.model import match_weights
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fastseg.model.pretrained import load_weights

SMALL, R50 = "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50"
RGB = IMAGENET_MEAN, IMAGENET_STD
CLASSES = 5

State = dict[str, Tensor]


class Theirs(nn.Module):
    """mmsegmentation's ``deeplabv3_r50b-d8``, or with ``deep_stem`` its ``deeplabv3_r50-d8``, but for the main head's
    forward pass."""

    def __init__(self, classes: int, deep_stem: bool = False, contract: bool = True) -> None:
        super().__init__()
        self.backbone = backbone = nn.Module()
        if deep_stem:
            widths = ((3, 32, 2), (32, 32, 1), (32, 64, 1))
            backbone.stem = nn.Sequential(*(m for w in widths for m in (*conv_bn(*w[:2], 3, w[2]), nn.ReLU())))
        else:
            backbone.conv1, backbone.bn1 = conv_bn(3, 64, 7, 2)
        channels = 64
        for i, (blocks, stride, dilation) in enumerate(zip((3, 4, 6, 3), (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
            first = dilation // 2 if contract and dilation > 1 else dilation
            stage = [Block(channels, 64 << i, stride, first)]
            channels = 256 << i
            stage += [Block(channels, 64 << i, 1, dilation) for _ in range(blocks - 1)]
            backbone.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.decode_head = Aspp(classes)
        self.auxiliary_head = nn.Module()
        self.auxiliary_head.convs = nn.Sequential(module(1024, 256, 3))
        self.auxiliary_head.conv_seg = nn.Conv2d(256, classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of the last layer and the auxiliary logits, at an eighth of the size."""
        b = self.backbone
        x = b.stem(x) if hasattr(b, "stem") else b.bn1(b.conv1(x)).relu()
        third = b.layer3(b.layer2(b.layer1(nn.functional.max_pool2d(x, 3, 2, 1))))
        aux = self.auxiliary_head
        return b.layer4(third), aux.conv_seg(aux.convs[0].bn(aux.convs[0].conv(third)).relu())


class Block(nn.Module):
    """The bottleneck of ``style='pytorch'``: the 3×3 convolution has the stride and the dilation."""

    def __init__(self, channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(channels, width, 1)
        self.conv2, self.bn2 = conv_bn(width, width, 3, stride, dilation)
        self.conv3, self.bn3 = conv_bn(width, 4 * width, 1)
        changes = stride > 1 or channels != 4 * width
        self.downsample = nn.Sequential(*conv_bn(channels, 4 * width, 1, stride)) if changes else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


class Aspp(nn.Module):
    """The tensors of ``ASPPHead``."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.image_pool = nn.Sequential(nn.Identity(), module(2048, 512, 1))
        self.aspp_modules = nn.ModuleList(module(2048, 512, 1 if i == 0 else 3) for i in range(4))
        self.bottleneck = module(2560, 512, 3)
        self.conv_seg = nn.Conv2d(512, classes, 1)


def conv_bn(channels: int, out: int, size: int, stride: int = 1, dilation: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    padding = size // 2 * dilation
    return nn.Conv2d(channels, out, size, stride, padding, dilation, bias=False), nn.BatchNorm2d(out)


def module(channels: int, out: int, size: int) -> nn.Module:
    both = nn.Module()
    both.conv, both.bn = conv_bn(channels, out, size)
    return both


def trained(net: nn.Module) -> nn.Module:
    """Give the batch norms values as after training, so that a layer left out or exchanged shows."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_var, 0.5, 1.5)
            nn.init.uniform_(m.weight, 0.5, 1.0)
            for value in (m.running_mean, m.bias):
                nn.init.normal_(value, std=0.1)
    return net.eval()


def features(model: SegmentationNetwork, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        maps = model.eval().net.backbone(x)
        return maps["out"], model.net.aux_classifier(maps["aux"])


def write(folder: Path, document: Any, name: str = "theirs.pth") -> str:
    torch.save(document, folder / name)
    return str(folder / name)


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(2, 3, 97, 129, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    torch.manual_seed(2)
    net = trained(Theirs(CLASSES))
    assert isinstance(net, Theirs)
    return net


@pytest.fixture(scope="module")
def small() -> State:
    torch.manual_seed(3)
    return dict(get_model(SMALL, weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True).state_dict())


@pytest.fixture
def model() -> SegmentationNetwork:
    return SegmentationNetwork(SMALL, CLASSES, *RGB, aux=True)


def test_mmsegmentation_gives_its_features_and_auxiliary_logits(theirs: Theirs, image: Tensor, tmp_path: Path) -> None:
    meta = {"mmseg_version": "0.30.0", "CLASSES": ("road", "car"), "PALETTE": [[1, 2, 3]], "iter": 80000}
    path = write(tmp_path, {"meta": meta, "state_dict": theirs.state_dict(), "optimizer": {"state": {}}})
    model = SegmentationNetwork(R50, CLASSES, *RGB, aux=True, channels_last=False)
    head = model.net.classifier[4].weight.clone()
    said = load_weights(model, path)
    count = len(theirs.state_dict())
    assert said == (
        f"took 326 of {count} tensors of {path}: backbone, auxiliary head; "
        "starting anew: main head (ASPP has 512 channels there, 256 here)"
    )
    with torch.no_grad():
        expected = theirs(image)
    for ours, reference in zip(features(model, image), expected, strict=True):
        assert ours.shape == reference.shape
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5 * float(reference.abs().max()))
    assert torch.equal(model.net.classifier[4].weight, head)


def test_the_features_tell_dilations_apart(theirs: Theirs, image: Tensor) -> None:
    """What the test above holds would not hold if the first blocks of layers 3 and 4 were dilated in full."""
    other = Theirs(CLASSES, contract=False).eval()
    other.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        (one, _), (two, _) = theirs(image), other(image)
    assert one.shape == two.shape
    assert float((one - two).abs().max()) > 0.05 * float(one.abs().max())


def test_mmsegmentation_of_other_classes_without_an_auxiliary_head(theirs: Theirs, tmp_path: Path) -> None:
    path = write(tmp_path, {"state_dict": theirs.state_dict()})
    model = SegmentationNetwork(R50, 3, *RGB, aux=True)
    assert load_weights(model, path).endswith("here), class layers (5 classes there, 3 here)")
    assert torch.equal(model.net.aux_classifier[0].weight, theirs.auxiliary_head.convs[0].conv.weight)
    model = SegmentationNetwork(R50, 3, *RGB, aux=False)
    assert "backbone; starting anew: main head (ASPP" in load_weights(model, path)
    assert torch.equal(model.net.backbone.conv1.weight, theirs.backbone.conv1.weight)


def test_mmsegmentations_deep_stem_starts_anew_and_is_said(tmp_path: Path) -> None:
    state = Theirs(CLASSES, deep_stem=True).state_dict()
    model = SegmentationNetwork(R50, CLASSES, *RGB, aux=True)
    fresh = model.net.backbone.conv1.weight.clone()
    said = load_weights(model, write(tmp_path, {"state_dict": state}))
    assert "starting anew: stem (three 3×3 convolutions there, one of 7×7 here: what follows it sees" in said
    assert "main head (ASPP has 512 channels there, 256 here)" in said
    assert torch.equal(model.net.backbone.conv1.weight, fresh)
    assert torch.equal(model.net.backbone.layer4[2].conv3.weight, state["backbone.layer4.2.conv3.weight"])


def test_mmsegmentations_other_heads_start_anew(theirs: Theirs, tmp_path: Path) -> None:
    """PSPNet's main head, and an auxiliary head of two convolutions."""
    state = {name: v for name, v in theirs.state_dict().items() if not name.startswith("decode_head.")}
    state |= {"decode_head.psp_modules.0.1.conv.weight": torch.zeros(4, 8, 1, 1)}
    state |= {"auxiliary_head.convs.1.conv.weight": torch.zeros(4, 8, 1, 1)}
    said = load_weights(SegmentationNetwork(R50, CLASSES, *RGB, aux=True), write(tmp_path, {"state_dict": state}))
    assert said.endswith(": backbone; starting anew: main head (another one there), auxiliary head (another one there)")


def test_another_backbone_of_mmsegmentations_is_refused(theirs: Theirs, tmp_path: Path) -> None:
    state = theirs.state_dict() | {"neck.conv.weight": torch.zeros(4)}
    with pytest.raises(UserError, match=r"the network has no 'neck\.conv\.weight'; check --model\.arch"):
        load_weights(SegmentationNetwork(R50, CLASSES, *RGB, aux=True), write(tmp_path, {"state_dict": state}))
    path = write(tmp_path, {"state_dict": theirs.state_dict()})
    sentence = r"backbone\.layer3\.6\.conv1\.weight \(and \d+ more\) is not in it; check .*: deeplabv3_resnet50 takes"
    with pytest.raises(UserError, match=sentence):
        load_weights(SegmentationNetwork("deeplabv3_resnet101", CLASSES, *RGB, aux=True), path)


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        *((key, "module.") for key in (None, "model", "model_state_dict")),
        *(
            ("state_dict", prefix)
            for prefix in ("", "model.", "net.", "_orig_mod.", "model._orig_mod.", "module.model.")
        ),
    ],
)
def test_wrappers_and_prefixes(
    key: str | None, prefix: str, small: State, model: SegmentationNetwork, tmp_path: Path
) -> None:
    state = OrderedDict((f"{prefix}{name}", value) for name, value in small.items())
    path = write(tmp_path, state if key is None else {key: state, "epoch": 3, "optimizer": {"state": {}}})
    names = f", their names without {prefix!r}" if prefix else ""
    assert load_weights(model, path) == (
        f"took {len(small)} of {len(small)} tensors of {path}{names}: backbone, main head, auxiliary head"
    )
    assert all(torch.equal(value, small[name]) for name, value in model.net.state_dict().items())


def test_a_backbone_with_a_prefix(model: SegmentationNetwork, tmp_path: Path) -> None:
    net = get_model("mobilenet_v3_large", weights=None)
    said = load_weights(model, write(tmp_path, nn.DataParallel(net).state_dict()))
    assert "their names without 'module.': backbone; starting anew: main head (none there), aux" in said
    first = model.net.backbone["0"][0].weight
    assert torch.equal(first, net.features[0][0].weight)


def test_what_is_left_over_is_refused_by_name(small: State, model: SegmentationNetwork, tmp_path: Path) -> None:
    more = {f"criterion.{i}": torch.zeros(2) for i in range(5)}
    sentence = (
        r"do not fit this network: the network has no 'criterion\.0', 'criterion\.1', 'criterion\.2' \(and 2 more\)"
    )
    with pytest.raises(UserError, match=sentence):
        load_weights(model, write(tmp_path, small | more))
    twice = small | {f"module.{name}": value for name, value in small.items()}
    with pytest.raises(UserError, match=r"of one name with and without 'module\.'; save the network"):
        load_weights(model, write(tmp_path, twice))


def test_what_is_missing_and_what_has_another_shape_is_named(
    small: State, model: SegmentationNetwork, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    name = "classifier.1.weight"
    with pytest.raises(UserError, match=rf"{re.escape(name)} is not in it; check --model\.arch, and that"):
        load_weights(model, write(tmp_path, {n: v for n, v in small.items() if n != name}))
    shapes = r"has the shape \(4, 256, 3, 3\) there, \(256, 256, 3, 3\) here; check"
    with pytest.raises(UserError, match=shapes):
        load_weights(model, write(tmp_path, small | {name: torch.zeros(4, 256, 3, 3)}))
    for odd in (torch.tensor(1.0), torch.zeros(0), torch.zeros(CLASSES, 7, 1, 1)):
        with pytest.raises(UserError, match=r"classifier\.4\.weight has the shape"):
            load_weights(model, write(tmp_path, small | {"classifier.4.weight": odd}))
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())


def test_the_network_that_takes_the_weights_is_named(tmp_path: Path, model: SegmentationNetwork) -> None:
    path = write(tmp_path, get_model("resnet50", weights=None).state_dict())
    with pytest.raises(UserError, match=r"check --model\.arch: deeplabv3_resnet50 takes them$"):
        load_weights(model, path)


class Exploit:
    """Unpickled without care this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


class HistoryBuffer:
    """What mmengine's runner leaves in every checkpoint: curves as numpy arrays, and functions."""

    def __init__(self, inside: object = None) -> None:
        self._log_history = np.array([0.5, 0.25])
        self._statistics_methods = {"min": HistoryBuffer.min}
        self.inside = inside

    def min(self) -> float:
        return float(self._log_history.min())


@pytest.fixture
def mmengine(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mmengine.logging.history_buffer"
    monkeypatch.setattr(HistoryBuffer, "__module__", name)
    found = ModuleType(name)
    found.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for parent in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, found)


@pytest.mark.usefixtures("mmengine")
@pytest.mark.parametrize("new_format", [True, False])
def test_curves_and_command_lines_beside_the_weights_are_passed_over(
    small: State, model: SegmentationNetwork, tmp_path: Path, new_format: bool
) -> None:
    hub = {"log_scalars": OrderedDict(loss=HistoryBuffer()), "best": np.float64(0.7)}
    document = {"state_dict": small, "message_hub": hub, "args": argparse.Namespace(lr=0.1)}
    torch.save(document, tmp_path / "iter.pth", _use_new_zipfile_serialization=new_format)
    assert load_weights(model, str(tmp_path / "iter.pth")).startswith(f"took {len(small)} of {len(small)} tensors")
    assert torch.equal(model.net.classifier[4].weight, small["classifier.4.weight"])


@pytest.mark.usefixtures("mmengine")
def test_other_code_in_it_is_named_and_not_run(
    small: State, model: SegmentationNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    exploit = Exploit(tmp_path / "touched")
    sentence = (
        r"theirs\.pth is not a file of weights that can be loaded safely: it holds pathlib\.[\w.]+ besides "
        r".*: torch\.save\(model\.state_dict\(\), FILE\)$"
    )
    for inside in (exploit, HistoryBuffer(exploit), argparse.Namespace(a=exploit), np.array([exploit], object)):
        with pytest.raises(UserError, match=sentence):
            load_weights(model, write(tmp_path, {"state_dict": small, "meta": inside}))
    assert not (tmp_path / "touched").exists()
    with pytest.raises(UserError, match=r"holds no state dict but <a _Ignored> as 'classifier\.4\.weight'"):
        load_weights(model, write(tmp_path, small | {"classifier.4.weight": np.float64(1)}))


def test_names_made_to_take_long_are_refused(small: State, model: SegmentationNetwork, tmp_path: Path) -> None:
    deep = {"module." * 100_000 + name: value for name, value in list(small.items())[:2]}
    with pytest.raises(UserError, match="do not fit this network") as raised:
        load_weights(model, write(tmp_path, deep))
    assert len(str(raised.value)) < 700


def test_every_network_that_takes_weights_is_found(small: State) -> None:
    assert match_weights.find_arch(small, R50) == SMALL
    assert match_weights.find_arch({"w": torch.zeros(1)}, R50) is None
