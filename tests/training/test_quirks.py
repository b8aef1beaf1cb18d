"""What only the recipe ``seed`` has: stretched frames, of which nothing behind knows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import commands
import fastseg
import layouts
from changes import with_changes
from checkpoints import ARCH, val_loader, write_checkpoint
from fastseg.config import Config, DataConfig, ModelConfig, OptimConfig
from fastseg.deploy.predictor import load
from fastseg.distributed.ranks import Ranks
from fastseg.errors import UserError
from fastseg.model import checkpoint
from fastseg.model.inference import predict
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork, restore_model
from fastseg.shards.manifest import read_manifest
from fastseg.training.run import build_loaders, build_state, resume
from fastseg.training.state import RunState, continues_exactly, find_checkpoint
from fastseg.training.trainer import Trainer
from runs import lines

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
CROP = (64, 80)
CLASSES = 19


@pytest.fixture(scope="module")
def quirky(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A tiny run with them, from weights that tell pixels apart."""
    folder = tmp_path_factory.mktemp("quirky")
    return Config(
        shards=str(shards),
        name="quirky",
        runs=folder / "runs",
        data=DataConfig(batch=4, crop=CROP, resize="stretch", threads=1),
        model=ModelConfig(ARCH, str(write_checkpoint(folder / "start.pt")), precision="fp32"),
        optim=OptimConfig(epochs=2),
    )


@pytest.fixture(scope="module")
def trained(quirky: Config) -> RunState:
    """Its first epoch, of two steps; it leaves a checkpoint."""
    manifest = read_manifest(quirky.shards)
    state = build_state(quirky, manifest, ALONE)
    trainer = Trainer(quirky, manifest, ALONE, state, build_loaders(quirky, manifest, ALONE, None), None)
    for _ in range(2):
        batch = trainer.loader.next()
        state.train_step(batch.image, batch.label, 0.01)
        state.step += 1
        assert state.average
        state.average.update(state.step)
    with trainer.writer:
        trainer.save(state.statistics())
    return state


@pytest.fixture(scope="module")
def path(quirky: Config, trained: RunState) -> Path:
    """The checkpoint."""
    assert trained.step == 2
    return quirky.folder / "checkpoints" / "last.pt"


def network(**quirks: Any) -> SegmentationNetwork:
    torch.manual_seed(0)
    return SegmentationNetwork(ARCH, CLASSES, IMAGENET_MEAN, IMAGENET_STD, True, **quirks)


def frames(count: int, size: tuple[int, int]) -> torch.Tensor:
    """uint8 N×H×W×3 of (width, height)."""
    return torch.from_numpy(np.stack([np.asarray(layouts.noise(i, size)) for i in range(count)]))


@torch.inference_mode()
def test_evaluation_stretches_as_pillow_does() -> None:
    model, seen = network(stretch_to=CROP), []
    model.net.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = frames(2, (96, 130))
    assert predict(model.eval(), image).shape == (2, 130, 96)
    model.train()(image[:, :48])  # in training the loader has done it
    evaluated, trained = (planes.permute(0, 2, 3, 1) * model.std + model.mean for planes in seen)
    for one, found in zip(image, evaluated, strict=True):
        expected = Image.fromarray(one.numpy()).resize(CROP[::-1], Image.Resampling.BILINEAR)
        difference = np.abs(found.numpy() - np.asarray(expected))
        assert difference.max() < 1.1  # Pillow rounds twice
        assert difference.mean() < 0.25
    torch.testing.assert_close(trained, image[:, :48].float())


def test_a_checkpoint_is_a_network_of_the_datas_classes(trained: RunState, path: Path) -> None:
    assert trained.average
    model, picture = trained.average.model.eval(), np.asarray(layouts.noise(7, (150, 90)))
    loaded = load(path, "cpu", "fp32")
    assert loaded.model.net.classifier[4].weight.shape[0] == len(loaded.classes) == CLASSES
    assert loaded.model.stretch_to == CROP
    expected = predict(model, torch.from_numpy(picture.copy())[None])[0].numpy()
    assert expected.shape == (90, 150)
    assert len(np.unique(expected)) > 1  # the agreement is about something
    assert (loaded(picture).mask == expected).mean() > 0.999
    loaded.model.stretch_to = None
    assert (loaded(picture).mask != expected).any()
    for options in ({"tta": True}, {"window": (64, 64)}):
        with pytest.raises(UserError, match="leave out tta and window"):
            load(path, "cpu", **options)


