"""Where the weights of a network may come from; tests/model/test_architectures.py has what each network loads."""

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from fastseg.errors import UserError
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork, normalization
from fastseg.model.pretrained import load_weights

SMALL = "deeplabv3_mobilenet_v3_large"
RGB = IMAGENET_MEAN, IMAGENET_STD


def state_of(model: torch.nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    return path


def test_loads_a_checkpoint_of_ours_with_what_it_was_fed(tmp_path: Path) -> None:
    trained = SegmentationNetwork(SMALL, 5, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), aux=True)
    document = {"model": trained.net.state_dict(), "ema": None, "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}
    torch.save(document, tmp_path / "last.pt")
    model = SegmentationNetwork(SMALL, 5, *RGB, aux=True)
    load_weights(model, str(tmp_path / "last.pt"))
    assert model.mean.tolist() == [1.0, 2.0, 3.0]
    assert model.std.tolist() == [4.0, 5.0, 6.0]
    assert torch.equal(model.net.classifier[4].weight, trained.net.classifier[4].weight)


def test_loads_without_the_auxiliary_head(tmp_path: Path) -> None:
    trained = get_model(SMALL, weights=None, weights_backbone=None, num_classes=5, aux_loss=True)
    model = SegmentationNetwork(SMALL, 5, *RGB, aux=False)
    load_weights(model, str(state_of(trained, tmp_path)))
    assert torch.equal(model.net.classifier[4].weight, trained.classifier[4].weight)


@pytest.mark.parametrize("weights", ["imagenet", "coco"])
@pytest.mark.usefixtures("offline")
def test_offline_gets_a_sentence(weights: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot download https://.*--model\.weights FILE"):
        load_weights(SegmentationNetwork(SMALL, 5, *RGB, aux=False), weights)


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
    model = SegmentationNetwork(SMALL, 5, *RGB, aux=False)
    load_weights(model, "imagenet")
    assert torch.equal(next(iter(model.net.backbone.parameters())), next(iter(trained.parameters())))

    wrong = (tmp_path / "mobilenet_v3_large-00000000.pth").as_uri()
    (tmp_path / "mobilenet_v3_large-00000000.pth").write_bytes(b"something else")
    monkeypatch.setattr(weights, "_value_", weights.value.__class__(wrong, weights.transforms, weights.meta))
    with pytest.raises(UserError, match="damaged"):
        load_weights(model, "imagenet")


class Exploit:
    """Unpickled without care this would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_refuses_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SegmentationNetwork(SMALL, 5, *RGB, aux=False)
    with pytest.raises(UserError, match="no file"):
        load_weights(model, str(tmp_path / "none.pt"))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pt is not a file of weights \(no zip archive, 5 bytes\)"):
        load_weights(model, str(tmp_path / "text.pt"))
    with pytest.raises(UserError, match="no file"):
        load_weights(model, str(tmp_path / "text.pt/none.pt"))
    with pytest.raises(UserError, match="do not fit"):
        load_weights(model, str(state_of(get_model("resnet50", weights=None), tmp_path)))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="no state dict"):
        load_weights(model, str(tmp_path / "list.pt"))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"model": Exploit(tmp_path / "touched")}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="safely"):
        load_weights(model, str(tmp_path / "evil.pt"))
    assert not (tmp_path / "touched").exists()


def test_pretrained_weights_are_fed_what_they_know() -> None:
    own = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert normalization("none", *own) == own
    assert normalization("coco", *own) == RGB
