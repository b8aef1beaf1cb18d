"""Exports of annotation tools, with the paths and folders that people have: each equal to an independent reading."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from fastseg.errors import UserError
from fastseg.packing.pack import pack
from fastseg.packing.sources import DataSet, open_source
from fastseg.packing.sources.samples import Sample
from layouts import noise, write_folder_dataset
from shape_layouts import (
    SIZE,
    labelme_shapes,
    write_brush,
    write_cvat,
    write_images,
    write_labelme_json,
    write_one_coco,
    write_panoptic,
    write_supervisely,
    write_via,
    write_yolo,
)

WIDTH, HEIGHT = SIZE
# pycocotools is older than numpy's argument.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def mask_of(sample: Sample) -> np.ndarray:
    assert sample.mask
    return np.asarray(sample.mask.decode().image)


def masks_of(found: DataSet) -> dict[str, np.ndarray]:
    return {sample.image.filename: mask_of(sample) for sample in found.samples}


def classes_of(found: DataSet) -> list[tuple[str, tuple[int, int, int]]]:
    return [(entry.name, entry.color) for entry in found.table.classes[1:]]


def filled(outline: np.ndarray) -> np.ndarray:
    return coco.decode(coco.merge(coco.frPyObjects([outline.ravel().tolist()], HEIGHT, WIDTH))) == 1


def test_supervisely_equals_numpy_and_opencv(tmp_path: Path) -> None:
    folder = write_supervisely(tmp_path)
    found = open_source(folder)
    assert classes_of(found) == [("road", (32, 128, 32)), ("tree", (224, 240, 0)), ("car", (16, 160, 255))]
    for sample in found.samples:
        document = json.loads((folder / sample.split / "ann" / f"{sample.image.filename}.json").read_text())
        box, polygon, bitmap, second = document["objects"]
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        (right, top), (left, bottom) = box["points"]["exterior"]
        expected[top : bottom + 1, left : right + 1] = 3
        for entry in (polygon, second):
            part = np.zeros((HEIGHT, WIDTH), np.uint8)
            cv2.fillPoly(part, [np.floor(entry["points"]["exterior"]).astype(np.int32)], 1)
            for hole in entry["points"]["interior"]:
                cv2.fillPoly(part, [np.array(hole, np.int32)], 0)
            if entry is second:
                x, y = bitmap["bitmap"]["origin"]
                expected[y : y + 9, x : x + 14][bitmap_of(sample)] = 2
            expected[part == 1] = 1
        assert np.array_equal(mask_of(sample), expected)


def bitmap_of(sample: Sample) -> np.ndarray:
    """What was drawn into the bitmap: the first numbers of the generator of its image."""
    seed = int(Path(sample.image.filename).stem.split()[1]) + 1000 * len(sample.split)
    return np.random.default_rng(seed).integers(0, 2, (9, 14), np.uint8) == 1


def test_a_box_around_a_mask_of_supervisely_is_refused(tmp_path: Path) -> None:
    path = next(write_supervisely(tmp_path).glob("train/ann/*0.jpg.json"))
    path.write_text(path.read_text().replace('"car"', '"tree"'))
    with pytest.raises(UserError, match=r"0\.jpg\.json has rectangles and masks of 'tree'; a box is no mask"):
        masks_of(open_source(tmp_path))


def test_cvat_equals_its_own_export_of_masks(tmp_path: Path) -> None:
    """By z_order, polygons and boxes by pycocotools, ellipses by OpenCV, runs by numpy; lines and tags left out."""
    folder = write_cvat(tmp_path)
    found = open_source(folder)
    assert classes_of(found) == [("road", (51, 221, 255)), ("car", (250, 50, 83)), ("sign", (255, 204, 51))]
    masks = masks_of(found)
    for image in ElementTree.parse(folder / "annotations.xml").iter("image"):
        first, under = (
            np.array([pair.split(",") for pair in polygon.attrib["points"].split(";")], float)
            for polygon in image.iter("polygon")
        )
        mask, box, ellipse = (next(image.iter(tag)).attrib for tag in ("mask", "box", "ellipse"))
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        expected[filled(under)] = 3
        expected[filled(first)] = 1
        runs = [int(run) for run in mask["rle"].split(",")]
        part = np.repeat(np.arange(len(runs)) % 2, runs).reshape(12, 20)
        x, y = int(mask["left"]), int(mask["top"])
        expected[y : y + 12, x : x + 20][part == 1] = 2
        left, top, right, bottom = (float(box[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
        corners = cv2.boxPoints((((left + right) / 2, (top + bottom) / 2), (right - left, bottom - top), 30.0))
        expected[filled(corners.astype(float).round(4))] = 3
        center = round(float(ellipse["cx"])), round(float(ellipse["cy"]))
        expected[cv2.ellipse(np.zeros((HEIGHT, WIDTH), np.uint8), center, (6, 4), 0, 0, 360, 1, -1) == 1] = 2
        assert np.array_equal(masks[image.attrib["name"]], expected)


def test_tasks_of_cvat_may_lie_side_by_side(tmp_path: Path) -> None:
    for task in ("first", "second"):
        write_cvat(tmp_path / "set" / task)
    found = open_source(tmp_path / "set")
    assert found.summary() == "CVAT for images: 8 train, 4 val"
    assert len({sample.key for sample in found.samples if sample.split == "train"}) == 8


def circle(x: float, y: float, wide: float, high: float, turn: float = 0) -> np.ndarray:
    angles = [math.radians(5 * step) for step in range(72)]
    points = np.array([(wide * math.cos(a), high * math.sin(a)) for a in angles])
    return points @ np.array([(math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))]) + (x, y)


def test_via_equals_pycocotools(tmp_path: Path) -> None:
    folder = write_via(tmp_path)
    found = open_source(folder)
    assert [name for name, _ in classes_of(found)] == ["car", "road", "tree"]
    for sample in found.samples:
        document = json.loads((folder / sample.split / "via_region_data.json").read_text())
        regions = next(entry["regions"] for entry in document.values() if entry["filename"] == sample.image.filename)
        shapes = [region["shape_attributes"] for region in (regions if sample.split == "train" else regions.values())]
        polygon, rect, ring, ellipse = shapes
        x, y = rect["x"], rect["y"]
        parts = [
            (2, filled(np.stack([polygon["all_points_x"], polygon["all_points_y"]], 1).astype(float))),
            (1, filled(np.array([(x, y), (x + 17, y), (x + 17, y + 9), (x, y + 9)], float))),
            (3, filled(circle(ring["cx"], ring["cy"], 7.5, 7.5))),
            (1, filled(circle(ellipse["cx"], ellipse["cy"], 9, 4, 0.5))),
        ]
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for value, inside in sorted(parts, key=lambda part: -part[1].sum()):
            expected[inside] = value
        assert np.array_equal(mask_of(sample), expected)


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ({}, ["object"]),
        ({"damage": "dent"}, ["dent"]),
        ({"type": {"dent": True, "rust": False}, "image_quality": "good"}, ["dent"]),
        ({"Label": "dent", "by": "me"}, ["dent"]),
    ],
)
def test_via_projects_name_their_classes_in_an_attribute(tmp_path: Path, attributes: Any, names: list[str]) -> None:
    noise(1, SIZE).save(tmp_path / "a.jpg")
    region = {
        "shape_attributes": {"name": "rect", "x": 3, "y": 4, "width": 9, "height": 5},
        "region_attributes": attributes,
    }
    images = {"a.jpg9": {"filename": "a.jpg", "size": 9, "regions": [region], "file_attributes": {}}}
    project = {"_via_settings": {"ui": {}}, "_via_img_metadata": images, "_via_attributes": {"region": {}}}
    (tmp_path / "via_project_1Jan2024.json").write_text(json.dumps(project))
    found = open_source(tmp_path)
    assert [name for name, _ in classes_of(found)] == names
    assert mask_of(found.samples[0]).sum() == 9 * 5


def test_brush_masks_of_label_studio_equal_numpy(tmp_path: Path) -> None:
    folder = write_brush(tmp_path)
    found = open_source(folder)
    assert [name for name, _ in classes_of(found)] == ["road", "swimming pool", "well-kept lawn"]
    samples = sorted(found.samples, key=lambda sample: (sample.split, sample.key))
    for task, sample in enumerate(samples, 1):
        strokes = [
            (value, np.asarray(Image.open(folder / f"task-{task}-annotation-{task + 90}-by-1-tag-{name}-0.png")) == 255)
            for value, (name, _) in enumerate(classes_of(found), 1)
        ]
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for value, inside in sorted(strokes, key=lambda stroke: -stroke[1].sum()):
            expected[inside] = value
        assert np.array_equal(mask_of(sample), expected)


def test_tasks_of_label_studio_name_uploaded_images(tmp_path: Path) -> None:
    """With eight letters before the name, which the user's own file lacks; an earlier annotation is left out."""
    folder = write_brush(tmp_path)
    expected = masks_of(open_source(folder))
    path = next(folder.glob("*.json"))
    tasks = json.loads(path.read_text())
    for task in tasks:
        image = folder / task["data"]["image"].partition("?d=")[2]
        task |= {"data": {"photo": f"/data/upload/1/0123abcd-{image.name}"}, "file_upload": f"0123abcd-{image.name}"}
        shutil.move(image, folder / "images" / image.name)
    path.write_text(json.dumps(tasks))
    first = folder / "task-1-annotation-91-by-1-tag-road-0.png"
    shutil.copy(first, folder / "task-1-annotation-7-by-me@host-tag-road-0.png")
    for png in folder.glob("task-6-*.png"):
        png.unlink()
    found = open_source(folder)
    assert found.summary() == "Label Studio (brush): 5 train"
    assert [reason for _, reason in found.skipped] == ["its task has a later annotation", "its task has no strokes"]
    assert all(np.array_equal(mask, expected[name]) for name, mask in masks_of(found).items())
    path.unlink()
    with pytest.raises(UserError, match=r"is of the task \d, but nothing tells its image; export the project as JSON"):
        open_source(folder)


