"""``fastseg-eval`` on exported programs: ours, quantized by another tool, and anybody's."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from rich.console import Console

import commands
from checkpoints import val_loader, write_checkpoint
from fastseg.commands import evaluate
from fastseg.deploy import exporting
from fastseg.errors import UserError
from fastseg.evaluation import scoring
from fastseg.model.trained import open_network


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "best.pt", shards)


@pytest.fixture(scope="module")
def program(trained: Path) -> Path:
    """The network as an ONNX file."""
    return exporting.write_export(exporting.Options(str(trained), "onnx"), Console(file=sys.stderr))


class Frames(CalibrationDataReader):
    """Frames to calibrate with."""

    def __init__(self, shards: Path) -> None:
        self._frames = iter([{"image": batch.image.numpy()} for batch in val_loader(shards)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._frames, None)


@pytest.fixture(scope="module")
def quantized(program: Path, shards: Path) -> Path:
    """The same in int8, by onnxruntime's own tool."""
    path = program.with_name("int8.onnx")
    quantize_static(program, path, Frames(shards), per_channel=True, weight_type=QuantType.QInt8)
    assert path.stat().st_size < 0.4 * program.stat().st_size
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command in this process; returns its output, or with ``fails`` its sentence."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object, fails: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["fastseg-eval", "--precision", "fp32", "--device", "cpu", *map(str, words)])
        if not fails:
            evaluate.main()
            return capsys.readouterr().out
        with pytest.raises(SystemExit):
            evaluate.main()
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    return call


def scored(run, *words: object) -> dict:
    """What the command prints as JSON."""
    return json.loads(run(*words, "--json"))


def test_a_program_scores_as_its_checkpoint(run, program: Path, trained: Path, shards: Path) -> None:
    ours, theirs = (scored(run, source, "--shards", shards) for source in (trained, program))
    assert (theirs["step"], theirs["weights"]) == (ours["step"], ours["weights"])
    assert np.abs(np.array(ours["matrix"]) - theirs["matrix"]).sum() <= 2e-3 * np.sum(ours["matrix"])
    assert theirs["miou"] == pytest.approx(ours["miou"], abs=1e-3)


def test_quantization_is_judged_beside_the_checkpoint(run, quantized: Path, trained: Path) -> None:
    both = scored(run, quantized, trained)
    assert (both["a"], both["b"]) == (f"{quantized}, step 12", f"{trained}, step 12")
    assert both["miou"]["a"] != both["miou"]["b"]
    # What it computes is compared with onnxruntime's own answer.
    network, loader = open_network(quantized), val_loader(Path(open_network(trained).shards))
    infer = network.open(torch.device("cpu"), scoring.EvalSettings().views())
    session = onnx_session(quantized)
    for batch in loader:
        np.testing.assert_array_equal(infer(batch.image), session.run(["classes"], {"image": batch.image.numpy()})[0])


