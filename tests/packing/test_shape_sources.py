"""Masks that are shapes: each equal to an independent reading, and every refusal by its sentence."""

import base64
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from fastseg.errors import UserError
from fastseg.labels import IGNORE
from fastseg.packing.guess_classes import write_guess
from fastseg.packing.sources import SOURCES, DataSet, open_source
from fastseg.packing.sources.samples import Sample
from fastseg.packing.sources.tree import Tree
from layouts import noise
from shape_layouts import (
    CATEGORIES,
    SHAPE_WRITERS,
    SIZE,
    labelme_shapes,
    write_coco,
    write_labelme,
    write_labelme_json,
    write_one_coco,
    write_panoptic,
    write_roboflow,
    write_yolo,
)

WIDTH, HEIGHT = SIZE
# pycocotools is older than numpy's argument.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def mask_of(sample: Sample) -> np.ndarray:
    assert sample.mask
    return np.asarray(pickle.loads(pickle.dumps(sample.mask)).decode().image)


def names_of(found: DataSet) -> list[str]:
    return [entry.name for entry in found.table.classes]


def samples_by_stem(found: DataSet, split: str) -> dict[str, Sample]:
    return {Path(sample.image.filename).stem: sample for sample in found.samples if sample.split == split}


@pytest.mark.parametrize("name", list(SHAPE_WRITERS))
def test_each_set_is_recognized_by_its_own_source_alone(tmp_path: Path, name: str) -> None:
    """In a folder, a zip and a tar, and in a folder of its own inside; the samples are the same."""
    folder = SHAPE_WRITERS[name](tmp_path / "outer" / "set")
    expected = open_source(folder)
    assert expected.summary() == f"{name}: 4 train, 2 val"
    archive = Path(shutil.make_archive(str(tmp_path / "set"), "zip", folder))
    ball = Path(shutil.make_archive(str(tmp_path / "set"), "tar", folder))
    for path in (folder, archive, ball, folder.parent):
        named = (source for source in SOURCES[:-1] if source.recognize(Tree(path, source.archives)))
        assert path == folder.parent or [source.name for source in named] == [name]
        found = open_source(path)
        assert (found.layout, found.table.classes) == (name, expected.table.classes)
        for one, other in zip(found.samples, expected.samples, strict=True):
            assert (one.key, one.split, one.image.read()) == (other.key, other.split, other.image.read())
            assert np.array_equal(mask_of(one), mask_of(other))


def coco_reference(path: Path) -> dict[str, np.ndarray]:
    """Masks by pycocotools' annToMask: larger ones first, groups too, categories by the order of their ids."""
    reader, masks = COCO(str(path)), {}
    values = {category: value for value, category in enumerate(sorted(c["id"] for c in CATEGORIES), 1)}
    for number in reader.getImgIds():
        canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
        drawn = [(a, reader.annToMask(a) == 1) for a in reader.loadAnns(reader.getAnnIds(imgIds=number))]
        for annotation, inside in sorted(drawn, key=lambda pair: -pair[1].sum()):
            canvas[inside] = values[annotation["category_id"]]
        masks[Path(reader.loadImgs(number)[0]["file_name"]).stem] = canvas
    return masks


@pytest.mark.parametrize(
    ("write", "files"),
    [
        (write_coco, {"train": "annotations/instances_train2017.json", "val": "annotations/instances_val2017.json"}),
        (write_roboflow, {"train": "train/_annotations.coco.json", "val": "valid/_annotations.coco.json"}),
        (write_one_coco, {"train": "annotations.json"}),
    ],
)
def test_coco_equals_its_own_reader(tmp_path: Path, write: Callable[[Path], Path], files: dict[str, str]) -> None:
    found = open_source(write(tmp_path / "set"))
    assert found.layout == "COCO JSON"
    assert names_of(found) == ["background", "cat", "traffic light", "bus"]
    assert found.table.train_ids == {0: 0, 1: 1, 2: 2, 3: 3, 255: IGNORE}
    assert {sample.split for sample in found.samples} == set(files)
    for split, file in files.items():
        expected, samples = coco_reference(tmp_path / "set" / file), samples_by_stem(found, split)
        assert samples.keys() == expected.keys()
        for stem, sample in samples.items():
            assert np.array_equal(mask_of(sample), expected[stem])
        assert {0, 1, 2, 3} == set(np.unique(list(expected.values())))


