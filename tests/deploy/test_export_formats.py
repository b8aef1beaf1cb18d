"""``fastseg-export``: files that others read, the same as the checkpoint."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from rich.console import Console
from safetensors import safe_open

import commands
import layouts
from checkpoints import ARCH, write_checkpoint
from fastseg.deploy import export_target, exporting
from fastseg.deploy.export_formats import FORMATS, HALF_TOLERANCE, ExportWrapper, check_parity, comparison_images
from fastseg.deploy.export_target import KINDS, check_installed
from fastseg.deploy.model_card import describe, model_card
from fastseg.deploy.predict_io import read_image
from fastseg.deploy.predictor import load
from fastseg.errors import UserError
from fastseg.labels import SegmentationClass
from fastseg.model import checkpoint
from fastseg.model.exported import ExportOutput, inference_fn
from fastseg.model.network import restore_model


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that holds its score."""
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "best.pt", shards)


def run(trained: Path, to: str | None, **options: object) -> Path:
    """The command's work, in this process."""
    settings = exporting.Options(str(trained), to, **options)  # type: ignore[arg-type]
    return exporting.write_export(settings, Console(file=sys.stdout, width=300))


def whole_in_torch(trained: Path) -> ExportWrapper:
    return ExportWrapper(restore_model(checkpoint.load(trained))).eval()


def test_safetensors_are_torchvisions_weights(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run(trained, "safetensors")
    assert path == trained.with_name("best-safetensors") / "best.safetensors"
    with safe_open(path, "pt") as file:
        said, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    saved = checkpoint.load(trained)["model"]
    assert path.stat().st_mode == path.with_name("README.md").stat().st_mode  # as the umask says
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], saved[name]) for name in saved)
    check_metadata(said)
    shown = capsys.readouterr().out
    assert "compared on frames of shards's split val, 1 × 64×96 pixels: logits differ by" in shown
    assert "2 × 43×73 pixels" in shown
    assert "43.21 % mIoU" in shown


@pytest.mark.slow
def test_another_opset_in_half_the_size(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run(trained, "onnx", out=tmp_path / "net.onnx", half=True, opset=18)
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    large = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) > 1000]
    assert large
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.FLOAT16}
    assert "logits differ by" in capsys.readouterr().out
    frames = np.array(layouts.noise(0, (97, 65)))[None]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    classes, logits = session.run(None, {"image": frames})
    wanted, exact = (output.detach().numpy() for output in whole_in_torch(trained)(torch.from_numpy(frames)))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, exact, atol=HALF_TOLERANCE * np.abs(exact).max())
    assert (classes == wanted).mean() > 0.98


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"to": None}, "no format is named; add --to onnx, torch-export or safetensors, or --push USER/NAME"),
        ({"to": "safetensors", "opset": 18}, "--opset 18 is for --to onnx; leave it out"),
        ({"to": "onnx", "opset": 17}, "--opset is 17; it must be from 18 to"),
        ({"to": "onnx", "opset": 99}, "--opset is 99; it must be from 18 to"),
        ({"to": "onnx", "push": "ada/streets"}, "--push puts safetensors on the Hub, not onnx"),
        ({"to": None, "push": "streets"}, "streets names no model on the Hugging Face Hub; write USER/NAME"),
    ],
)
def test_flags_that_do_not_go_together(trained: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        run(trained, **options)


def check_metadata(said: dict[str, str]) -> None:
    classes = json.loads(said["classes"])
    assert classes[0] == {"id": 0, "name": "road", "color": [128, 64, 128], "category": "flat", "label_id": 7}
    assert len(classes) == 19
    assert said["arch"] == ARCH
    assert said["mean"] == "123.675 116.28 103.53"
    assert json.loads(said["score"]) == {"mIoU": 0.4321, "images": 5}
    assert json.loads(said["recipe"])["model"]["weights"] == "start.pt"
    assert not any("/home/me" in value or "private" in value for value in said.values())


def test_onnx_runs_without_us(trained: Path, tmp_path: Path) -> None:
    path = run(trained, "onnx", out=tmp_path / "net.onnx")
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape[3]) for i in session.get_inputs()] == [("image", "tensor(uint8)", 3)]
    check_metadata(session.get_modelmeta().custom_metadata_map)
    model = load(trained, "cpu", "fp32")
    for shape in ((3, 40, 56), (1, 33, 97)):
        frames = np.stack([np.asarray(layouts.noise(i, shape[:0:-1])) for i in range(shape[0])])
        classes, logits = session.run(None, {"image": frames})
        expected = whole_in_torch(trained)(torch.from_numpy(frames))[1].detach().numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
        assert (classes == [result.mask for result in model(frames)]).mean() > 0.999
        assert len(np.unique(classes)) > 1
    assert str(commands.ROOT).encode() not in path.read_bytes()