def test_a_large_picture_is_stretched_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(path, "cpu", "fp32")
    picture = np.asarray(layouts.noise(7, (150, 90)))
    expected = loaded(picture).mask
    monkeypatch.setattr("fastseg.deploy.predictor.pixels_at_once", lambda *_: 64 * 80)
    np.testing.assert_array_equal(loaded(picture).mask, expected)


def test_a_run_goes_on_with_stretched_frames(quirky: Config, trained: RunState, path: Path) -> None:
    manifest = read_manifest(quirky.shards)
    state = build_state(quirky, manifest, ALONE, resumed=True)
    _, said = resume(quirky, manifest, ALONE, state, find_checkpoint(quirky, manifest))
    assert said == [f"resuming from {quirky.folder}/checkpoints/last.pt after step 2"]
    for one, other in zip(state.model.parameters(), trained.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert continues_exactly(checkpoint.load(path), quirky, ALONE)
    assert not continues_exactly(checkpoint.load(path), with_changes(quirky, data__resize="crop"), ALONE)


@pytest.mark.parametrize(
    ("quirk", "says"),
    [
        ({"stretch_to": [64]}, r"frames stretched to \[64\]"),
        ({"stretch_to": [64, 1 << 20]}, "frames stretched to"),
        ({"stretch_to": "ab"}, "frames stretched to"),
    ],
)
def test_other_quirks_are_refused(path: Path, tmp_path: Path, quirk: dict, says: str) -> None:
    checkpoint.save(tmp_path / "x.pt", checkpoint.load(path) | quirk)
    with pytest.raises(UserError, match=says):
        checkpoint.load(tmp_path / "x.pt")


@pytest.mark.slow
def test_an_export_stretches_by_itself_or_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='use to="onnx", which stretches'):
        fastseg.export(path, to="safetensors")
    written = fastseg.export(path, to="onnx")
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    picture = np.asarray(layouts.noise(7, (150, 90)))
    (classes,) = session.run(["classes"], {"image": picture[None]})
    assert (classes[0] == load(path, "cpu", "fp32")(picture).mask).mean() > 0.999
    checkpoint.save(tmp_path / "ckpt.pt", checkpoint.load(path) | {"stretch_to": None})
    assert fastseg.export(tmp_path / "ckpt.pt", to="safetensors").exists()


def test_the_recipe_runs_and_fastseg_eval_agrees(shards: Path, tmp_path: Path) -> None:
    result = commands.run(
        *("torchrun", "fastseg/train.py", "--gpus", 1, "--recipe", "notebook", "--shards", shards, "--runs", tmp_path),
        *("--model.arch", ARCH, "--model.weights", "none", "--data.crop", 48, 64, "--data.threads", 1),
        *("--optim.epochs", 2, "--log-every", 1),
    )
    assert result.returncode == 0, result.stderr
    last = lines(tmp_path / "notebook", "eval")[-1]
    path = tmp_path / "notebook" / "checkpoints" / "last.pt"
    result = commands.run("fastseg-eval", path, "--json", "--precision", "fp32")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["miou"] == pytest.approx(last["miou"], abs=1e-3)  # a pixel may differ: another memory order
    commands.refused(commands.run("fastseg-eval", path, "--tta"), "leave out --tta and --window")
    labels = torch.cat([batch.label for batch in val_loader(shards)])
    assert labels.shape == (5, 64, 96)
    # The data's classes alone, at full resolution.
    assert len(found["matrix"]) == CLASSES
    assert np.sum(found["matrix"]) == (labels != 255).sum()
    assert restore_model(checkpoint.load(path)).stretch_to == (48, 64)
