"""``import fastseg``: instant, complete, and its examples run as they stand."""

import doctest
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import fastseg
import layouts
from augments import augment_config
from checkpoints import write_checkpoint
from fastseg.data.batches import open_shards
from fastseg.errors import UserError
from mydata import write_mydata


@pytest.fixture
def working_folder(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name: ckpt.pt, street.jpg, mydata, shards/demo."""
    write_checkpoint(tmp_path / "ckpt.pt")
    layouts.noise(0, (96, 64)).save(tmp_path / "street.jpg")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "demo").symlink_to(shards)
    write_mydata(tmp_path / "mydata", 8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


EXAMPLES = (
    *("fastseg", "fastseg.deploy.predictor", "fastseg.deploy.result", "fastseg.evaluation.scoring"),
    *("fastseg.data.batches", "fastseg.interface.training"),
)


@pytest.mark.parametrize("name", [*EXAMPLES, "fastseg.interface.packing"])
def test_the_examples_run(working_folder: Path, name: str) -> None:
    result = doctest.testmod(import_module(name))
    assert result.attempted >= 3
    assert result.failed == 0
    assert working_folder.is_dir()


def test_every_public_name_is_there() -> None:
    assert set(fastseg.__all__) <= set(dir(fastseg))
    for value in [*(getattr(fastseg, name) for name in set(fastseg.__all__) - {"recipes"}), *fastseg.recipes.values()]:
        assert value.__doc__
    assert set(fastseg.__all__) - {"__version__"} == set(fastseg._HOMES)
    assert fastseg.recipes["demo"]().model.arch == "deeplabv3plus_resnet18"
    parameters = inspect.signature(fastseg.train).parameters
    assert {"epochs", "lr", "batch", "crop", "arch", "optimizer", "patience", "max_hours"} <= set(parameters)
    assert {"val_fraction", "images", "quality", "workers"} <= set(inspect.signature(fastseg.pack).parameters)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        fastseg.lode  # noqa: B018


def test_importing_is_instant() -> None:
    code = "import fastseg, sys; print({'torch', 'nvidia', 'numpy', 'PIL', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def train(shards: Path, **options: object) -> fastseg.ShardBatches:
    settings = {"batch": 4, "device": "cpu", "threads": 1, "seed": 5} | options
    return open_shards(shards, "train", augment_config((32, 32)), **settings)  # type: ignore[arg-type]


def test_epochs_are_as_a_dataloaders(shards: Path) -> None:
    batches = train(shards)
    assert len(batches) == 2  # 11 frames
    first, second = list(batches), list(batches)
    assert len(first) == len(second) == 2
    assert first[0].image.shape == (4, 32, 32, 3)
    assert first[0].label.dtype == first[0].image.dtype == torch.uint8
    assert not torch.equal(first[0].image, second[0].image)
    again = train(shards)
    for earlier, later in zip([*first, *second], [*again, *again], strict=True):
        assert torch.equal(earlier.image, later.image)
        assert torch.equal(earlier.label, later.label)


def test_labels_are_targets_and_images_are_normalized(shards: Path) -> None:
    batches = train(shards)
    batch = next(iter(batches))
    assert batch.target.dtype == torch.int64
    assert torch.equal(batch.target, batch.label.long())
    image = batches.normalize(batch.image)
    assert image.shape == (4, 3, 32, 32)
    assert image.is_contiguous(memory_format=torch.channels_last)
    wanted = (batch.image[1, 2, 3].double() - torch.tensor(batches.mean)) / torch.tensor(batches.std)
    torch.testing.assert_close(image[1, :, 2, 3].double(), wanted, rtol=1e-5, atol=1e-5)


def test_an_epoch_that_was_left_is_over(shards: Path) -> None:
    whole = train(shards)
    epochs = [list(whole) for _ in range(2)]
    left = train(shards)
    for batch in left:
        assert torch.equal(batch.image, epochs[0][0].image)
        break
    assert [torch.equal(a.image, b.image) for a, b in zip(left, epochs[1], strict=True)] == [True, True]
    left.epoch = 0
    assert [torch.equal(a.image, b.image) for a, b in zip(left, epochs[0], strict=True)] == [True, True]


def test_ranks_share_an_epoch(shards: Path) -> None:
    whole, halves = train(shards), [train(shards, batch=2, rank=rank, world=2) for rank in range(2)]
    assert len(halves[0]) == len(whole)
    wanted = sorted(image.numpy().tobytes() for batch in whole for image in batch.image)
    found = sorted(image.numpy().tobytes() for half in halves for batch in half for image in batch.image)
    assert found == wanted


def test_whole_frames_come_once_and_in_order(shards: Path) -> None:
    batches = open_shards(shards, "val", batch=2, device="cpu", threads=1)
    assert len(batches) == 3
    passes = [torch.cat([batch.image[batch.valid] for batch in batches]) for _ in range(2)]
    assert passes[0].shape == (5, 64, 96, 3)
    assert torch.equal(*passes)
    assert batches.classes[0].name == "road"
    np.testing.assert_allclose(batches.mean, [127] * 3, atol=60)


def test_what_is_not_there_is_refused(shards: Path) -> None:
    with pytest.raises(UserError, match="no split 'dev'"):
        open_shards(shards, "dev", device="cpu")
    with pytest.raises(UserError, match="batch is 0"):
        open_shards(shards, batch=0, device="cpu")
    with pytest.raises(UserError, match="augment is 512; it must be"):
        open_shards(shards, "train", 512, device="cpu")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="too few"):
        train(shards, batch=12)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="sees no GPU"):
            open_shards(shards, device="cuda")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prefetch": 0}, "^prefetch is 0; it must be from 1"),
        ({"prefetch": 1.5}, "^prefetch is 1.5; it must be int"),
        ({"threads": -1}, "^threads is -1; it must be at least 1"),
        ({"batch": "4"}, "^batch is '4'; it must be a whole number from 1"),
        ({"rank": 3, "world": 2}, "^rank is 3; it must be a whole number from 0 to 1"),
        ({"world": 0}, "^world is 0; it must be a whole number from 1"),
        ({"seed": -1}, "^seed is -1; it must be a whole number from 0"),
        ({"decoder": "nvjpeg"}, "^decoder is 'nvjpeg'; it must be auto, gpu, cpu"),
        ({"device": "gpu"}, "^the device is 'gpu'; it must be auto, cuda, cuda:N or cpu"),
    ],
)
def test_values_that_make_no_sense_are_refused(shards: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        train(shards, **options)


def test_numbers_of_numpy_and_devices_of_torch_are_taken(shards: Path) -> None:
    augment = fastseg.AugmentConfig((32, 32), [np.float32(0.5), 2], flip=1)  # type: ignore[arg-type]
    batches = open_shards(shards, "train", augment, batch=np.int64(4), device=torch.device("cpu"))  # type: ignore[arg-type]
    assert next(iter(batches)).image.shape == (4, 32, 32, 3)