@pytest.mark.slow
def test_torch_export_is_loaded_by_torch_alone(trained: Path, tmp_path: Path) -> None:
    path = run(trained, "torch-export", out=tmp_path / "net.pt2")
    said = {"classes": "", "arch": "", "mean": "", "score": "", "recipe": ""}
    network = torch.export.load(path, extra_files=said).module()
    check_metadata(said)
    frames = torch.from_numpy(np.array(layouts.noise(0, (56, 40))))[None]
    for ours, theirs in zip(whole_in_torch(trained)(frames), network(frames), strict=True):
        torch.testing.assert_close(theirs, ours)


def test_the_card_is_the_hubs(trained: Path, tmp_path: Path) -> None:
    path = run(trained, "safetensors", out=tmp_path / "streets.safetensors", license="cc-by-nc-4.0")
    card = ModelCard.load(path.with_name("README.md"))
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.pipeline_tag == "image-segmentation"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("mean_iou", 0.4321, "streets")
    assert "43.21 % mIoU on 5 images" in card.text
    assert "| 1 | 8 | sidewalk | 244, 35, 232 |" in card.text
    assert "https://www.cityscapes-dataset.com/license/" in card.text
    assert "/home/me" not in card.content
    (snippet,) = (part.partition("```")[0] for part in card.text.split("```python\n")[1:])
    run_snippet(snippet, path.parent)


def run_snippet(snippet: str, folder: Path) -> None:
    """What the card tells a user to type works as it stands."""
    layouts.noise(0, (96, 64)).save(folder / "image.jpg")
    result = commands.run(sys.executable, "-c", snippet + "\nassert classes.shape == (1, 64, 96)", cwd=folder)
    assert result.returncode == 0, result.stderr


def test_other_classes_and_no_score(tmp_path: Path) -> None:
    classes = (SegmentationClass("ground|soil", (1, 2, 3)), SegmentationClass("box", (4, 5, 6)))
    path = write_checkpoint(tmp_path / "ckpt.pt", classes=classes)
    checkpoint.save(path, {**torch.load(path, weights_only=True), "score": None})
    about = describe(checkpoint.load(path), path)
    assert about.label_ids is None
    assert about.score is None
    path = run(tmp_path / "ckpt.pt", "safetensors", images=(image_file(tmp_path),))
    text = path.with_name("README.md").read_text()
    assert "were not evaluated" in text
    assert "cityscapes-dataset.com" not in text
    assert "| 0 | ground&#124;soil | 1, 2, 3 |" in text
    assert "| 1 | box | 4, 5, 6 |" in text
    assert "model-index" not in text
    assert "Compared with the checkpoint on street.png" in text


def image_file(folder: Path, name: str = "street.png") -> Path:
    layouts.noise(len(name), (80, 48)).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("names", "pairs", "said"),
    [
        (("a.png",), ["aa"], "a.png"),
        (("a.png", "bb.png"), ["ab"], "a.png and bb.png"),
        (("a.png", "bb.png", "ccc.png"), ["ab", "ca"], "a.png and 2 more"),
    ],
)
def test_all_images_are_compared(tmp_path: Path, names: tuple[str, ...], pairs: list[str], said: str) -> None:
    paths = {name[0]: image_file(tmp_path, name) for name in names}
    (alone, *others), source = comparison_images(tuple(paths.values()), "nowhere")
    assert source == said
    np.testing.assert_array_equal(alone[0], read_image(paths["a"]))
    small = {name: np.asarray(read_image(path).resize((61, 33))) for name, path in paths.items()}
    for batch, pair in zip(others, pairs, strict=True):
        np.testing.assert_array_equal(batch, [small[name] for name in pair])