def test_coco_reads_its_own_zips(tmp_path: Path) -> None:
    folder, zips = write_coco(tmp_path / "set"), tmp_path / "zips"
    zips.mkdir()
    for name, package in (
        ("train2017.zip", "train2017"),
        ("val2017.zip", "val2017"),
        ("annotations_trainval2017.zip", "annotations"),
    ):
        with zipfile.ZipFile(zips / name, "w") as archive:
            for path in (folder / package).iterdir():
                archive.write(path, path.relative_to(folder))
    packed, plain = open_source(zips), open_source(folder)
    assert packed.table.classes == plain.table.classes
    for one, other in zip(packed.samples, plain.samples, strict=True):
        assert (one.key, one.split, one.image.read()) == (other.key, other.split, other.image.read())
        assert np.array_equal(mask_of(one), mask_of(other))


def test_panoptic_equals_numpy(tmp_path: Path) -> None:
    folder = write_panoptic(tmp_path / "set")
    found = open_source(folder)
    assert [(c.name, c.color) for c in found.table.classes] == [
        ("cat", (0, 200, 7)),
        ("traffic light", (20, 200, 7)),
        ("bus", (10, 200, 7)),
    ]
    values = {3: 0, 4: 1, 7: 2}
    for split in ("train", "val"):
        document = json.loads((folder / f"annotations/panoptic_{split}2017.json").read_text())
        samples = samples_by_stem(found, split)
        for annotation in document["annotations"]:
            png = folder / "annotations" / f"panoptic_{split}2017" / annotation["file_name"]
            rgb = np.asarray(Image.open(png)).astype(np.int64)
            numbers = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
            expected = np.full((HEIGHT, WIDTH), IGNORE)
            for segment in annotation["segments_info"]:
                expected[numbers == segment["id"]] = values[segment["category_id"]]
            assert np.array_equal(mask_of(samples[Path(annotation["file_name"]).stem]), expected)
            assert IGNORE in expected


def labelme_reference(shapes: list[dict[str, Any]], values: dict[str, int]) -> np.ndarray:
    """Masks as labelme's shapes_to_label makes them: each shape on a mask of its own, later ones over earlier."""
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    for shape in shapes:
        mask, points = Image.new("L", SIZE), [tuple(point) for point in shape["points"]]
        draw = ImageDraw.Draw(mask)
        if shape["shape_type"] == "circle":
            (x, y), (right, bottom) = points
            d = ((x - right) ** 2 + (y - bottom) ** 2) ** 0.5
            draw.ellipse([x - d, y - d, x + d, y + d], outline=1, fill=1)
        elif shape["shape_type"] == "rectangle":
            (x, y), (right, bottom) = points
            draw.rectangle([min(x, right), min(y, bottom), max(x, right), max(y, bottom)], outline=1, fill=1)
        elif shape["shape_type"] == "mask":
            part = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
            mask = Image.fromarray(
                np.pad(np.asarray(part) > 0, ((points[0][1], 99), (points[0][0], 99))).astype(np.uint8)
            )
        else:
            draw.polygon(points, outline=1, fill=1)
        canvas[np.asarray(mask)[:HEIGHT, :WIDTH] == 1] = values[shape["label"]]
    return canvas


@pytest.mark.parametrize("listed", [False, True])
def test_labelme_equals_pillow(tmp_path: Path, listed: bool) -> None:
    folder = write_labelme(tmp_path / "set")
    names = ["background", "cat", "dog", "zebra"]
    if listed:
        (folder / "labels.txt").write_text("__ignore__\n_background_\nzebra\nbird\ncat\ndog\n")
        names = ["background", "zebra", "bird", "cat", "dog"]
    found = open_source(folder)
    assert names_of(found) == names
    values = {"__ignore__": IGNORE, "_background_": 0} | {name: value for value, name in enumerate(names)}
    assert [sample.key for sample in found.samples] == [f"train_{i}" for i in range(4)] + [f"val_{i}" for i in range(2)]
    seen = set[int]()
    for sample in found.samples:
        document = json.loads((folder / sample.split / f"{sample.key}.json").read_text())
        expected = labelme_reference(document["shapes"], values)
        assert np.array_equal(mask_of(sample), expected)
        assert Image.open(io.BytesIO(sample.image.read())).size == SIZE
        seen |= set(np.unique(expected).tolist())
    assert seen == {0, 1, 2, 3, IGNORE} if not listed else {0, 1, 3, 4, IGNORE}


def test_labelme_images_that_were_moved_are_found_beside_their_json(tmp_path: Path) -> None:
    image = tmp_path / "set" / "a.JPG"
    image.parent.mkdir()
    noise(1, SIZE).save(image)
    for path in ("..\\..\\other\\gone.jpg", "/home/me/b.png", "C:\\pictures\\b.png", "../../../etc/passwd", ""):
        write_labelme_json(image, labelme_shapes(np.random.default_rng(0)), imagePath=path)
        assert [sample.image.filename for sample in open_source(tmp_path / "set").samples] == ["a.JPG"]
    image.unlink()
    with pytest.raises(UserError, match=r"a\.json: its image is not beside it; add it"):
        open_source(tmp_path / "set")


