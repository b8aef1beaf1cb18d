"""The untuned network: torchvision's own loading code on weights made here, VOC's classes as those of a set."""

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from fastseg.errors import UserError
from fastseg.evaluation.baseline import Baseline, counterparts
from fastseg.labels import cityscapes

SMALL = "deeplabv3_mobilenet_v3_large"
WEIGHTS = get_model_weights(SMALL).DEFAULT
VOC = WEIGHTS.meta["categories"]
CITYSCAPES = [c.name for c in cityscapes().classes]


def matched(names: list[str]) -> dict[str, str]:
    return {VOC[match.voc]: names[match.train_id] for match in counterparts(VOC, names)}


def test_the_classes_of_cityscapes() -> None:
    assert matched(CITYSCAPES) == {
        "bicycle": "bicycle",
        "bus": "bus",
        "car": "car",
        "motorbike": "motorcycle",
        "person": "person",
        "train": "train",
    }


def test_classes_are_found_by_name_whatever_its_spelling() -> None:
    assert matched(["sky", "car", "pedestrian", "bicyclist"]) == {"car": "car", "person": "pedestrian"}
    assert matched(["Potted_Plant", "TV monitor", "Dining-Table"]) == {
        "pottedplant": "Potted_Plant",
        "tvmonitor": "TV monitor",
        "diningtable": "Dining-Table",
    }
    assert matched(["pedestrian", "Person"]) == {"person": "Person"}  # VOC's own name goes first
    assert matched(["background", "road"]) == {}


def frames() -> torch.Tensor:
    return torch.randint(0, 256, (2, 64, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalized(image: torch.Tensor) -> torch.Tensor:
    """As torchvision's own preset does it, but for the size."""
    return WEIGHTS.transforms(resize_size=None)(image.permute(0, 3, 1, 2))


def _speak_of_everything(network: torch.nn.Module) -> None:
    """Statistics of noise, and every class its share of the pixels."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(normalized(frames()))
        logits = network.eval()(normalized(frames()))["out"].transpose(0, 1).flatten(1)
        head = network.classifier[4]
        head.bias.copy_((head.bias - logits.mean(1)) / logits.std(1))
        head.weight.div_(logits.std(1).view(-1, 1, 1, 1))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """torchvision's network with weights made here."""
    torch.manual_seed(0)
    network = get_model(SMALL, weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    _speak_of_everything(network)
    return network.eval()


@pytest.fixture
def cache(network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Those weights where torchvision's cache has what it downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub/checkpoints" / Path(WEIGHTS.url).name
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)
    return file


@pytest.mark.usefixtures("cache")
def test_predicts_what_torchvision_does_in_the_sets_ids(network: torch.nn.Module) -> None:
    baseline = Baseline(SMALL, CITYSCAPES).to(torch.device("cpu"))
    assert baseline.name == f"{SMALL}, COCO_WITH_VOC_LABELS_V1"
    image = frames()
    with torch.inference_mode():
        voc = network(normalized(image))["out"].argmax(1)
    prediction = baseline.predict(image)
    assert prediction.dtype == torch.uint8
    known = {"bicycle": 18, "bus": 15, "car": 13, "motorbike": 17, "person": 11, "train": 16}
    expected = torch.tensor([known.get(name, 19) for name in VOC])[voc]
    # Two ways to the same logits may break a tie differently.
    assert (prediction == expected).float().mean() > 0.999
    assert len(voc.unique()) > 8  # the agreement is about something


@pytest.mark.usefixtures("offline")
def test_weights_that_are_not_there_or_damaged_get_a_sentence(cache: Path) -> None:
    state = torch.load(cache, weights_only=True)
    state["classifier.4.weight"] = state["classifier.4.weight"][:5]
    torch.save(state, cache)
    with pytest.raises(UserError, match=r"fc3c493d\.pth is damaged .*classifier\.4\.weight"):
        Baseline(SMALL, CITYSCAPES)
    with pytest.raises(UserError, match=r"none of the set's classes \(sky, road, …\) is among .*aeroplane"):
        Baseline(SMALL, ["sky", "road"])
    cache.write_bytes(b"no weights at all")
    with pytest.raises(UserError, match=f"is damaged .*; remove {cache} and try again"):
        Baseline(SMALL, CITYSCAPES)
    cache.unlink()
    with pytest.raises(UserError, match=f"cannot download https://.*; fetch it .* and put it into {cache.parent}"):
        Baseline(SMALL, CITYSCAPES)
