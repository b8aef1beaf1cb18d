"""``fastseg-eval`` as users type it, against the official evaluator on the same predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import commands
import layouts
from checkpoints import val_loader, write_checkpoint
from fastseg.model import checkpoint
from fastseg.model.inference import predict
from fastseg.model.network import restore_model
from fastseg.packing.pack import pack
from fastseg.packing.sources import open_source
from official import official


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "ckpt.pt", shards)


@pytest.fixture(scope="module")
def scores(trained: Path) -> dict:
    """What the command writes with --json."""
    result = commands.typed("fastseg-eval", trained, "--json", "--precision", "fp32")
    assert result.returncode == 0, result.stderr
    assert "mean of classes" in result.stderr
    assert "5 images of" in result.stderr
    return json.loads(result.stdout)


def test_equals_the_official_evaluator(scores: dict, trained: Path, shards: Path, tmp_path: Path) -> None:
    predictions, label_ids = predict_val(trained, shards)
    expected = official(predictions, label_ids, tmp_path)
    assert len(np.unique(predictions)) > 8  # the agreement is about something
    for name, value in scores["classes"].items():
        ours = np.nan if value is None else value
        assert ours == pytest.approx(expected["classScores"][name], abs=1e-6, nan_ok=True), name
    for name, value in scores["categories"].items():
        assert value == pytest.approx(expected["categoryScores"][name], abs=1e-6), name
    assert scores["miou"] == pytest.approx(expected["averageScoreClasses"], abs=1e-6)
    assert scores["category_miou"] == pytest.approx(expected["averageScoreCategories"], abs=1e-6)


def predict_val(trained: Path, shards: Path) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (train ids) for the val frames, and the source's label ids."""
    model, loader = restore_model(checkpoint.load(trained)), val_loader(shards)
    predictions = [predict(model, batch.image)[0].numpy() for batch in loader]
    truths = (shards.parent / "source/gtFine/val/lindau" / f"{key}_gtFine_labelIds.png" for key in loader.sample_keys())
    return np.stack(predictions), np.stack([np.asarray(Image.open(path)) for path in truths])


def test_two_ranks_give_the_same_matrix(scores: dict, trained: Path) -> None:
    two = on_two_ranks(trained, 1)
    assert two["matrix"] == scores["matrix"]
    assert two["images"] == scores["images"] == 5


def on_two_ranks(trained: Path, batch: int) -> dict:
    """What the command writes with --json."""
    options = ("--gpus", 2, "--batch", batch, "--precision", "fp32", "--json")
    result = commands.run("fastseg-eval", trained, *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_other_batches_count_every_pixel_once(scores: dict, trained: Path) -> None:
    """Also where ranks have an uneven number of frames, and batches are filled up."""
    two = on_two_ranks(trained, 2)
    assert two["images"] == scores["images"] == 5
    one, other = np.array(scores["matrix"]), np.array(two["matrix"])
    assert one.sum(1).tolist() == other.sum(1).tolist()  # every pixel once
    # For another batch oneDNN may take another algorithm, and where two classes are as good as equal the other wins.
    assert np.abs(one - other).sum() / 2 <= one.sum() / 1000


def test_frames_of_several_sizes(trained: Path, tmp_path: Path) -> None:
    source = layouts.write_cityscapes(tmp_path / "source", 2, 2, size=(96, 64))
    for kind, suffix in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        path = source / kind / "val/lindau" / f"lindau_000001_000019_{suffix}.png"
        Image.open(path).resize((80, 112), Image.Resampling.NEAREST).save(path)
    manifest = pack(open_source(source), tmp_path / "shards", workers=1)
    assert len(manifest.split("val").sizes) == 2
    result = commands.run("fastseg-eval", trained, "--shards", tmp_path / "shards", "--batch", 2)
    assert result.returncode == 0, result.stderr
    assert "2 images of" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.pt"], ["none.pt does not exist"]),
        (["setup.cfg"], ["setup.cfg is not a checkpoint (no zip archive"]),
        (["CKPT", "--shards", "nowhere"], ["nowhere", "fastseg-pack"]),
        (["CKPT", "--split", "dev"], ["'dev'", "train, val"]),
        (["CKPT", "--batch", "0"], ["--batch is 0"]),
        (["CKPT", "--device", "cuda"], ["no GPU"]),
    ],
)
def test_what_cannot_be_done_gets_one_sentence(arguments: list[str], says: list[str], trained: Path) -> None:
    words = [str(trained) if word == "CKPT" else word for word in arguments]
    commands.refused(commands.run("fastseg-eval", *words), *says)


def test_other_classes_are_refused(trained: Path, tmp_path: Path) -> None:
    source = open_source(layouts.write_folder_dataset(tmp_path / "source"))
    pack(source, tmp_path / "shards", workers=1)
    result = commands.run("fastseg-eval", trained, "--shards", tmp_path / "shards")
    commands.refused(result, f"the number of classes of {trained} is 19, of {tmp_path / 'shards'} 3; name the set")


def test_a_damaged_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    document = torch.load(trained, weights_only=True)
    del document["model"]["classifier.1.weight"]
    torch.save(document, tmp_path / "damaged.pt")
    commands.refused(commands.run("fastseg-eval", tmp_path / "damaged.pt"), "damaged", "classifier.1.weight")


def test_weights_of_the_average_are_preferred(trained: Path) -> None:
    document = checkpoint.load(trained)
    document["ema"] = {name: torch.zeros_like(value) for name, value in document["model"].items()}
    assert restore_model(document).net.classifier[4].weight.abs().sum() == 0