def test_yolo_equals_opencv(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set")
    found = open_source(folder)
    assert names_of(found) == ["background", "tree", "no", "car"]
    empty = 0
    for sample in found.samples:
        path, objects = folder / "labels" / sample.split / f"{sample.key}.txt", []
        for line in path.read_text().splitlines() if path.exists() else ():
            outline = np.array(line.split()[1:], np.float32).reshape(-1, 2)
            outline[:, 0] *= WIDTH
            outline[:, 1] *= HEIGHT
            part = cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [outline.astype(np.int32)], 1)
            objects.append((part, int(line.split()[0]) + 1))
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for part, value in sorted(objects, key=lambda pair: -int(pair[0].sum())):
            expected[part == 1] = value
        assert np.array_equal(mask_of(sample), expected)
        empty += not path.exists()
    assert empty == 2


@pytest.mark.parametrize(
    "text",
    [
        "train: ../train/images\nval: ../valid/images\nnames: ['tree', 'no', 'car']\n",  # as Roboflow writes it
        "path: /content/x\ntrain: /content/x/train/images\nval: [valid/images]\nnames: {0: tree, 1: no, 2: car}\n",
        "train: lists/train.txt\nval: lists/val.txt\nnames: [tree, no, car]\n",
        "path: .\ntrain: train\nvalidation: valid\nnames: {2: car, 0: tree, 1: no}\n",
    ],
)
def test_yolo_splits_are_found_as_ultralytics_finds_them(tmp_path: Path, text: str) -> None:
    folder = write_yolo(tmp_path / "set")
    expected = [mask_of(sample) for sample in open_source(folder).samples]
    for split, name in (("train", "train"), ("val", "valid")):
        for kind in ("images", "labels"):
            (folder / name).mkdir(exist_ok=True)
            shutil.move(folder / kind / split, folder / name / kind)
    (folder / "lists").mkdir()
    (folder / "lists" / "train.txt").write_text("".join(f"./train/images/train_{i}.jpg\n" for i in range(4)))
    (folder / "lists" / "val.txt").write_text("".join(f"/data/set/valid/images/val_{i}.jpg\n" for i in range(2)))
    (folder / "data.yaml").write_text(text)
    found = open_source(folder)
    assert names_of(found) == ["background", "tree", "no", "car"]
    assert [(s.split, s.key) for s in found.samples] == [("train", f"train_{i}") for i in range(4)] + [
        ("val", f"val_{i}") for i in range(2)
    ]
    assert all(np.array_equal(mask_of(s), mask) for s, mask in zip(found.samples, expected, strict=True))


@pytest.mark.parametrize("name", list(SHAPE_WRITERS))
def test_guess_classes_writes_the_names_that_the_set_brings(tmp_path: Path, name: str) -> None:
    folder = SHAPE_WRITERS[name](tmp_path / "set")
    if name == "YOLO segmentation":  # a class that never occurs
        text = (folder / "data.yaml").read_text()
        (folder / "data.yaml").write_text(text.replace("nc: 3", "nc: 4").replace("car]", "car, ghost]"))
    before = open_source(folder)
    guess, path = write_guess(folder, 1)
    assert sum(guess.pixels.values()) == 6 * WIDTH * HEIGHT
    found = open_source(folder)
    assert path == folder / "classes.json"
    assert found.table.classes == before.table.classes
    assert {**found.table.train_ids, IGNORE: IGNORE} == before.table.train_ids
    merged = json.loads(path.read_text())
    merged["classes"] = [{"values": [entry["value"] for entry in merged["classes"]], "name": "anything"}]
    path.write_text(json.dumps(merged))
    assert names_of(open_source(folder)) == ["anything"]


def test_panoptic_masks_are_taken_where_instances_lie_beside_them(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "set")
    write_panoptic(tmp_path / "panoptic")
    shutil.copytree(tmp_path / "panoptic" / "annotations", folder / "annotations", dirs_exist_ok=True)
    assert open_source(folder).summary() == "COCO panoptic: 4 train, 2 val"


def test_four_corners_are_a_rectangle_too(tmp_path: Path) -> None:
    """As X-AnyLabeling writes it."""
    masks = []
    for points in ([[9.5, 30], [40, 8]], [[9.5, 8], [40, 8], [40, 30], [9.5, 30]]):
        noise(1, SIZE).save(tmp_path / "a.png")
        write_labelme_json(tmp_path / "a.png", [{"label": "x", "points": points, "shape_type": "rectangle"}])
        masks.append(mask_of(open_source(tmp_path).samples[0]))
    assert np.array_equal(*masks)
    assert masks[0].sum() == 32 * 23