Rename = Callable[[str], str]


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"/home/ann/project/images/{name}",
        lambda name: f"C:\\Users\\ann\\project\\{name}",
        lambda name: f"../../label-studio/data/media/upload/1/{name}",
        lambda name: f"https://host/bucket/{name}",
        lambda name: f"/data/local-files/?d=set/{name}",
        lambda name: f"datasets/mine/images/{name}",
        lambda name: f"images\\{name}",
    ],
)
def test_coco_images_are_found_by_the_last_parts_of_their_paths(tmp_path: Path, rename: Rename) -> None:
    folder = write_one_coco(tmp_path)
    expected = masks_of(open_source(folder))
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    for image in document["images"]:
        image["file_name"] = rename(image["file_name"])
    path.write_text(json.dumps(document))
    found = masks_of(open_source(folder))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], mask) for name, mask in expected.items())


def test_subsets_of_a_coco_export_are_found_in_any_case(tmp_path: Path) -> None:
    """As CVAT writes them: annotations/instances_Train.json and images/Train."""
    folder = write_one_coco(tmp_path)
    expected = masks_of(open_source(folder))
    (folder / "annotations").mkdir()
    (folder / "annotations.json").rename(folder / "annotations" / "instances_Train.json")
    (folder / "images").rename(folder / "Train")
    shutil.move(folder / "Train", folder / "images" / "Train")
    found = masks_of(open_source(folder))
    assert all(np.array_equal(found[name], mask) for name, mask in expected.items())