def onnx_session(path: Path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_windows_average_a_programs_logits(run, program: Path, trained: Path, shards: Path) -> None:
    words = ("--shards", shards, "--window", 40, 48, "--max-images", 2)
    ours, theirs = (scored(run, source, *words) for source in (trained, program))
    assert theirs["miou"] == pytest.approx(ours["miou"], abs=2e-3)


def foreign(path: Path, output: str, **shapes: object) -> Path:
    """A program of another tool's: brightness, cut into classes; ids or logits."""
    size = shapes.get("size", ("n", "h", "w"))
    image = helper.make_tensor_value_info("pixels", shapes.get("type", TensorProto.UINT8), [*size, 3])
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["gray"], keepdims=0),
        helper.make_node("Div", ["gray", "step"], ["level"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [1], [3]),
        helper.make_tensor("step", TensorProto.FLOAT, [], [shapes.get("step", 13.5)]),
    ]
    if output == "ids":
        nodes.append(helper.make_node("Cast", ["level"], ["ids"], to=TensorProto.INT64))
        result = helper.make_tensor_value_info("ids", TensorProto.INT64, [*size])
    else:
        nodes += [
            helper.make_node("Unsqueeze", ["level", "one"], ["plane"]),
            helper.make_node("Sub", ["plane", "levels"], ["distance"]),
            helper.make_node("Abs", ["distance"], ["absolute"]),
            helper.make_node("Neg", ["absolute"], ["logits"]),
        ]
        classes = int(shapes.get("classes", 19))  # type: ignore[call-overload]
        constants += [
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            helper.make_tensor("levels", TensorProto.FLOAT, [1, classes, 1, 1], [*map(float, range(classes))]),
        ]
        result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [size[0], classes, *size[1:]])
    graph = helper.make_graph(nodes, "other", [image], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("output", ["ids", "logits"])
def test_anybodys_program_is_scored_on_named_shards(run, output: str, shards: Path, tmp_path: Path) -> None:
    path = foreign(tmp_path / "other.onnx", output)
    scores = scored(run, path, "--shards", shards)
    matrix, step = np.zeros((19, 19), int), 13.5
    for batch in val_loader(shards):
        level = batch.image.float().mean(-1).numpy() / step
        ids = (
            level.astype(int)
            if output == "ids"
            else np.abs(level[:, None] - np.arange(19)[None, :, None, None]).argmin(1)
        )
        counted = batch.label.numpy() != 255
        np.add.at(matrix, (batch.label.numpy()[counted], ids[counted]), 1)
    assert np.abs(matrix - scores["matrix"]).sum() <= 1e-3 * matrix.sum()  # where two classes are equally near
    assert scores["step"] is None
    assert f"{path} does not say what it was trained on; name a packed set with --shards" in run(path, fails=True)


@pytest.mark.parametrize(
    ("output", "shapes", "words", "says"),
    [
        ("logits", {"classes": 7}, (), "knows 7 classes, the set 19; name the set it was made for"),
        ("ids", {"step": 5.0}, (), "is a network for other classes than the set's: "),
        (
            "ids",
            {"type": TensorProto.FLOAT},
            (),
            "maps float n×h×w×3 to int64 n×h×w; to be scored it must map an image of",
        ),
        (
            "ids",
            {},
            ("--window", 40, 40),
            "gives class ids without logits, which cannot be averaged; leave out --tta and",
        ),
        (
            "ids",
            {"size": (1, 32, 96)},
            (),
            "takes images of 96×32 pixels, and the set has some of 96×64; export it for",
        ),
        ("ids", {"size": (2, 64, 96)}, (), "takes 2 images at a time; use --batch 2"),
    ],
)
def test_what_a_program_does_not_fit_is_said(
    run, output: str, shapes: dict[str, object], words: tuple[object, ...], says: str, shards: Path, tmp_path: Path
) -> None:
    path = foreign(tmp_path / "other.onnx", output, **shapes)
    assert says in run(path, "--shards", shards, *words, fails=True)


def test_other_files_are_refused(run, tmp_path: Path) -> None:
    for name in ("noise.onnx", "noise.pt2"):
        (tmp_path / name).write_bytes(b"no program" * 100)
    assert "noise.onnx is no ONNX model that onnxruntime can run" in run(tmp_path / "noise.onnx", fails=True)
    assert "noise.pt2 is no file of torch.export that this torch can load" in run(tmp_path / "noise.pt2", fails=True)


@pytest.mark.slow
def test_torch_export_scores_as_its_checkpoint(run, trained: Path, shards: Path) -> None:
    path = exporting.write_export(exporting.Options(str(trained), "torch-export"), Console(file=sys.stderr))
    scores = scored(run, path, trained, "--shards", shards)["miou"]
    assert scores["a"] == pytest.approx(scores["b"], abs=1e-3)


def test_exported_weights_and_runs_are_scored_too(run, trained: Path, shards: Path) -> None:
    weights = exporting.write_export(exporting.Options(str(trained), "safetensors"), Console(file=sys.stderr))
    ours, theirs = (scored(run, source, "--shards", shards) for source in (trained.parents[1], weights))
    assert ours["matrix"] == theirs["matrix"]
    assert "does not say what it was trained on" in run(weights, fails=True)


def test_the_set_and_the_metadata_must_agree(run, program: Path, trained: Path, tmp_path: Path) -> None:
    model = onnx.load(program)
    entries = json.loads(next(p.value for p in model.metadata_props if p.key == "classes"))
    entries[3]["name"] = "skyscraper"
    for prop in model.metadata_props:
        if prop.key == "classes":
            prop.value = json.dumps(entries)
    onnx.save(model, tmp_path / "other.onnx")
    said = run(tmp_path / "other.onnx", trained, fails=True)
    assert "the class 3 of" in said
    assert "only models of the same classes can be compared" in said
    for prop in model.metadata_props:
        if prop.key == "classes":
            prop.value = "[1, 2"
    onnx.save(model, tmp_path / "broken.onnx")
    assert "has damaged metadata (classes); export it again" in run(tmp_path / "broken.onnx", fails=True)


def test_python_gives_the_commands_numbers(run, trained: Path, shards: Path, tmp_path: Path) -> None:
    told = scored(run, trained, "--max-images", 3)
    scores = scoring.evaluate(trained, max_images=3, device="cpu", precision="fp32")
    found = scores.to_json()
    for document in (told, found):
        document.pop("images_per_second")
    assert json.loads(json.dumps(found)) == told
    assert scores.miou == told["miou"]
    assert list(scores.classes) == list(told["classes"])
    for words in ("mean of classes", "boundary IoU", "road", "3 images of"):
        assert words in repr(scores)
    for options, says in (
        ({"max_images": 0}, "^max_images is 0; it must be 1 or more"),
        ({"batch": "two"}, "^batch is 'two'; it must be 1 or more"),
        ({"decoder": "nvjpeg"}, "^decoder is 'nvjpeg'; it must be auto, gpu or cpu"),
        ({"precision": "int8"}, "the precision is 'int8'; it must be auto, bf16, fp16 or fp32"),
        ({"split": "test"}, "has no masks, so that it cannot be scored; name another"),
        ({"window": (0, 3)}, "the window is"),
        ({"shards": tmp_path}, "holds no finished set of shards"),
    ):
        with pytest.raises(UserError, match=says):
            scoring.evaluate(trained, **{"shards": shards, "device": "cpu", **options})  # type: ignore[arg-type]


def test_the_command_as_typed(program: Path, trained: Path) -> None:
    done = commands.run("fastseg-eval", program, trained, "--max-images", 2)
    assert done.returncode == 0, done.stderr
    assert "A: " in done.stdout
