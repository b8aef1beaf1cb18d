"""What ``fastseg-eval`` leaves: predictions, a zip, the official scores, a report; and what it refuses."""

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import commands
import layouts
from checkpoints import val_loader, write_checkpoint
from fastseg.commands import evaluate
from fastseg.labels import cityscapes
from fastseg.model import checkpoint
from fastseg.model.inference import TtaViews, predict
from fastseg.model.network import restore_model
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.records import Codec
from fastseg.packing.sources import open_source
from fastseg.report.run_folder import read_run
from fastseg.shards.manifest import read_manifest
from fastseg.shards.tar import read_index

LABEL_IDS = np.array([next(v for v, t in cityscapes().train_ids.items() if t == i) for i in range(19)], np.uint8)


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "ckpt.pt", shards)


@pytest.fixture
def run(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command in this process; returns its output, or with ``fails`` its sentence.

    With --json that is what it says beside the document, which is kept as ``run.document``.
    """
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object, ckpt: Path = trained, fails: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["fastseg-eval", str(ckpt), "--precision", "fp32", *map(str, words)])
        if not fails:
            evaluate.main()
            printed = capsys.readouterr()
            if "--json" not in words:
                return printed.out
            call.document = json.loads(printed.out)
            return printed.err
        with pytest.raises(SystemExit):
            evaluate.main()
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    return call


def truth_of(shards: Path, key: str) -> np.ndarray:
    path = shards.parent / "source/gtFine/val/lindau" / f"{key}_gtFine_labelIds.png"
    return cityscapes().lookup()[np.asarray(Image.open(path))]


def counted(truths: list[np.ndarray], predictions: list[np.ndarray]) -> list[list[int]]:
    matrix = np.zeros((19, 19), int)
    for truth, prediction in zip(truths, predictions, strict=True):
        np.add.at(matrix, (truth[truth != 255], prediction[truth != 255]), 1)
    return matrix.tolist()


@pytest.mark.parametrize(
    ("flags", "views"),
    [
        ([], TtaViews()),
        pytest.param(["--tta"], TtaViews((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True), marks=pytest.mark.slow),
        (["--window", 40, 48], TtaViews(window=(40, 48))),
        (["--window", 4000, 4000], TtaViews()),
    ],
)
def test_saved_predictions_are_what_was_scored(
    run, flags: list[object], views: TtaViews, trained: Path, shards: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "predictions"
    said = run("--max-images", 3, "--save-predictions", folder, "--json", *flags)
    assert "3 images of" in said
    assert f"{folder}: 3 predictions, PNGs of label ids, as the Cityscapes server wants them" in said
    loader, model = val_loader(shards), restore_model(checkpoint.load(trained))
    keys = loader.sample_keys()[:3]
    assert sorted(path.name for path in folder.iterdir()) == [f"{key}_labelIds.png" for key in keys]
    saved = [np.asarray(Image.open(folder / f"{key}_labelIds.png")) for key in keys]
    expected = [predict(model, batch.image, views)[0].numpy() for batch, _ in zip(loader, keys, strict=False)]
    assert len(np.unique(expected)) > 8
    assert all((LABEL_IDS[mine] == theirs).all() for mine, theirs in zip(expected, saved, strict=True))
    scores = run.document
    assert scores["matrix"] == counted([truth_of(shards, key) for key in keys], expected)
    assert scores["images"] == 3
    assert 0 < scores["mean_boundary_iou"] < 1
    assert len(scores["boundary_iou"]) == 19


def test_a_split_without_masks_is_predicted_and_zipped(run, tmp_path: Path) -> None:
    said = run("--split", "test", "--save-predictions", tmp_path / "test")
    assert "the split 'test' has no masks: it was predicted, not scored" in said
    assert "mean of classes" not in said
    keys = ["berlin_000000_000019", "berlin_000001_000019"]
    with zipfile.ZipFile(tmp_path / "test/submission.zip") as archive:
        assert archive.namelist() == [f"{key}_labelIds.png" for key in keys]
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "test" / name).read_bytes()
            image = Image.open(tmp_path / "test" / name)
            assert (image.mode, image.size) == ("L", (96, 64))
            assert np.isin(np.asarray(image), LABEL_IDS).all()
    for flag, *value in (("--official", tmp_path / "x"), ("--report", tmp_path / "x"), ("--json",)):
        assert f"there is nothing for {flag}" in run(
            "--split", "test", "--save-predictions", tmp_path / "again", flag, *value, fails=True
        )
    assert "cannot be scored; predict it with --save-predictions DIR" in run("--split", "test", fails=True)


def damaged(shards: Path, copy: Path) -> Path:
    """A copy whose first test frame has a broken image."""
    shutil.copytree(shards, copy)
    entry = read_index((copy / "test-000000.idx").read_text())[0]
    image = next(part for part in entry.components if part.extension == "jpg")
    with (copy / "test-000000.tar").open("r+b") as tar:
        tar.seek(image.offset + image.size // 2)
        tar.write(b"\xff" * 5)
    return copy


def test_an_earlier_run_s_predictions_do_not_pass_for_this_one_s(run, shards: Path, tmp_path: Path) -> None:
    folder, copy = tmp_path / "test", damaged(shards, tmp_path / "copy")
    flags = ("--split", "test", "--save-predictions", folder, "--overwrite")
    assert "2 predictions" in run(*flags)
    (folder / "notes.txt").write_text("mine")
    said = run(*flags, "--shards", copy, "--max-corrupt-samples", 1)
    assert "1 damaged frames were left out" in said
    assert "1 of 2 frames: not for the server, and not zipped" in said
    assert sorted(path.name for path in folder.iterdir()) == ["berlin_000001_000019_labelIds.png", "notes.txt"]


def test_a_part_of_a_split_is_not_to_be_handed_in(run, tmp_path: Path) -> None:
    said = run("--split", "test", "--save-predictions", tmp_path / "test", "--max-images", 1)
    assert "1 of 2 frames: not for the server, and not zipped" in said
    assert "handed in" not in said
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["berlin_000000_000019_labelIds.png"]


def test_the_official_evaluator_agrees(run, shards: Path) -> None:
    said = run("--official", shards.parent / "source", "--json")
    assert "the largest difference of a class's IoU is 0.0000 %; there is no iIoU" in said
    scores = run.document
    assert scores["official"]["miou"] == pytest.approx(scores["miou"], abs=1e-12)
    assert scores["official"]["instance_miou"] is None
    assert {n: v for n, v in scores["classes"].items() if v is not None} == pytest.approx(scores["official"]["classes"])


def test_leaves_a_report(run, tmp_path: Path) -> None:
    said = run("--report", tmp_path / "report", "--json", "--window", 40, 48)
    assert f"the report is {tmp_path / 'report/report.html'}" in said
    assert re.search(r"most frequent confusions, as shares of the true class: \w.* taken for \w.* \(\d+ %\)", said)
    scores, found = run.document, read_run(tmp_path / "report")
    assert found.best["miou"] == scores["miou"]
    assert found.best["weights"] == "model"
    assert found.matrix == scores["matrix"]
    assert [frame.iou for frame in found.gallery] == sorted(frame.iou for frame in found.gallery)
    assert len(found.gallery) == 5
    assert "fastseg-eval" in found.environment["command"]
    page = (tmp_path / "report/report.html").read_text()
    assert all(frame.key in page for frame in found.gallery)
    assert "traffic light" in page
    assert f"<h1>ckpt.pt of {found.config['name']}, on val</h1>" in page
    assert "windows of 40×48" in page


WITHOUT_TORCH = """
import json, sys
from fastseg.commands import evaluate
for words in json.loads(sys.argv[1]):
    sys.argv = ["fastseg-eval", *words]
    try:
        evaluate.main()
    except SystemExit as end:
        assert end.code == 2
assert "fastseg.commands.evaluate" in sys.modules and "torch" not in sys.modules
"""


def test_wrong_files_are_known_without_torch(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused = {
        (tmp_path / "none.pt",): "none.pt does not exist",
        (tmp_path / "notes.txt",): "is not a checkpoint (no zip archive, 4 bytes)",
        (tmp_path, trained): "the checkpoint comes first",
        (trained, "--report", tmp_path / "notes.txt"): "--report is",
        (trained, "--shards", tmp_path): "holds no finished set of shards",
    }
    arguments = json.dumps([list(map(str, words)) for words in refused])
    result = commands.typed(sys.executable, "-c", WITHOUT_TORCH, arguments)
    assert result.returncode == 0, result.stderr
    for line, says in zip(result.stderr.splitlines(), refused.values(), strict=True):
        assert line.startswith("error: ")
        assert says in line


def test_nothing_is_overwritten_unasked(run, tmp_path: Path) -> None:
    folder = tmp_path / "predictions"
    folder.mkdir()
    (folder / "lindau_000000_000019_labelIds.png").write_text("mine")
    (folder / "notes.txt").write_text("mine, too")
    says = f"{folder} holds files already (lindau_000000_000019_labelIds.png and 1 more); name another"
    assert says in run("--save-predictions", folder, fails=True)
    assert f"{says} --report or add --overwrite" in run("--report", folder, fails=True)
    assert "which is a file" in run("--save-predictions", folder / "notes.txt", fails=True)
    assert len(list(folder.iterdir())) == 2
    assert "1 predictions" in run("--save-predictions", folder, "--overwrite", "--max-images", 1)
    assert Image.open(folder / "lindau_000000_000019_labelIds.png").size == (96, 64)
    assert (folder / "notes.txt").read_text() == "mine, too"
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    assert "the folder of a run" in run("--report", tmp_path / "run", "--overwrite", fails=True)


def test_other_classes_are_saved_as_train_ids(run, tmp_path: Path) -> None:
    pack(open_source(layouts.write_folder_dataset(tmp_path / "source")), tmp_path / "shards", workers=1)
    own = write_checkpoint(tmp_path / "ckpt.pt", tmp_path / "shards", read_manifest(tmp_path / "shards").classes)
    said = run("--save-predictions", tmp_path / "out", ckpt=own)
    assert "2 predictions, PNGs of train ids (0, 1, 2, …)" in said
    assert "boundary IoU │" in said.replace("┃", "│")
    assert "category" not in said  # these classes have none
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["val_000.png", "val_001.png"]
    assert np.asarray(Image.open(tmp_path / "out/val_000.png")).max() <= 2
    assert "knows the 19 classes of Cityscapes alone" in run("--official", tmp_path, ckpt=own, fails=True)


def test_a_smaller_set_is_not_compared_with_the_full_ground_truth(run, shards: Path, tmp_path: Path) -> None:
    source = open_source(shards.parent / "source", splits=("train", "val"))
    pack(source, tmp_path / "small", PackOptions(codec=Codec(height=32)), workers=1)
    says = "the frame has 48×32 pixels, its ground truth"
    assert says in run("--shards", tmp_path / "small", "--official", shards.parent / "source", fails=True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--window", 0, 64], "the window is (0, 64)"),
        (["--max-images", 0], "--max-images is 0; it must be 1 or more"),
        (["--official", "nowhere"], "--official is nowhere, which does not exist"),
        (["--official", "tests"], "tests lacks lindau_000000_000019_gtFine_labelIds.png and 4 more"),
    ],
)
def test_what_cannot_be_done_gets_one_sentence(run, words: list[object], says: str) -> None:
    assert says in run(*words, fails=True)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--batch", 2], "evaluate with --batch 2; lower it"),
        (["--window", 40, 48], "evaluate with --window 40 48; name a smaller one"),
        ([], "evaluate frames of 6,144 pixels; look through smaller windows with --window H W"),
    ],
)
def test_too_little_memory_is_one_sentence(
    run, monkeypatch: pytest.MonkeyPatch, flags: list[object], says: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("fastseg.model.trained.predict", full)
    assert f"GiB of memory are too little to {says}" in run(*flags, fails=True)


def test_two_ranks_save_and_compare(run, trained: Path, shards: Path, tmp_path: Path) -> None:
    flags = ("--max-images", 3, "--window", 40, 48, "--official", shards.parent / "source")
    run("--save-predictions", tmp_path / "one", "--json", *flags)
    both = commands.run(
        *("fastseg-eval", trained, "--precision", "fp32", "--gpus", 2, *flags),
        *("--save-predictions", tmp_path / "two", "--json"),
    )
    assert both.returncode == 0, both.stderr
    assert "the largest difference of a class's IoU is 0.0000 %" in both.stderr
    one, two = run.document, json.loads(both.stdout)
    speeds = {one.pop("images_per_second"), two.pop("images_per_second")}
    assert one == two
    assert min(speeds) > 0
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert names[0] == names[1]
    assert len(names[0]) == 3
    temporary = commands.run("fastseg-eval", trained, "--precision", "fp32", "--gpus", 2, *flags)
    assert "the largest difference of a class's IoU is 0.0000 %" in temporary.stdout
    assert torch.tensor(one["matrix"]).sum() > 0
