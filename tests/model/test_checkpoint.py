"""Checkpoints are whole or absent, and reading one runs nothing."""

import math
from pathlib import Path

import pytest
import torch

from fastseg.errors import UserError
from fastseg.model import checkpoint
from fastseg.model.checkpoint_file import SHIPPED, resolve_checkpoint, resolve_network
from fastseg.model.weights import fitting, not_finite

PLAIN = {
    "step": 3,
    "arch": "deeplabv3_resnet50",
    "ema": None,
    "mean": [1.0, 2.0, 3.0],
    "std": [2.0, 3.0, 4.0],
    "stretch_to": None,
    "classes": [{"name": "road", "color": [0, 0, 0], "category": ""}],
    "shards": "s",
    "epoch": 1.5,
    "config": {},
    "dataset": {},
    "versions": {},
}
DOCUMENT = {**PLAIN, "model": {"w": torch.arange(4.0)}}


def test_reads_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", DOCUMENT)
    saved = checkpoint.load(tmp_path / "a.pt")
    assert torch.equal(saved["model"]["w"], DOCUMENT["model"]["w"])
    assert {k: v for k, v in saved.items() if k != "model"} == {
        "format": "fastseg-checkpoint",
        "version": 4,
        **PLAIN,
    }
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", DOCUMENT)
    before = (tmp_path / "a.pt").read_bytes()
    with pytest.raises(AttributeError):
        checkpoint.save(tmp_path / "a.pt", {"model": lambda: None})  # cannot be pickled
    assert (tmp_path / "a.pt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_kept_under_another_name_it_outlives_the_next(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", DOCUMENT)
    checkpoint.keep(tmp_path / "last.pt", tmp_path / "best.pt")
    checkpoint.save(tmp_path / "last.pt", {**DOCUMENT, "step": 4})
    assert checkpoint.load(tmp_path / "best.pt")["step"] == 3
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 4


