"""The network against torchvision's own forward pass, and where its weights may come from."""

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model
from torchvision.transforms.functional import normalize

from fastseg.errors import UserError
from fastseg.model import deeplab
from fastseg.model.deeplab import IMAGENET_MEAN, IMAGENET_STD, DeepLab, load_weights, upsample

SMALL = "deeplabv3_mobilenet_v3_large"
RGB = IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randint(0, 256, (2, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("arch", [SMALL, "deeplabv3_resnet50"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_torchvision(arch: str, channels_last: bool, image: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = DeepLab(arch, 7, *RGB, aux=True, channels_last=channels_last)
    reference = get_model(arch, weights=None, weights_backbone=None, num_classes=7, aux_loss=True)
    reference.load_state_dict(model.net.state_dict())
    for module in (*model.modules(), *reference.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # what is dropped depends on the memory order
    pixels = normalize(image.permute(0, 3, 1, 2) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for training in (False, True):
        expected = reference.train(training)(pixels)
        logits = model.train(training)(image)
        torch.testing.assert_close(upsample(logits.out, (48, 64)), expected["out"], rtol=1e-3, atol=1e-3)
        if training:
            torch.testing.assert_close(upsample(logits.aux, (48, 64)), expected["aux"], rtol=1e-3, atol=1e-3)
        else:
            assert logits.aux is None


def state_of(model: torch.nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize(("arch", "backbone"), [(SMALL, "mobilenet_v3_large"), ("deeplabv3_resnet50", "resnet50")])
def test_loads_a_backbone(arch: str, backbone: str, tmp_path: Path) -> None:
    trained = get_model(backbone, weights=None)
    model = DeepLab(arch, 5, *RGB, aux=True)
    head = model.net.classifier[4].weight.clone()
    load_weights(model, arch, str(state_of(trained, tmp_path)))
    first = next(iter(trained.parameters()))
    assert torch.equal(next(iter(model.net.backbone.parameters())), first)
    loaded = [torch.equal(a, b) for a, b in zip(trained.parameters(), model.net.backbone.parameters(), strict=False)]
    assert all(loaded)
    assert torch.equal(model.net.classifier[4].weight, head)


def test_loads_a_network_of_other_classes_but_for_its_last_layers(tmp_path: Path) -> None:
    trained = get_model(SMALL, weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    model = DeepLab(SMALL, 5, *RGB, aux=True)
    load_weights(model, SMALL, str(state_of(trained, tmp_path)))
    assert torch.equal(model.net.classifier[1].weight, trained.classifier[1].weight)
    assert model.net.classifier[4].weight.shape[0] == 5


def test_loads_a_checkpoint_of_ours_with_what_it_was_fed(tmp_path: Path) -> None:
    trained = DeepLab(SMALL, 5, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), aux=True)
    document = {"model": trained.net.state_dict(), "ema": None, "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}
    torch.save(document, tmp_path / "last.pt")
    model = DeepLab(SMALL, 5, *RGB, aux=True)
    load_weights(model, SMALL, str(tmp_path / "last.pt"))
    assert model.mean.tolist() == [1.0, 2.0, 3.0]
    assert model.std.tolist() == [4.0, 5.0, 6.0]
    assert torch.equal(model.net.classifier[4].weight, trained.net.classifier[4].weight)


def test_loads_without_the_auxiliary_head(tmp_path: Path) -> None:
    trained = get_model(SMALL, weights=None, weights_backbone=None, num_classes=5, aux_loss=True)
    model = DeepLab(SMALL, 5, *RGB, aux=False)
    load_weights(model, SMALL, str(state_of(trained, tmp_path)))
    assert torch.equal(model.net.classifier[4].weight, trained.classifier[4].weight)


@pytest.mark.parametrize("weights", ["imagenet", "coco"])
@pytest.mark.usefixtures("offline")
def test_offline_gets_a_sentence(weights: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot download https://.*--model\.weights FILE"):
        load_weights(DeepLab(SMALL, 5, *RGB, aux=False), SMALL, weights)


def test_the_download_is_loaded_and_its_hash_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torchvision's own cache, filled by hand: the file name carries the hash of the content."""
    import hashlib

    from torchvision.models import MobileNet_V3_Large_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    trained = get_model("mobilenet_v3_large", weights=None)
    path = state_of(trained, tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    url = (tmp_path / f"mobilenet_v3_large-{digest}.pth").as_uri()
    path.rename(tmp_path / f"mobilenet_v3_large-{digest}.pth")
    weights = MobileNet_V3_Large_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights, "_value_", weights.value.__class__(url, weights.transforms, weights.meta))
    model = DeepLab(SMALL, 5, *RGB, aux=False)
    load_weights(model, SMALL, "imagenet")
    assert torch.equal(next(iter(model.net.backbone.parameters())), next(iter(trained.parameters())))

    wrong = (tmp_path / "mobilenet_v3_large-00000000.pth").as_uri()
    (tmp_path / "mobilenet_v3_large-00000000.pth").write_bytes(b"something else")
    monkeypatch.setattr(weights, "_value_", weights.value.__class__(wrong, weights.transforms, weights.meta))
    with pytest.raises(UserError, match="damaged"):
        load_weights(model, SMALL, "imagenet")


class Exploit:
    """Unpickled without care this would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_refuses_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = DeepLab(SMALL, 5, *RGB, aux=False)
    with pytest.raises(UserError, match="no file"):
        load_weights(model, SMALL, str(tmp_path / "none.pt"))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pt is not a file of weights \(no zip archive, 5 bytes\)"):
        load_weights(model, SMALL, str(tmp_path / "text.pt"))
    with pytest.raises(UserError, match="no file"):
        load_weights(model, SMALL, str(tmp_path / "text.pt/none.pt"))
    with pytest.raises(UserError, match="do not fit"):
        load_weights(model, SMALL, str(state_of(get_model("resnet50", weights=None), tmp_path)))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="no state dict"):
        load_weights(model, SMALL, str(tmp_path / "list.pt"))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"model": Exploit(tmp_path / "touched")}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="safely"):
        load_weights(model, SMALL, str(tmp_path / "evil.pt"))
    assert not (tmp_path / "touched").exists()


def test_pretrained_weights_are_fed_what_they_know() -> None:
    own = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert deeplab.normalization("none", *own) == own
    assert deeplab.normalization("coco", *own) == RGB
