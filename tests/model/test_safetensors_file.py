"""Exported weights are a checkpoint again; other files, and hostile ones, are refused in a sentence."""

import json
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file

from checkpoints import write_checkpoint
from fastseg.deploy import exporting
from fastseg.errors import UserError
from fastseg.model import checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = write_checkpoint(tmp_path_factory.mktemp("run") / "ckpt.pt")
    saved = torch.load(source, weights_only=True)
    average = {name: value + 0 for name, value in saved["model"].items()}
    checkpoint.save(source, {**saved, "ema": average, "dataset": {**saved["dataset"], "white": 4095}})
    return exporting.write_export(exporting.Options(str(source), "safetensors"), Console(file=sys.stderr))


def test_all_that_predicting_and_exporting_need_comes_back(weights: Path) -> None:
    source = checkpoint.load(weights.parents[1] / "ckpt.pt")
    found = checkpoint.load(weights)
    for name in ("step", "arch", "mean", "std", "stretch_to", "classes", "versions", "score", "epoch"):
        assert [found[name]] == [source[name]] or name in ("classes", "score"), name
    assert [(c["name"], c["color"], c["category"]) for c in found["classes"]] == [
        (c["name"], c["color"], c["category"]) for c in source["classes"]
    ]
    assert found["score"] == {"miou": source["score"]["miou"], "images": source["score"]["images"]}
    assert all(torch.equal(found["ema"][name], value) for name, value in source["ema"].items())
    assert found["shards"] == ""
    assert found["dataset"]["white"] == 4095
    assert found["config"]["name"] == source["config"]["name"]
    # Exported again it says the same.
    again = exporting.write_export(
        exporting.Options(str(weights), "safetensors", weights.with_name("again") / "x.safetensors"),
        Console(file=sys.stderr),
    )
    with safe_open(weights, "pt") as one, safe_open(again, "pt") as other:
        assert one.metadata() == other.metadata()
    assert checkpoint.load(again)["dataset"] == found["dataset"]


def test_half_as_large(weights: Path, tmp_path: Path) -> None:
    options = exporting.Options(str(weights), "safetensors", tmp_path / "half.safetensors", half=True)
    path = exporting.write_export(options, Console(file=sys.stderr))
    assert path.stat().st_size < 0.55 * weights.stat().st_size
    found, exact = checkpoint.load(path)["ema"], checkpoint.load(weights)["ema"]
    assert found["classifier.4.weight"].dtype == torch.float16
    torch.testing.assert_close(found["classifier.4.weight"].float(), exact["classifier.4.weight"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "fastseg-export 1"}, "has no metadata of fastseg's"),
        ({"recipe": "[" * 100_000}, "is damaged"),
        ({"step": "9" * 10_000}, "is damaged"),
        ({"epochs": "x"}, "is damaged"),
        ({"epochs": "nan"}, "has the epoch nan"),
        ({"classes": "[]"}, "has 0 classes"),
        ({"classes": '[{"name": "a", "color": [1, 2, 1000]}]'}, "has the color"),
        ({"arch": "os.system"}, "is of the network 'os.system'"),
        ({"mean": "1 2 nan"}, "has the mean"),
        ({"mean": None}, "is damaged"),
    ],
)
def test_other_metadata_is_refused(weights: Path, tmp_path: Path, change: dict[str, str | None], says: str) -> None:
    with safe_open(weights, "pt") as file:
        said, state = dict(file.metadata()), {"classifier.4.weight": file.get_tensor("classifier.4.weight")}
    said = {name: value for name, value in {**said, **change}.items() if value is not None}
    save_file(state, tmp_path / "evil.safetensors", said)
    with pytest.raises(UserError, match=rf"evil\.safetensors.* {says}"):
        checkpoint.load(tmp_path / "evil.safetensors")


def test_other_files_are_refused(weights: Path, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:5000])
    (tmp_path / "text.safetensors").write_text(json.dumps({"hello": 1}) * 100)
    for name, says in (
        ("other", "has no metadata of fastseg's"),
        ("cut", "is no file of safetensors, or damaged"),
        ("text", "is no file of safetensors, or damaged"),
        ("none", "does not exist"),
    ):
        with pytest.raises(UserError, match=rf"{name}\.safetensors {says}"):
            checkpoint.load(tmp_path / f"{name}.safetensors")
