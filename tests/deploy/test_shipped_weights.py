"""Weights that come with fastseg: made by fastseg-export, loaded by name, and in the package."""

from pathlib import Path

import numpy as np
import pytest
import torch
from setuptools import Distribution

import fastseg
import layouts
from checkpoints import write_checkpoint
from fastseg.model import checkpoint_file

ROOT = Path(__file__).parents[2]
MOST = 25_000_000
"""Maximum bytes of weights in the package."""


def test_a_name_loads_weights_of_half_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    best = write_checkpoint(tmp_path / "best.pt")
    file = fastseg.export(best, "weights/streets.safetensors", half=True)
    assert (file.parent / "README.md").is_file()
    assert file.stat().st_size < 0.6 * sum(t.nbytes for t in torch.load(best, weights_only=True)["model"].values())
    monkeypatch.setattr(checkpoint_file, "SHIPPED", tmp_path / "weights")
    picture = np.asarray(layouts.noise(7, (96, 64)))
    small, whole = fastseg.load("streets")(picture), fastseg.load(best)(picture)
    assert (small.mask == whole.mask).mean() > 0.9  # of random weights, on noise


def test_the_package_holds_them_with_their_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = ("fastseg/weights/camvid.safetensors", "fastseg/weights/README.md")
    for name in ("README.md", "LICENSE", "fastseg/__init__.py", *weights):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "setup.cfg").write_text((ROOT / "setup.cfg").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    distribution = Distribution()
    distribution.parse_config_files()
    build = distribution.get_command_obj("build_py")
    build.ensure_finalized()
    found = {name for _, _, _, names in build.data_files for name in names}
    assert {"weights/camvid.safetensors", "weights/README.md"} <= found


def test_what_is_shipped_is_small_and_loads_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = checkpoint_file.SHIPPED / "camvid.safetensors"
    assert path.stat().st_size <= MOST
    assert (path.parent / "README.md").is_file()
    model = fastseg.load("camvid")
    assert model(np.asarray(layouts.noise(7, (96, 64)))).mask.max() < len(model.classes) == 11