class Exploit:
    """Unpickled without care this would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("environment", ["0", "1"])
def test_a_malicious_file_runs_nothing(tmp_path: Path, environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", environment)
    torch.save({"format": "fastseg-checkpoint", "version": 4, "x": Exploit(tmp_path / "touched")}, tmp_path / "e.pt")
    with pytest.raises(UserError, match=r"e\.pt is not a checkpoint that can be loaded safely") as refusal:
        checkpoint.load(tmp_path / "e.pt")
    assert "weights_only" not in str(refusal.value)  # torch recommends to switch it off
    assert not (tmp_path / "touched").exists()


def test_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.load(tmp_path / "none.pt")
    with pytest.raises(UserError, match="is a folder"):
        checkpoint.load(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pt is not a checkpoint \(no zip archive, 5 bytes\); name a run's"):
        checkpoint.load(tmp_path / "text.pt")
    checkpoint.save(tmp_path / "a.pt", DOCUMENT)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:-200])
    with pytest.raises(UserError, match="safely: it is cut off or damaged"):
        checkpoint.load(tmp_path / "cut.pt")
    torch.save({"w": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="not a checkpoint of fastseg"):
        checkpoint.load(tmp_path / "weights.pt")
    torch.save({"format": "fastseg-checkpoint", "version": 1, **DOCUMENT}, tmp_path / "old.pt")
    with pytest.raises(
        UserError, match=r"old\.pt has format version 1, this fastseg reads 4; train anew, with --resume"
    ):
        checkpoint.load(tmp_path / "old.pt")
    checkpoint.save(tmp_path / "part.pt", {"step": 1})
    with pytest.raises(UserError, match="lacks epoch, arch, model"):
        checkpoint.load(tmp_path / "part.pt")


def refusal(path: Path | str, *others: Path) -> str:
    with pytest.raises(UserError) as error:
        resolve_checkpoint(path, others)
    return str(error.value)


def test_folders_are_told_apart(tmp_path: Path) -> None:
    run, packed, photos = (tmp_path / name for name in ("run", "packed", "photos"))
    for folder in (run / "checkpoints", packed, photos):
        folder.mkdir(parents=True)
    (packed / "manifest.json").touch()
    assert f"{packed} is a packed set, not a checkpoint" in refusal(packed)
    assert f"--shards {packed}" in refusal(packed, run / "checkpoints/best.pt")
    assert refusal(photos).endswith("photos is a folder without a checkpoint; name a run's folder, such as runs/NAME")
    assert "run is a folder without a checkpoint" in refusal(run)
    swapped = refusal(photos, run / "checkpoints/best.pt")
    assert swapped.endswith(f"{run}/checkpoints/best.pt may be one; the checkpoint comes first")
    assert "does not exist" in refusal(tmp_path / "none.pt", run / "checkpoints/best.pt")


def test_a_folder_stands_for_the_network_in_it(tmp_path: Path) -> None:
    run, export = tmp_path / "run", tmp_path / "best-safetensors"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("last.pt", "best.pt"):
        checkpoint.save(run / "checkpoints" / name, DOCUMENT)
        for source in (run, str(run), run / "checkpoints", run / "checkpoints" / name):
            assert resolve_checkpoint(source) == run / "checkpoints" / name
    export.mkdir()
    (export / "best.safetensors").touch()
    assert resolve_checkpoint(export) == export / "best.safetensors"
    (export / "other.safetensors").touch()
    assert "is a folder without a checkpoint" in refusal(export)


def test_weights_that_come_with_fastseg_are_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SHIPPED.name == "weights"
    monkeypatch.setattr("fastseg.model.checkpoint_file.SHIPPED", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    assert refusal("streets").startswith("streets does not exist; name a run's folder")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/streets.safetensors").touch()
    assert resolve_checkpoint("streets") == tmp_path / "weights/streets.safetensors"
    checkpoint.save(tmp_path / "streets", DOCUMENT)  # a file of that name is meant first
    assert resolve_checkpoint("streets") == Path("streets")


def test_programs_are_for_evaluation_alone(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    assert resolve_network(tmp_path / "net.onnx") == tmp_path / "net.onnx"
    said = refusal(tmp_path / "net.onnx")
    assert "net.onnx is a program for ONNX, whose weights cannot be taken out; fastseg-eval scores it" in said
    with pytest.raises(UserError, match=r"none\.onnx does not exist"):
        resolve_network(tmp_path / "none.onnx")


def test_weights_are_contiguous_whatever_the_memory_order(tmp_path: Path) -> None:
    layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    assert not layer.weight.is_contiguous()
    checkpoint.save(tmp_path / "a.pt", {**PLAIN, "model": layer.state_dict()})
    weights = checkpoint.load(tmp_path / "a.pt")["model"]
    assert weights["weight"].is_contiguous()
    assert torch.equal(weights["weight"], layer.weight)


def test_a_bit_that_flips_is_found(tmp_path: Path) -> None:
    """Also one that leaves the weight finite."""
    checkpoint.save(tmp_path / "a.pt", DOCUMENT)
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.index(torch.arange(4.0).numpy().tobytes())] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.pt is not .* member 'archive/data/0' is not as it was written \(CRC-32\)"):
        checkpoint.load(tmp_path / "a.pt")


def test_too_little_memory_is_no_damage() -> None:
    """torch's error is a RuntimeError, as those of tensors that do not fit; whoever knows the batch explains it."""
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"), fitting(Path("last.pt")):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with (
        pytest.raises(UserError, match=r"last\.pt is damaged \(RuntimeError: size mismatch\); use another"),
        fitting(Path("last.pt")),
    ):
        raise RuntimeError("size mismatch")


def test_what_is_not_finite_is_named() -> None:
    whole = {"a": torch.ones(2), "b": [{"c": torch.ones(1)}, torch.arange(3)], "d": 1}
    assert not_finite(whole) == ""
    for value in (math.inf, -math.inf, math.nan):
        assert not_finite({**whole, "b": [0, {"c": {5: torch.tensor([1.0, value])}}]}) == "b.1.c.5"