def test_a_difference_is_found(trained: Path) -> None:
    model = restore_model(checkpoint.load(trained))
    batches, source = comparison_images((), "nowhere")
    assert source.startswith("noise")
    assert [batch.shape[0] for batch in batches] == [1, 2]
    small = [batch[:, :48, :48].copy() for batch in batches]
    right = inference_fn(ExportWrapper(model))
    assert [d.pixels for d in check_parity(model, right, small, "net")] == [0, 0]

    def shifted(image: np.ndarray) -> ExportOutput:
        answer = right(image)
        return ExportOutput(answer.classes, answer.logits + 0.01 * np.abs(answer.logits).max())

    def other(image: np.ndarray) -> ExportOutput:
        answer = right(image)
        return ExportOutput(18 - answer.classes, answer.logits)

    for wrong in (shifted, other):
        with pytest.raises(UserError, match="net is not written: its logits differ"):
            check_parity(model, wrong, small, "net")


def test_nothing_is_replaced_unasked(trained: Path, tmp_path: Path) -> None:
    def refused(says: str, to: str = "safetensors", overwrite: bool = False) -> None:
        with pytest.raises(UserError, match=says):
            run(trained, to, out=tmp_path / "net.safetensors", overwrite=overwrite)

    (tmp_path / "README.md").write_text("# My project\n")
    refused(r"README.md exists; --overwrite")
    refused("no model card of fastseg's", overwrite=True)
    (tmp_path / "README.md").unlink()
    (tmp_path / "net.safetensors").touch()
    refused(r"net.safetensors exists")
    refused(r"a file of onnx ends in .onnx", to="onnx", overwrite=True)
    path = run(trained, "safetensors", out=tmp_path / "net.safetensors", overwrite=True)
    run(trained, "safetensors", out=path, overwrite=True)  # its own card may go


def test_the_card_has_the_runs_name(trained: Path) -> None:
    saved = checkpoint.load(trained)
    saved["config"] = {**saved["config"], "name": "evening"}
    about = describe(saved, trained)
    card = ModelCard(model_card(about, trained.with_suffix(".onnx"), "onnx", [], "noise", "mit"))
    assert card.data.to_dict()["model-index"][0]["name"] == "evening"
    assert card.text.strip().startswith("# evening\n")
    assert 'InferenceSession("best.onnx")' in card.text


def test_what_cannot_be_done_is_said_before_torch_is_imported(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "there.onnx").touch()
    requests = {
        f"{tmp_path}/none.pt does not exist": (tmp_path / "none.pt", tmp_path / "a.onnx", "file"),
        "there.onnx exists; --overwrite": (trained, tmp_path / "there.onnx", "file"),
        f"--out is {tmp_path}/file/a.onnx, but {tmp_path}/file is a file": (trained, tmp_path / "file/a.onnx", "file"),
        f"--images names {tmp_path}/none.png": (trained, tmp_path / "a.onnx", "none.png"),
    }
    code = """
import sys
from pathlib import Path
from typing import Any
from fastseg.errors import UserError
from fastseg.deploy.exporting import Console, Options, write_export
for checkpoint, out, image in {requests}:
    try:
        write_export(Options(checkpoint, "onnx", Path(out), images=(Path(image),)), Console())
    except UserError as error:
        print(error)
print(sys.modules.keys() & {{"torch", "onnx"}})
"""
    arguments = [(str(path), str(out), str(tmp_path / image)) for path, out, image in requests.values()]
    done = commands.typed(sys.executable, "-c", code.format(requests=arguments))
    *said, imported = done.stdout.splitlines()
    assert [line.startswith(start) or start in line for line, start in zip(said, requests, strict=True)] == [True] * 4
    assert imported == "set()"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FORMATS.keys() == KINDS.keys()
    for name in FORMATS:
        check_installed(name)
    monkeypatch.setattr(export_target, "find_spec", lambda name: None if name == "onnxscript" else object())
    check_installed("safetensors")
    with pytest.raises(UserError, match=r"onnxscript; .*pip install 'fastseg-deeplab\[export\]'"):
        check_installed("onnx")


def test_the_command(trained: Path, tmp_path: Path) -> None:
    script = ("fastseg-export",)
    done = commands.typed(*script, trained, "--to", "safetensors", "--out", tmp_path / "a.safetensors")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "README.md is its model card" in done.stdout
    commands.refused(commands.run(*script, tmp_path / "none.pt", "--to", "onnx"), "none.pt does not exist")
    assert len(commands.run(*script, "--help").stdout.splitlines()) <= 45