def test_a_coco_of_all_images_gives_way_to_those_of_its_splits(tmp_path: Path) -> None:
    folder = write_one_coco(tmp_path)
    expected = masks_of(open_source(folder))
    document = json.loads((folder / "annotations.json").read_text())
    for split, images in (("train", document["images"][:2]), ("val", document["images"][2:])):
        numbers = {image["id"] for image in images}
        annotations = [a for a in document["annotations"] if a["image_id"] in numbers] or document["annotations"][:1]
        annotations = [{**a, "image_id": max(numbers)} if a["image_id"] not in numbers else a for a in annotations]
        (folder / f"{split}.json").write_text(json.dumps({**document, "images": images, "annotations": annotations}))
    found = open_source(folder)
    assert found.summary() == "COCO JSON: 2 train, 1 val"
    assert found.skipped == ((str(folder / "annotations.json"), "other files list its images with their splits"),)
    assert all(np.array_equal(mask_of(s), expected[s.image.filename]) for s in found.samples if s.split == "train")


@pytest.mark.parametrize("write", [write_one_coco, write_panoptic])
@pytest.mark.parametrize(("of_image", "of_annotation"), [(int, str), (str, int), (float, str), (int, " {}")])
def test_ids_of_images_match_as_numbers_and_as_text(
    write: Callable[[Path], Path], of_image: Any, of_annotation: Any, tmp_path: Path
) -> None:
    """As exporters write them that read their own tables with pandas, or keep ids as text."""
    folder = write(tmp_path)
    expected = masks_of(open_source(folder))
    annotated = of_annotation if callable(of_annotation) else of_annotation.format
    for file in folder.rglob("*.json"):
        document = json.loads(file.read_text())
        for image in document["images"]:
            image["id"] = of_image(image["id"])
        for number, annotation in enumerate(document["annotations"]):
            annotation["image_id"] = annotated(annotation["image_id"]) if number else annotation["image_id"]
        file.write_text(json.dumps(document))
    found = open_source(folder)
    assert not found.skipped
    assert all(np.array_equal(mask, expected[name]) for name, mask in masks_of(found).items())


