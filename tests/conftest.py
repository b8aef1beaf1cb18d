"""Packed sets that several tests read."""

import dataclasses
from pathlib import Path

import layouts
import pytest
import torch

from fastseg.config import Config, DataConfig, ModelConfig, OptimConfig
from fastseg.data.packing import PackOptions, pack
from fastseg.data.sources import open_source


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cityscapes' classes: 11 training and 5 validation frames of 96×64, in shards of 4."""
    folder = tmp_path_factory.mktemp("cityscapes")
    source = open_source(layouts.write_cityscapes(folder / "source", 11, 5, 2, size=(96, 64)))
    pack(source, folder / "shards", PackOptions(samples_per_shard=4), workers=1)
    return folder / "shards"


@pytest.fixture
def tiny(shards: Path, tmp_path: Path) -> Config:
    """A run of the small network on them: 2 steps of 4 crops an epoch, on the CPU."""
    return Config(
        shards=str(shards),
        name="tiny",
        runs=tmp_path / "runs",
        eval_every=100,
        save_every=100,
        log_every=1,
        data=DataConfig(batch=4, crop=(64, 64), eval_batch=2, threads=1),
        model=ModelConfig(arch="deeplabv3_mobilenet_v3_large", weights="none"),
        optim=OptimConfig(epochs=2, lr=0.01, lr_batch=None, warmup=0.5),
    )


def with_changes(config: Config, **changes: object) -> Config:
    """``config`` with other values, ``data__batch=2`` reaching into its parts."""
    for name, value in changes.items():
        part, _, inner = name.partition("__")
        if inner:
            value = dataclasses.replace(getattr(config, part), **{inner: value})
        config = dataclasses.replace(config, **{part: value})
    return config


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """Tests share the machine with the processes that they start."""
    torch.set_num_threads(2)
