"""Procedural streets: the files, the labels, what they cost, and that picture and annotation agree."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.helpers.labels import name2label
from cityscapesscripts.preparation.json2labelImg import createLabelImage, json2labelImg
from numpy.typing import NDArray
from PIL import Image

from fastseg.commands import pack
from fastseg.labels import IGNORE, cityscapes
from fastseg.shards.manifest import read_manifest
from tools import make_scenes
from tools.scenes import Scene, scene, write_scene
from tools.scenes.geometry import Camera
from tools.scenes.plan import HIGHLIGHTS

TABLE = cityscapes()
COMMAND = [sys.executable, str(Path(__file__).parents[2] / "tools" / "make_scenes.py")]


def labels(made: Scene) -> NDArray[np.uint8]:
    """Train ids of a scene, drawn by the official function."""
    annotation = Annotation()
    annotation.fromJsonText(json.dumps(made.polygons))
    return TABLE.lookup()[np.asarray(createLabelImage(annotation, "ids"))]


@pytest.fixture(scope="module")
def small() -> list[tuple[Scene, NDArray[np.uint8]]]:
    made = [scene(0, "train", index, (256, 128)) for index in range(16)]
    return [(one, labels(one)) for one in made]


def test_a_scene_is_a_function_of_its_request() -> None:
    one, again = (scene(3, "val", 5, (128, 64)) for _ in range(2))
    assert one.key == again.key == "lindholm_000005_000019"
    assert one.polygons == again.polygons
    assert np.array_equal(one.image, again.image)
    for other in (scene(4, "val", 5, (128, 64)), scene(3, "train", 5, (128, 64)), scene(3, "val", 6, (128, 64))):
        assert other.polygons != one.polygons


def test_every_class_and_void_occur_in_shares_like_the_real_ones(small: list[tuple[Scene, NDArray[np.uint8]]]) -> None:
    counts = np.sum([np.bincount(mask.ravel(), minlength=256) for _, mask in small], axis=0)
    names = [entry.name for entry in TABLE.classes]
    assert not [name for name, count in zip(names, counts[: len(names)], strict=True) if count == 0]
    share = dict(zip(names, counts / counts.sum(), strict=False))
    # Cityscapes: road 33 %, building 20, vegetation 14, car 6, sidewalk 5, sky 4, every other class below 1.3.
    assert 0.25 < share["road"] < 0.4
    assert 0.12 < share["building"] < 0.28
    assert 0.08 < share["vegetation"] < 0.2
    assert 0.04 < share["car"] < 0.12
    assert 0.02 < share["sidewalk"] < 0.08
    assert 0.02 < share["sky"] < 0.08
    assert 0.05 < counts[IGNORE] / counts.sum() < 0.18
    common = {"road", "building", "vegetation", "car", "sidewalk", "sky"}
    assert max(share[name] for name in names if name not in common) < 0.03


def test_eight_scenes_in_a_row_show_every_rare_class(small: list[tuple[Scene, NDArray[np.uint8]]]) -> None:
    ids = {entry.name: index for index, entry in enumerate(TABLE.classes)}
    for start in (0, 8):
        seen = np.unique([np.bincount(mask.ravel(), minlength=256) > 0 for _, mask in small[start : start + 8]], axis=0)
        missing = [name for name in HIGHLIGHTS if not seen[:, ids[name]].any()]
        assert not missing


def test_polygons_are_as_the_official_ones(small: list[tuple[Scene, NDArray[np.uint8]]]) -> None:
    for made, _ in small:
        assert set(made.polygons) == {"imgHeight", "imgWidth", "objects"}
        assert (made.polygons["imgWidth"], made.polygons["imgHeight"]) == (256, 128)
        for entry in made.polygons["objects"]:
            assert entry["label"].removesuffix("group") in name2label or entry["label"] in name2label
            corners = np.array(entry["polygon"])
            assert corners.dtype.kind == "i"
            assert corners.ndim == 2
            assert len(corners) >= 3
            assert (corners >= 0).all()
            assert (corners < (256, 128)).all()


def test_edges_of_picture_and_labels_agree() -> None:
    made = scene(1, "train", 2, (1024, 512))
    mask = labels(made)[:440].astype(int)  # above the bonnet
    gray = made.image[:440].astype(float).mean(axis=2)
    across = np.abs(np.diff(gray, axis=1))
    edge = np.diff(mask, axis=1) != 0
    strength = {shift: across[np.roll(edge, shift, axis=1)].mean() for shift in range(-6, 7)}
    assert max(strength, key=lambda shift: strength[shift]) in (-1, 0, 1)
    assert strength[0] > 1.5 * strength[6]
    assert strength[0] > 1.5 * strength[-6]


def test_a_smaller_picture_shows_the_same_street() -> None:
    large, little = scene(2, "train", 4, (1024, 512)), scene(2, "train", 4, (256, 128))
    shrunk = labels(large)[2::4, 2::4]
    assert (shrunk == labels(little)).mean() > 0.93
    averaged = np.asarray(Image.fromarray(large.image).resize((256, 128), Image.Resampling.BOX)).astype(float)
    assert np.abs(averaged - little.image).mean() < 12
    other = labels(scene(2, "train", 5, (256, 128)))
    assert (shrunk == other).mean() < 0.85


def test_files_cost_what_real_ones_do(tmp_path: Path) -> None:
    png: list[int] = []
    jpeg: list[int] = []
    mask: list[int] = []
    for index in (0, 3):
        made = scene(0, "train", index, (2048, 1024))
        Image.fromarray(made.image).save(tmp_path / "image.png")
        Image.fromarray(made.image).save(tmp_path / "image.jpg", quality=95, subsampling=0)
        (tmp_path / "polygons.json").write_text(json.dumps(made.polygons))
        json2labelImg(str(tmp_path / "polygons.json"), str(tmp_path / "labelIds.png"))
        for sizes, name in ((png, "image.png"), (jpeg, "image.jpg"), (mask, "labelIds.png")):
            sizes.append((tmp_path / name).stat().st_size)
    # The means of 20 real frames: 2.25 MB, 581 KB, 14 (optimized) to 16.8 KB.
    assert np.mean(png) == pytest.approx(2.25e6, rel=0.2)
    assert np.mean(jpeg) == pytest.approx(581e3, rel=0.2)
    assert 14e3 * 0.8 < np.mean(mask) < 16.8e3 * 1.2


def test_classes_have_looks_to_learn_but_no_color_of_their_own(small: list[tuple[Scene, NDArray[np.uint8]]]) -> None:
    def features(made: Scene) -> NDArray[np.float64]:
        rows = np.broadcast_to(np.arange(128)[:, None, None], (128, 256, 1)) * 1.5
        return np.concatenate([made.image, rows], axis=2).reshape(-1, 4).astype(float)

    pixels = np.concatenate([features(made) for made, _ in small[:12]])
    truth = np.concatenate([mask.ravel() for _, mask in small[:12]])
    common = [0, 2, 8, 10]  # road, building, vegetation, sky
    centers = np.array([pixels[truth == k].mean(axis=0) for k in common])
    held_out, answer = features(small[14][0]), small[14][1].ravel()
    kept = np.isin(answer, common)
    nearest = np.array(common)[((held_out[kept, None] - centers) ** 2).sum(axis=2).argmin(axis=1)]
    assert (nearest == answer[kept]).mean() > 0.5
    houses = [made.image[mask == 2].mean(axis=0) for made, mask in small]
    assert np.std(houses, axis=0).min() > 5


def test_the_written_files_are_the_official_layout(tmp_path: Path) -> None:
    write_scene(tmp_path, 0, "val", 1, (128, 64))
    write_scene(tmp_path, 0, "test", 0, (128, 64))
    key = "lindholm_000001_000019"
    truth = tmp_path / "gtFine" / "val" / "lindholm"
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    parts = ("polygons.json", "labelIds.png", "instanceIds.png", "color.png")
    assert files == {
        f"leftImg8bit/val/lindholm/{key}_leftImg8bit.png",
        "leftImg8bit/test/ostermoor/ostermoor_000000_000019_leftImg8bit.png",
        *(f"gtFine/val/lindholm/{key}_gtFine_{part}" for part in parts),
    }
    picture = Image.open(tmp_path / "leftImg8bit" / "val" / "lindholm" / f"{key}_leftImg8bit.png")
    assert (picture.mode, picture.size) == ("RGB", (128, 64))
    for name, encoding in (("labelIds", "ids"), ("color", "color")):
        json2labelImg(str(truth / f"{key}_gtFine_polygons.json"), str(tmp_path / "official.png"), encoding)
        official = np.asarray(Image.open(tmp_path / "official.png"))
        assert np.array_equal(np.asarray(Image.open(truth / f"{key}_gtFine_{name}.png")), official)
    ids = np.asarray(Image.open(truth / f"{key}_gtFine_labelIds.png")).astype(int)
    instances = np.asarray(Image.open(truth / f"{key}_gtFine_instanceIds.png")).astype(int)
    assert np.array_equal(np.where(instances >= 1000, instances // 1000, instances), ids)
    assert len(np.unique(instances)) > len(np.unique(ids))


def test_the_camera_sees_parallels_meet_at_the_vanishing_point() -> None:
    camera, size = Camera(height=1.3, focal=1.1, center=0.47, horizon=0.41), (2048, 1024)
    kerb = np.array([(3.0, 0.0, 5.0), (3.0, 0.0, 50.0), (3.0, 0.0, 5e6)])
    near, middle, far = camera.project(kerb, size)
    assert far == pytest.approx((0.47 * 2048, 0.41 * 1024), abs=0.01)
    # Similar triangles: 1.3 m below the eye at 5 m, with a focal length of 1.1 · 2048 pixels.
    assert near == pytest.approx((0.47 * 2048 + 1.1 * 2048 * 3 / 5, 0.41 * 1024 + 1.1 * 2048 * 1.3 / 5))
    assert np.linalg.det(np.array([near - far, middle - far])) == pytest.approx(0, abs=0.1)
    seen = camera.project(np.array([camera.unproject(0.3, 0.8, 7.0)]), size)[0]
    assert seen == pytest.approx((0.3 * 2048, 0.8 * 1024))


def test_the_command_writes_the_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    def make(name: str, workers: str) -> dict[str, bytes]:
        options = ["--train", "3", "--val", "1", "--test", "1", "--size", "128x64", "--seed", "9"]
        command = [*COMMAND, "--out", str(tmp_path / name), *options, "--workers", workers]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "made 5 scenes of 128x64" in done.stdout
        assert "5/5" in done.stderr
        return {
            str(p.relative_to(tmp_path / name)): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()
        }

    one, two = make("one", "1"), make("two", "2")
    assert len(one) == 4 * 5 + 1 + 1  # the test split has pictures only, and name.txt says what they are
    assert one == two


def test_packed_scenes_are_not_called_cityscapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_scenes.make(make_scenes.Options(Path("data/streets"), train=1, size="64x32", workers=1))
    pack._pack(pack.Options(Path("data/streets"), workers=1))
    manifest = read_manifest("shards/procedural-streets")
    assert manifest.name == "procedural streets"
    assert manifest.classes == TABLE.classes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--train", "1", "--size", "2048"], "--size is '2048'"),
        (["--train", "1", "--size", "63x32"], "from 64x32 to 8192x4096"),
        (["--train", "1", "--size", "8193x4096"], "from 64x32 to 8192x4096"),
        (["--train", "-1"], "--train is -1"),
        ([], "no scenes are asked for"),
        (["--val", "1", "--seed", "-1"], "--seed is -1"),
        (["--val", "1", "--workers", "-1"], "--workers is -1"),
    ],
)
def test_what_cannot_be_made_is_refused(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(["--out", str(tmp_path / "new"), *options], capsys, monkeypatch).count(said) == 1
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("mine")
    assert "taken is a file" in refusal(["--out", str(tmp_path / "taken" / "in"), "--train", "1"], capsys, monkeypatch)
    assert (tmp_path / "taken").read_text() == "mine"


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command says when it refuses."""
    monkeypatch.setattr(sys, "argv", ["make_scenes.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(COMMAND[1], run_name="__main__")
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said