def test_annotations_of_unlisted_images_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = write_one_coco(tmp_path)
    expected = masks_of(open_source(folder))
    document = json.loads((folder / "annotations.json").read_text())
    document["annotations"] += [{**document["annotations"][0], "id": 900 + n, "image_id": 77} for n in range(3)]
    (folder / "annotations.json").write_text(json.dumps(document))
    found = open_source(folder)
    assert "3 annotations of images that it does not list" in found.warnings()[0]
    assert all(np.array_equal(mask, masks_of(found)[name]) for name, mask in expected.items())


@pytest.mark.parametrize("write", [write_one_coco, write_via, write_cvat])
def test_missing_images_are_left_out_on_request(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    folder = write(tmp_path / "set")
    next(path for path in sorted(folder.rglob("*")) if re.fullmatch(r"(train_?)?1\.(png|jpg)", path.name)).unlink()
    with pytest.raises(UserError, match=r"the image is not there; add it, .*--skip-bad"):
        open_source(folder)
    found = open_source(folder, skip_bad=True)
    manifest = pack(found, tmp_path / "out", workers=1, skip_bad=True)
    assert sum(split.samples for split in manifest.splits.values()) == len(found.samples)
    assert "the image is not there" in (tmp_path / "out" / "skipped.txt").read_text()


def test_a_zip_inside_a_zip_is_named(tmp_path: Path) -> None:
    """COCO's panoptic_annotations_trainval2017.zip has the masks of each split in a zip of their own."""
    folder, download = write_panoptic(tmp_path / "set"), tmp_path / "download"
    for split in ("train", "val"):
        masks = folder / "annotations" / f"panoptic_{split}2017"
        shutil.make_archive(str(masks), "zip", masks.parent, masks.name)
        shutil.rmtree(masks)
        shutil.make_archive(str(download / f"{split}2017"), "zip", folder, f"{split}2017")
    assert open_source(folder).summary() == "COCO panoptic: 4 train, 2 val"
    shutil.make_archive(str(download / "panoptic_annotations_trainval2017"), "zip", folder, "annotations")
    with pytest.raises(UserError, match=r"panoptic_train2017\.zip is a zip in a zip, .*; unzip panoptic_annotations_"):
        open_source(download)


def test_yolo_splits_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    """Roboflow names three splits in every data.yaml, CVAT writes data/ before the names in its lists."""
    folder = write_yolo(tmp_path)
    expected = masks_of(open_source(folder))
    (folder / "train.txt").write_text("".join(f"data/images/train/train_{n}.jpg\n" for n in range(4)))
    text = "train: train.txt\nval: ../valid/images\ntest: ../test/images\nnames: {0: tree, 1: no, 2: car}\n"
    (folder / "data.yaml").write_text(text)
    found = open_source(folder)
    assert found.summary() == "YOLO segmentation: 4 train"
    assert [name for name, _ in found.skipped] == ["'../valid/images' (val)", "'../test/images' (test)"]
    assert all(np.array_equal(mask, expected[name]) for name, mask in masks_of(found).items())


def test_yolo_of_label_studio_has_a_list_of_classes_only(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    expected = masks_of(open_source(folder))
    (folder / "data.yaml").unlink()
    with pytest.raises(UserError, match=r"has text files of YOLO, but no data\.yaml that names classes and splits"):
        open_source(folder)
    (folder / "classes.txt").write_text("tree\nno\ncar\n")
    (folder / "notes.json").write_text(json.dumps({"categories": [{"id": 0, "name": "tree"}], "info": {"year": 2024}}))
    found = open_source(folder)
    assert found.summary() == "YOLO segmentation: 4 train, 2 val"
    assert all(np.array_equal(mask, expected[name]) for name, mask in masks_of(found).items())
    for kind, ending in (("images", "jpg"), ("labels", "txt")):
        for path in folder.glob(f"{kind}/train/*.{ending}"):
            path.rename(folder / kind / path.name)
        shutil.rmtree(folder / kind / "train")
        shutil.rmtree(folder / kind / "val")
    assert open_source(folder).summary() == "YOLO segmentation: 4 train"


def test_boxes_beside_masks_are_passed_over(tmp_path: Path) -> None:
    """Sets for detection and segmentation: COCO or YOLO has the boxes, and folders the masks."""
    for path in write_folder_dataset(tmp_path).rglob("*.png"):
        if path.parent.name == "images":
            label = path.parent.parent / "labels" / f"{path.stem}.txt"
            label.parent.mkdir(exist_ok=True)
            label.write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [box]\n")
    image = {"id": 1, "file_name": "train_000.png", "width": 64, "height": 32}
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": []}]
    document = {"images": [image], "annotations": boxes, "categories": [{"id": 1, "name": "box"}]}
    (tmp_path / "instances_train.json").write_text(json.dumps(document))
    found = open_source(tmp_path)
    assert found.layout == "images and masks by their names"
    assert [entry.name for entry in found.table.classes] == ["ground", "box", "dot"]


def test_images_of_labelme_may_lie_in_another_folder(tmp_path: Path) -> None:
    """JSON files that were moved away from their images keep the bare names."""
    for split, _, path, rng in write_images(tmp_path, lambda s, n: f"images/{s}/{n}.jpg"):
        moved = tmp_path / "labels" / split / f"{path.stem}.json"
        moved.parent.mkdir(parents=True, exist_ok=True)
        write_labelme_json(path, labelme_shapes(rng)).rename(moved)
    found = open_source(tmp_path)
    assert found.summary() == "labelme: 4 train, 2 val"
    for sample in found.samples:
        assert sample.name == f"images/{sample.split}/{sample.image.filename}"
    (tmp_path / "copy").mkdir()
    Image.open(tmp_path / "images/train/0.jpg").save(tmp_path / "copy" / "train 0.jpg")
    shutil.copy(tmp_path / "images/train/3.jpg", tmp_path / "copy" / "3.jpg")
    assert open_source(tmp_path).summary() == "labelme: 4 train, 2 val"
