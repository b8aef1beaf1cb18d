"""Every network of the table: its parts are where the entry says, and it is torchvision's where it says so."""

import io
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.transforms.functional import normalize

from fastseg.config import WITHOUT_AUX, Arch, Config, ModelConfig, OptimConfig
from fastseg.deploy.export_formats import FORMATS, check_parity
from fastseg.deploy.export_target import OPSET
from fastseg.errors import UserError
from fastseg.labels import cityscapes
from fastseg.model import checkpoint, pretrained
from fastseg.model.architectures import ARCHITECTURES, OFFERED, Architecture
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork, restore_model, upsample
from fastseg.model.pretrained import load_weights
from fastseg.training.flops import run_flops

CLASSES = 3
SIZE = (48, 64)
RGB = IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> SegmentationNetwork:
    """Every network in turn, with all the heads that it can have."""
    torch.manual_seed(0)
    return SegmentationNetwork(request.param, CLASSES, *RGB, aux="aux" in ARCHITECTURES[request.param].heads)


@pytest.fixture
def entry(model: SegmentationNetwork) -> Architecture:
    return ARCHITECTURES[model.arch]


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randint(0, 256, (2, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def test_the_settings_name_every_network() -> None:
    """config.py, which must not import torch, repeats the table's names and which of them have no auxiliary head."""
    assert get_args(Arch) == OFFERED
    assert tuple(name for name in OFFERED if "aux" not in ARCHITECTURES[name].heads) == WITHOUT_AUX


def test_parts_are_where_the_entry_says(model: SegmentationNetwork, entry: Architecture) -> None:
    names = model.net.state_dict().keys()
    for part in (*entry.heads.values(), *entry.class_layers, entry.backbone):
        assert isinstance(model.net.get_submodule(part), nn.Module)
        assert any(name.startswith(f"{part}.") for name in names)
    assert entry.class_layers[0].startswith(f"{entry.heads['out']}.")
    for layer in entry.class_layers:
        assert len(model.net.get_submodule(layer).weight) == CLASSES
    assert entry.count_classes(model.net.state_dict()) == CLASSES
    assert entry.has_aux(names) == ("aux" in entry.heads)
    assert not entry.has_aux([name for name in names if name.startswith(entry.backbone)])


@pytest.mark.parametrize("training", [False, True])
def test_logits_have_the_stride(model: SegmentationNetwork, entry: Architecture, image: Tensor, training: bool) -> None:
    with torch.no_grad():
        logits = model.train(training)(image)
    assert logits.out.shape == (2, CLASSES, *(-(-side // entry.stride) for side in SIZE))
    assert (logits.aux is not None) == (training and "aux" in entry.heads)


@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_the_network_by_itself(
    model: SegmentationNetwork, entry: Architecture, image: Tensor, channels_last: bool
) -> None:
    """The same weights in torchvision's own network (or in the entry's alone), which upsamples by itself."""
    aux = "aux" in entry.heads
    ours = SegmentationNetwork(model.arch, CLASSES, *RGB, aux, channels_last)
    ours.load_state_dict(model.state_dict())
    reference = entry.build(CLASSES, aux)
    if entry.torchvision:
        reference = get_model(model.arch, weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=aux)
    reference.load_state_dict(model.net.state_dict())
    for module in (*ours.modules(), *reference.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # what is dropped depends on the memory order
    pixels = normalize(image.permute(0, 3, 1, 2) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        for training in (False, True):
            expected, logits = reference.train(training)(pixels), ours.train(training)(image)
            expected = expected if isinstance(expected, dict) else {"out": expected}
            torch.testing.assert_close(upsample(logits.out, SIZE), expected["out"], rtol=1e-3, atol=1e-3)
            if training and aux:
                torch.testing.assert_close(upsample(logits.aux, SIZE), expected["aux"], rtol=1e-3, atol=1e-3)


def test_a_checkpoint_restores_it(model: SegmentationNetwork, image: Tensor, tmp_path: Path) -> None:
    document = {
        **{"step": 1, "epoch": 1.0, "arch": model.arch, "model": model.net.state_dict(), "ema": None},
        **{"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD), "stretch_to": None, "shards": "", "versions": {}},
        **{"dataset": {}, "config": Config(model=ModelConfig(arch=model.arch)).to_dict()},
        "classes": checkpoint.pack_classes(cityscapes().classes[:CLASSES]),
    }
    checkpoint.save(tmp_path / "last.pt", document)
    restored = restore_model(checkpoint.load(tmp_path / "last.pt"))
    assert restored.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(restored(image).out, model.eval()(image).out)


def test_weights_of_other_classes_fill_all_but_the_class_layers(
    model: SegmentationNetwork, entry: Architecture, tmp_path: Path
) -> None:
    trained = entry.build(21, "aux" in entry.heads)
    torch.save(trained.state_dict(), tmp_path / "coco.pth")
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    load_weights(model, str(tmp_path / "coco.pth"))
    for name, value in model.net.state_dict().items():
        fresh = name.startswith(tuple(f"{layer}." for layer in entry.class_layers))
        assert torch.equal(value, before[name] if fresh else trained.state_dict()[name]), name


def test_pretrained_weights_fill_what_they_are_for(
    model: SegmentationNetwork, entry: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that torchvision has are asked for by their name; of a classification network the backbone is filled."""
    last = model.net.get_submodule(entry.class_layers[0])
    for offered, name in (entry.pretrained or {}).items():
        assert len(list(get_model_weights(name))) >= 1
        trained = get_model(name, weights=None, **({} if offered == "imagenet" else {"weights_backbone": None}))
        asked: list[str] = []
        state = trained.state_dict()
        monkeypatch.setattr(
            pretrained, "download_weights", lambda name, _, asked=asked, state=state: [asked.append(name), state][1]
        )
        head = last.weight.clone()
        load_weights(model, offered)
        assert asked == [name]
        theirs = iter(trained.parameters())
        for ours in model.net.get_submodule(entry.backbone).parameters():
            assert torch.equal(ours, next(theirs))
        assert torch.equal(last.weight, head)


def test_weights_of_another_network_are_refused(model: SegmentationNetwork, tmp_path: Path) -> None:
    other = "fcn_resnet50" if model.arch.endswith("mobilenet_v3_large") else "lraspp_mobilenet_v3_large"
    buffer = io.BytesIO()
    torch.save(ARCHITECTURES[other].build(CLASSES, False).state_dict(), buffer)
    (tmp_path / "other.pth").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"do not fit this network: .*check --model\.arch"):
        load_weights(model, str(tmp_path / "other.pth"))


def test_a_network_without_pretrained_weights_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = "lraspp_mobilenet_v3_large"
    monkeypatch.setitem(ARCHITECTURES, arch, replace(ARCHITECTURES[arch], pretrained=None))
    with pytest.raises(UserError, match=r"--model\.weights is coco, and there are no such .*; it takes none or a file"):
        load_weights(SegmentationNetwork(arch, CLASSES, *RGB, False), "coco")


def test_operations_are_counted(model: SegmentationNetwork) -> None:
    base = Config(model=ModelConfig(arch=model.arch))
    one, other = (
        run_flops(replace(base, data=replace(base.data, batch=batch, crop=SIZE)), CLASSES) for batch in (2, 4)
    )
    assert 0 < 2 * one == other


def test_safetensors_hold_it(model: SegmentationNetwork, tmp_path: Path) -> None:
    """Written, read into the network without our parts, and compared, as fastseg-export does."""
    said = {"arch": model.arch, **{k: " ".join(map(repr, v)) for k, v in zip(("mean", "std"), RGB, strict=True)}}
    FORMATS["safetensors"].write(model.eval(), tmp_path / "x", said, OPSET)
    frames = torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8).numpy()
    assert check_parity(model, FORMATS["safetensors"].read(tmp_path / "x"), [frames], "x")[0].shape == (1, *SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch-export"])
@pytest.mark.parametrize("arch", ["lraspp_mobilenet_v3_large", "fcn_resnet50"])
def test_exports_of_other_networks(arch: str, to: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SegmentationNetwork(arch, CLASSES, *RGB, False).eval()
    FORMATS[to].write(model, tmp_path / "x", {"arch": arch}, OPSET)
    shapes = (1, *SIZE), (2, 65, 91)
    frames = [torch.randint(0, 256, (*shape, 3), dtype=torch.uint8).numpy() for shape in shapes]
    assert [d.shape for d in check_parity(model, FORMATS[to].read(tmp_path / "x"), frames, "x")] == list(shapes)


@pytest.mark.parametrize("arch", WITHOUT_AUX)
def test_a_head_that_a_network_has_not_is_refused(arch: str) -> None:
    model = ModelConfig(arch=arch)
    assert Config(model=model).aux_weight == 0
    assert Config(model=model, optim=OptimConfig(aux=0.0)).aux_weight == 0
    assert Config().aux_weight == 0.4
    assert Config(optim=OptimConfig(aux=0.0)).aux_weight == 0
    with pytest.raises(UserError, match=rf"^--optim\.aux is 0\.4; it must be 0 or left out: {arch} has no auxiliary"):
        Config(model=model, optim=OptimConfig(aux=0.4))
