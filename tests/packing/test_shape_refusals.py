"""Annotation files that are damaged, hostile or of another task: one sentence for each, and never a traceback."""

import json
import random
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastseg.errors import UserError
from fastseg.packing.sources import DataSet, open_source
from layouts import noise
from shape_layouts import (
    SIZE,
    labelme_shapes,
    write_brush,
    write_cvat,
    write_labelme_json,
    write_one_coco,
    write_panoptic,
    write_supervisely,
    write_via,
    write_yolo,
)

# pycocotools is older than numpy's argument.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Edit = Callable[[dict[str, Any]], Any]


def decode_all(found: DataSet) -> None:
    for sample in found.samples:
        if sample.mask:
            image = sample.mask.decode().image
            assert image.mode == "L"
            assert set(np.unique(np.asarray(image)).tolist()) <= found.table.train_ids.keys()


def annotation(document: dict[str, Any], **fields: Any) -> None:
    document["annotations"][0].update(fields)


def segmentation(value: Any) -> Edit:
    return lambda document: annotation(document, segmentation=value)


def runs(counts: Any, size: Any = (SIZE[1], SIZE[0])) -> Edit:
    return segmentation({"counts": counts, "size": list(size)})


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (segmentation([[1, 2, 3]]), r"annotation 1 has the points \[1, 2, 3\]; at least 3 pairs of numbers make"),
        (segmentation([[1, 2, 3, 4]]), "annotation 1 has the points"),
        (segmentation([[1, 2, 3, 4, 5, float("nan")]]), "annotation 1 has the points"),
        (segmentation([[1, 2, 3, 4, 5, "x"]]), "annotation 1 has the points"),
        (segmentation([[1, 2, 3, 4, 5, None]]), "annotation 1 has the points"),
        (segmentation([[1, 2, 3, 4, 5, 1 << 2000]]), "annotation 1 has the points"),
        (segmentation([1, 2, 3, 4, 5, 6]), "annotation 1 has the points None"),
        (segmentation([[0, 0, 1e9, 0, 1e9, 1e9]]), "an outline far larger than any image"),
        (segmentation([[0, 0, 1e300, 0, -1e300, 1e300]]), "an outline far larger than any image"),
        (segmentation([]), r"annotation 1 has no segmentation \(found: \[\]\); a box is no mask"),
        (segmentation(None), "annotation 1 has no segmentation"),
        (runs([10, 20]), r"annotation 1 has runs \(RLE\), \[10, 20\], that do not fill its 48×64 pixels; export"),
        (runs([-10, 48 * 64 + 10]), "has runs"),
        (runs([True, 48 * 64 - 1]), "has runs"),
        (runs("~~~"), "has runs"),
        (runs("PPPPPPPPPPPP1"), "has runs"),
        (runs("1P"), "has runs"),
        (runs("0oooo0" * 50), "has runs"),
        (runs("é1"), "has runs"),
        (runs(7), "has runs"),
        (runs([48 * 64], (9, 9)), r"has runs \(RLE\) of the size \[9, 9\], its image \[48, 64\]; export"),
        (runs([48 * 64], (1 << 40, 1 << 40)), "of the size"),
        (lambda d: annotation(d, category_id=99), r"has the category_id 99, which is none of \"categories\"; add"),
        (lambda d: annotation(d, category_id=[3]), "has the category_id"),
        (lambda d: annotation(d, category_id=None), "has the category_id"),
        (
            lambda d: d.update(annotations=[{**a, "image_id": f"x{a['image_id']}"} for a in d["annotations"]]),
            "has only annotations of images that it does not list, such as image_id 'x0'; export it again",
        ),
        (lambda d: d["images"][0].update(height=1 << 40), "has the height .* and width 64; they must be whole numbers"),
        (lambda d: d["images"][0].update(height="48"), "has the height '48'"),
        (lambda d: d["images"][0].update(height=None), "has the height None"),
        (lambda d: d["images"][1].update(id=0), "has the image id 0 twice; give each image its own"),
        (lambda d: d["images"][1].update(id=" 0"), "has the image id ' 0' twice; give each image its own"),
        (lambda d: d["images"][1].update(id=True), "each needs an id and a file_name"),
        (lambda d: d["images"][1].update(id=0.5), "each needs an id and a file_name"),
        (lambda d: d["images"][1].update(id=None), "each needs an id and a file_name"),
        (lambda d: d["images"][1].update(file_name=""), "each needs an id and a file_name"),
        (lambda d: d["images"][1].update(file_name="../x.png"), "the image is not there"),
        (
            lambda d: d["images"][1].update(file_name="../../../../etc/x.png"),
            "file_name is no path inside the data set; add",
        ),
        (
            lambda d: d["images"][1].update(file_name="/etc/passwd"),
            r"image 1 \('/etc/passwd'\): file_name is no path inside",
        ),
        (lambda d: d["images"][1].update(file_name="C:\\x.png"), "file_name is no path inside"),
        (lambda d: d["images"][1].update(file_name="a\0b.png"), "file_name is no path inside"),
        (lambda d: d["images"][1].update(file_name="x" * 5000), "the image is not there"),
        (
            lambda d: d["images"][1].update(file_name="gone.png"),
            r"image 1 \('gone\.png'\): the image is not there; add it",
        ),
        (lambda d: d["categories"][1].update(id=3), "has the category id 3 twice; give each category its own"),
        (lambda d: d["categories"][1].update(id="3"), "each needs a whole number as its id and a name"),
        (lambda d: d["categories"][1].update(name="\x1b[2J"), "has the name"),
        (lambda d: d.update(categories=[]), "list no categories"),
        (lambda d: d.update(categories={}), "needs an object with lists of objects"),
        (lambda d: d.update(images=[1]), "needs an object with lists of objects"),
        (lambda d: d.update(annotations=7), 'has "annotations" that are no list of objects'),
        (lambda d: d.update(annotations=[]), "has no annotations; export it with them"),
        (lambda d: d.update(annotations=[], images=[]), "has no annotations; export it with them"),
        (
            lambda d: d.update(categories=[{"id": i, "name": f"class {i}"} for i in range(300)]),
            "have 301 classes, the background among them; a mask holds 255: merge or remove categories",
        ),
    ],
)
def test_a_wrong_coco_is_refused_in_one_sentence(tmp_path: Path, edit: Edit, sentence: str) -> None:
    folder = write_one_coco(tmp_path / "set")
    document = json.loads((folder / "annotations.json").read_text())
    edit(document)
    (folder / "annotations.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=sentence) as refused:
        decode_all(open_source(folder))
    assert "annotations.json" in str(refused.value) or "JSON files" in str(refused.value)
    assert len(str(refused.value)) < 700


def test_a_damaged_coco_is_named(tmp_path: Path) -> None:
    folder = write_one_coco(tmp_path / "set")
    whole = (folder / "annotations.json").read_text()
    deep = '{"images": ' + "[" * 100_000
    for text in (whole[:-10], deep, '{"images": [' + "9" * 9000, whole.replace("{", "[", 3)):
        (folder / "annotations.json").write_text(text)
        with pytest.raises(
            UserError, match=r"annotations\.json (is not a readable JSON file \(.*\); export it again|needs)"
        ):
            open_source(folder)


def test_splits_of_coco_agree_on_their_categories(tmp_path: Path) -> None:
    folder = write_one_coco(tmp_path / "set")
    document = json.loads((folder / "annotations.json").read_text())
    document["categories"][0]["name"] = "hen"
    (folder / "val.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="call the category 3 'cat' and 'hen'; it must have one name in all"):
        open_source(folder)


def test_coco_without_sizes_takes_those_of_the_images(tmp_path: Path) -> None:
    folder = write_one_coco(tmp_path / "set")
    document = json.loads((folder / "annotations.json").read_text())
    for image in document["images"]:
        del image["height"], image["width"]
    before = [s.mask.decode().image.tobytes() for s in open_source(folder).samples if s.mask]
    (folder / "annotations.json").write_text(json.dumps(document))
    assert [s.mask.decode().image.tobytes() for s in open_source(folder).samples if s.mask] == before


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda a: a["segments_info"].pop(), r"0\.png has \d+ pixels of the segment \d+, which \S+ does not list"),
        (lambda a: a["segments_info"][0].update(category_id=9), "segment .* has the category_id 9, which is none"),
        (lambda a: a["segments_info"][0].update(id="x"), "has no number"),
        (lambda a: a.update(segments_info=None), 'has no list "segments_info"'),
        (lambda a: a.update(file_name="../../0.png"), "its panoptic mask is not in"),
        (lambda a: a.update(file_name=None), "image 0: its panoptic mask is not in"),
    ],
)
def test_a_wrong_panoptic_set_is_refused_in_one_sentence(tmp_path: Path, edit: Edit, sentence: str) -> None:
    folder = write_panoptic(tmp_path / "set")
    path = folder / "annotations" / "panoptic_train2017.json"
    document = json.loads(path.read_text())
    edit(document["annotations"][0])
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=sentence):
        decode_all(open_source(folder))


def test_a_panoptic_mask_without_colors_is_refused(tmp_path: Path) -> None:
    folder = write_panoptic(tmp_path / "set")
    path = folder / "annotations" / "panoptic_train2017" / "000000000000.png"
    Image.open(path).convert("L").save(path)
    with pytest.raises(UserError, match=r"000000000000\.png has no colors \(RGB\), which number segments"):
        decode_all(open_source(folder))


def shape(**fields: Any) -> Edit:
    return lambda document: document["shapes"][1].update(fields)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (shape(shape_type="line"), r"has 1 shapes without an area, such as the line 'cat'; draw polygons"),
        (shape(shape_type="linestrip"), "such as the linestrip 'cat'"),
        (shape(shape_type="point"), "such as the point 'cat'"),
        (shape(shape_type="star"), r"shape 1 \('cat'\) is of the kind 'star', which labelme does not have"),
        (shape(shape_type=["line"]), "is of the kind"),
        (shape(shape_type="polygon"), "at least 3 pairs of numbers"),
        (shape(points=[[1, 2]]), "at least 2 pairs of numbers"),
        (shape(points=[[1, 2], [3, 4], [5, 6]]), "has 3 points, but a rectangle has two"),
        (shape(points=[[1, 2], [3, float("inf")]]), "at least 2 pairs of numbers"),
        (shape(points=[[1, 2], [3, 1e12]]), "an outline far larger than any image"),
        (shape(points=None), "at least 2 pairs of numbers"),
        (
            shape(label=None),
            r"shape 1 \(None\) has the class None, which is none of the set's; mend it, or add it to labels.txt",
        ),
        (shape(label=""), "has the class .* is none of the set's; mend it, or add it to labels.txt"),
        (shape(shape_type="mask"), "the mask of .* is not an image"),
        (shape(shape_type="mask", mask="é"), "the mask of .* is not an image"),
        (
            lambda d: d["shapes"][5].update(points=[[0, 0], [9, 9]]),
            "has a mask of 9×5 pixels between corners for 10×10",
        ),
        (lambda d: d.update(shapes=None), 'has no list of "shapes"'),
        (lambda d: d.update(shapes=[1]), 'has no list of "shapes"'),
        (lambda d: d.update(imageHeight=1 << 40), "has the height"),
        (lambda d: d.update(imageHeight=-5), "has the height -5"),
    ],
)
def test_a_wrong_labelme_json_is_refused_in_one_sentence(tmp_path: Path, edit: Edit, sentence: str) -> None:
    image = tmp_path / "a.jpg"
    noise(1, SIZE).save(image)
    path = write_labelme_json(image, labelme_shapes(np.random.default_rng(0)))
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=sentence) as refused:
        decode_all(open_source(tmp_path))
    assert "a.json" in str(refused.value)


def entry(number: int, **fields: Any) -> Edit:
    return lambda document: document["objects"][number].update(fields)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (entry(1, geometryType="line"), r"object 1 \('road'\) is of the kind 'line', which has no area; draw"),
        (entry(1, geometryType=["line"]), "is of the kind"),
        (entry(1, classTitle="bird"), "has the class 'bird', which is none of the set's"),
        (entry(1, classTitle=["road"]), "has the class"),
        (entry(1, points=None), "has the points None; at least 3 pairs"),
        (entry(1, points={"exterior": [[1, 2]]}), "at least 3 pairs"),
        (entry(1, points={"exterior": [[1, 2], [3, 4], [1e300, 2]]}), "an outline far larger than any image"),
        (entry(1, points={"exterior": [[1, 2], [3, 4], [5, 2]], "interior": 7}), "has the points 7"),
        (entry(0, points={"exterior": [[1, 2]]}), "at least 2 pairs"),
        (entry(2, bitmap=None), r"the bitmap of .*object 2 \('tree'\) is not an image"),
        (entry(2, bitmap={"data": "eJwDAAAAAAE=", "origin": [0, 0]}), "is not an image"),
        (entry(2, bitmap={"data": "é", "origin": [0, 0]}), "is not an image"),
        (
            lambda d: d["objects"][2]["bitmap"].update(origin=[60, 2]),
            "a bitmap of 14×9 pixels at 60, 2, outside of its",
        ),
        (lambda d: d["objects"][2]["bitmap"].update(origin=[-1, 2]), "outside of its image"),
        (lambda d: d["objects"][2]["bitmap"].update(origin="x"), "has the points"),
        (lambda d: d.update(objects={}), 'has no list of "objects"'),
        (lambda d: d.update(size=None), "has the height None"),
        (lambda d: d.update(size={"height": 1 << 40, "width": 3}), "has the height"),
    ],
)
def test_a_wrong_json_of_supervisely_is_refused_in_one_sentence(tmp_path: Path, edit: Edit, sentence: str) -> None:
    path = next(write_supervisely(tmp_path).glob("train/ann/*0.jpg.json"))
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=sentence) as refused:
        decode_all(open_source(tmp_path))
    assert path.name in str(refused.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"classes": [', "is not a readable JSON file"),
        ('{"classes": 7}', r'meta\.json needs a list of "classes" with a title each'),
        ('{"classes": [{"name": "road"}]}', "with a title each"),
        ('{"classes": [{"title": "\\u0007"}]}', "has the name"),
    ],
)
def test_a_wrong_meta_of_supervisely_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (write_supervisely(tmp_path) / "meta.json").write_text(text)
    with pytest.raises(UserError, match=sentence):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('points="', 'points="a,b;', r"train0\.jpg\), polygon 0 \('road'\) has the points .*; at least 3 pairs"),
        ('points="', 'points="1,2,3;', "has the points"),
        ('points="', 'points="1,nan;', "has the points"),
        ('points="', 'points="1,1e300;', "an outline far larger than any image"),
        ('points="', 'p="', "has the points"),
        ('rle="', 'rle="9999, ', r"mask 1 \('car'\) has runs \(rle\) that do not fit into its box of 20×12 pixels"),
        ('rle="', 'rle="-3, ', "has runs"),
        ('rle="', 'rle="x, ', "has runs"),
        ('left="', 'left="9', "or a box outside of its image of 64×48"),
        ('height="12"', 'height="1e300"', "has '1e300' in place of a number"),
        ('height="12"', 'height="-12"', "has runs"),
        ('xtl="', 'xtl="left', "has 'left.*' in place of a number"),
        ('xtl="', 'x="', "has None in place of a number"),
        ('rx="6.2"', 'rx="999999999"', "an outline far larger than any image"),
        ('z_order="1"', 'z_order="top"', "has 'top' in place of a number"),
        ('label="road" source', 'label="" source', "has the class '', which is none of the set's"),
        (' width="64"', "", "has the height 48 and width ''"),
        (' width="64"', ' width="640000000"', "has the height 48 and width"),
        ("<label><name>road</name>", "<label><name>\x1b</name>", "is not a readable XML file"),
        ("</annotations>", "", r"annotations\.xml is not a readable XML file \(no element found.*\); export it again"),
        ("<meta>", "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><meta>", "is not a readable XML file"),
        ("<meta>", "<meta>&b;", "is not a readable XML file"),
        (
            "<meta>",
            '<track id="0" label="car"></track><meta>',
            "is of CVAT for video; export the task as CVAT for images",
        ),
        ("utf-8", "klingon", "is not a readable XML file"),
        ('name="train0.jpg"', 'name="gone.jpg"', r"annotations\.xml, image 'gone\.jpg': the image is not there"),
        ('name="train0.jpg"', 'name="../../../etc/passwd"', "the image is not there"),
    ],
)
def test_a_wrong_xml_of_cvat_is_refused_in_one_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = write_cvat(tmp_path) / "annotations.xml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=sentence) as refused:
        decode_all(open_source(tmp_path))
    assert len(str(refused.value)) < 700


def test_entities_that_multiply_are_refused(tmp_path: Path) -> None:
    path = write_cvat(tmp_path) / "annotations.xml"
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE annotations [<!ENTITY e0 "{"x" * 100}">{entities}]>\n<annotations>'
    path.write_text(path.read_text().replace("<annotations>", bomb, 1).replace("<name>road", "<name>&e11;road"))
    with pytest.raises(UserError, match="is not a readable XML file"):
        open_source(tmp_path)


def region(number: int = 0, **fields: Any) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        next(iter(document.values()))["regions"][number]["shape_attributes"].update(fields)

    return edit


def image(**fields: Any) -> Edit:
    return lambda document: next(iter(document.values())).update(fields)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (region(name="polyline"), r"region 0 \('road'\) is of the kind 'polyline', which has no area; draw a polygon"),
        (region(name=["polygon"]), "is of the kind"),
        (region(all_points_x=[1, 2, 3, 4]), "has the points None"),
        (region(all_points_x=None), "has the points None; at least 3 pairs"),
        (region(all_points_x=[1, 2], all_points_y=[3, 4]), "at least 3 pairs"),
        (region(1, width="9"), "has the width '9', which is no number"),
        (region(1, x=True), "has the x True"),
        (region(2, r=float("inf")), "has the r inf"),
        (region(2, r=None), "has the r None"),
        (region(3, theta="x"), "has the theta 'x'"),
        (image(regions=7), r'via_region_data\.json has the image .*; each needs a "filename" and "regions"'),
        (image(regions=[7]), 'each needs a "filename"'),
        (image(filename=None), 'each needs a "filename"'),
        (image(filename="gone.jpg"), r"image 'gone\.jpg': the image is not there"),
        (image(filename="../../etc/passwd"), "the image is not there"),
        (lambda d: next(iter(d.values()))["regions"][0].update(region_attributes={}), "has the class None"),
        (lambda d: next(iter(d.values()))["regions"][0].update(region_attributes={"class": 7}), "has the class 7"),
        (lambda d: d.update(more=7), "has the image 7"),
    ],
)
def test_a_wrong_json_of_via_is_refused_in_one_sentence(tmp_path: Path, edit: Edit, sentence: str) -> None:
    path = write_via(tmp_path) / "train" / "via_region_data.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=sentence) as refused:
        decode_all(open_source(tmp_path))
    assert "via_region_data.json" in str(refused.value)


def test_via_attributes_of_which_none_is_the_class_are_named(tmp_path: Path) -> None:
    for path in write_via(tmp_path).glob("*/*.json"):
        path.write_text(path.read_text().replace('"class"', '"damage"'))
    with pytest.raises(UserError, match="the attributes 'damage', 'kind of damage'; call the one that names the class"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("task-1-annotation-91-by-1-tag-road-0.png", b"\x89PNG", r"tag-road-0\.png is not an image"),
        ("task-9-annotation-91-by-1-tag-road-0.png", b"", "is of the task 9, but nothing tells its image"),
        ("tasks.json", b'[{"id": 1, "data": {"image": "gone.jpg"}}]', r"image 'gone\.jpg': the image is not there"),
        ("tasks.json", b'[{"id": 1, "data": 7}]', "image '': the image is not there"),
        ("tasks.json", b"[{", r"tasks\.json is not a readable JSON file"),
    ],
)
def test_wrong_masks_of_label_studio_are_refused_in_one_sentence(
    tmp_path: Path, name: str, data: bytes, sentence: str
) -> None:
    folder = write_brush(tmp_path)
    next(folder.glob("project*.json")).rename(folder / "a.json")  # read before tasks.json
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        decode_all(open_source(folder))


def test_strokes_of_different_sizes_are_refused(tmp_path: Path) -> None:
    Image.new("L", (9, 9)).save(write_brush(tmp_path) / "task-1-annotation-91-by-1-tag-road-1.png")
    with pytest.raises(UserError, match="are of one image, but of different sizes; export them again"):
        decode_all(open_source(tmp_path))


def test_sets_without_shapes_are_refused(tmp_path: Path) -> None:
    path = write_cvat(tmp_path / "cvat") / "annotations.xml"
    path.write_text(
        re.sub(
            r"<(polygon|mask|box|ellipse) [^>]*?/?>|</(polygon|mask|box|ellipse)>|<attribute .*", "", path.read_text()
        )
    )
    with pytest.raises(UserError, match=r"annotations\.xml has no shapes with an area; draw polygons"):
        open_source(tmp_path / "cvat")
    for path in write_via(tmp_path / "via").glob("*/*.json"):
        document = json.loads(path.read_text())
        path.write_text(json.dumps({key: {**entry, "regions": []} for key, entry in document.items()}))
    with pytest.raises(UserError, match=r"via_region_data\.json has no regions; export it with them"):
        open_source(tmp_path / "via")


def test_damaged_labelme_files_are_named_sample_by_sample(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        noise(1, SIZE).save(tmp_path / f"{name}.jpg")
        write_labelme_json(tmp_path / f"{name}.jpg", labelme_shapes(np.random.default_rng(0)))
    for name in ("a", "c"):
        (tmp_path / f"{name}.json").write_text('{"shapes": [{"label": "dog"')
    for sample in open_source(tmp_path).samples:
        assert sample.mask
        if sample.key == "b":
            sample.mask.decode()
            continue
        with pytest.raises(UserError, match=rf"{sample.key}\.json is not a readable JSON file"):
            sample.mask.decode()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("0 0.5 0.5 0.2 0.2", "has 1 boxes, such as in line 1; a box is no mask: export the set as YOLO segmentation"),
        ("0 0.5 0.5 0.2", "line 1 has 3 coordinates; an outline has at least 3 pairs"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "line 1 has 7 coordinates"),
        ("3 0.1 0.1 0.2 0.2 0.3 0.3", r"line 1 has the class '3', but data\.yaml names 3; add it there"),
        ("-1 0.1 0.1 0.2 0.2 0.3 0.3", "has the class '-1'"),
        ("0.5 0.1 0.1 0.2 0.2 0.3 0.3", "has the class"),
        ("nan 0.1 0.1 0.2 0.2 0.3 0.3", "has the class"),
        ("1e400 0.1 0.1 0.2 0.2 0.3 0.3", "has the class"),
        ("tree 0.1 0.1 0.2 0.2 0.3 0.3", "which are no numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 1.5", r"has coordinates that are not from 0 to 1, such as 1\.5; they are shares"),
        ("0 0.1 0.1 0.2 nan 0.3 0.3", "such as nan"),
        ("0 0.1 0.1 0.2 1e400 0.3 0.3", "such as 1e400"),
        ("\udcff\x00", "has the class|no numbers"),
    ],
)
def test_a_wrong_yolo_line_is_refused_in_one_sentence(tmp_path: Path, line: str, sentence: str) -> None:
    folder = write_yolo(tmp_path / "set")
    (folder / "labels" / "train" / "train_0.txt").write_bytes(f"{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=rf"train_0\.txt.*({sentence})"):
        decode_all(open_source(folder))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: images/train\nnames: []", r"has the names \[\]; write a list of them"),
        ("train: images/train\nnames: {a: b}", "has the names"),
        ("train: images/train\nnames: {0: a, 2: b}", "has the names"),
        ("train: images/train\nnames: [[a], b]", "has the names"),
        ("train: images/train\nnc: many", "has the names None"),
        ("train: images/trains\nnames: [a]", "names the images 'images/trains', which are not inside"),
        ("train: ../../../etc\nnames: [a]", "which are not inside"),
        ("train: {a: b}\nnames: [a]", "which are not inside"),
        ("train: /etc\nnames: [a]", "which are not inside"),
        ("train: bad.txt\nnames: [a]", r"bad\.txt names 1 images that are not inside \S+, such as '/etc/passwd'"),
        (
            "train: images/train\nnames: [" + ", ".join(f"n{i}" for i in range(255)) + "]",
            "has 256 classes; a mask holds",
        ),
        ("train: images/unlabeled\nnames: [a]", r"the images of train in \S+ have no text files, such as \S+labels/un"),
    ],
)
def test_a_wrong_yolo_yaml_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    folder = write_yolo(tmp_path / "set")
    (folder / "bad.txt").write_text("/etc/passwd\n")
    (folder / "images" / "unlabeled").mkdir()
    noise(1, SIZE).save(folder / "images" / "unlabeled" / "a.png")
    (folder / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        open_source(folder)


def test_other_yamls_are_no_yolo_sets(tmp_path: Path) -> None:
    for text in ("{}", "- 1", "names: [a]", "!!python/object:os.system x", "7", ""):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(UserError) as refused:
            open_source(tmp_path)
        assert "YAML" not in str(refused.value)
    for text in ("a: [1", "? {a: b}\n: c", "\x00", "a: " + "[" * 100_000, "*b", "&a [*a]"):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(UserError, match=r"data\.yaml is not a readable YAML file \(.*\); mend it"):
            open_source(tmp_path)


def test_a_class_called_background_is_the_background(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set")
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [tree, Background, tree]\n")
    found = open_source(folder)
    assert [entry.name for entry in found.table.classes] == ["Background", "tree"]
    decode_all(found)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["polygon", "circle", "mask", "rectangle", "", "../x", 0, 3, 1e9, -1]),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def spoil(value: Any, choose: random.Random, new: Any) -> Any:
    """Replace something, anywhere in a JSON document."""
    if isinstance(value, dict | list) and value and choose.random() < 0.9:
        key = choose.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value[key] = spoil(value[key], choose, new)
        return value
    return new


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, str]]:
    """Of each kind: the folder, the file to spoil, its text."""
    root = tmp_path_factory.mktemp("sets")
    one, panoptic, labelme = write_one_coco(root / "one"), write_panoptic(root / "panoptic"), root / "labelme"
    labelme.mkdir()
    noise(1, SIZE).save(labelme / "a.jpg")
    supervisely, via = write_supervisely(root / "supervisely"), write_via(root / "via")
    files = {
        "supervisely": (supervisely, next(supervisely.glob("train/ann/*0.jpg.json"))),
        "via": (via, via / "train" / "via_region_data.json"),
        "coco": (one, one / "annotations.json"),
        "panoptic": (panoptic, panoptic / "annotations" / "panoptic_train2017.json"),
        "labelme": (labelme, write_labelme_json(labelme / "a.jpg", labelme_shapes(np.random.default_rng(0)))),
    }
    return {kind: (folder, path, path.read_text()) for kind, (folder, path) in files.items()}


@pytest.mark.parametrize("kind", ["coco", "panoptic", "labelme", "supervisely", "via"])
@settings(max_examples=150, deadline=None)
@given(value=VALUES, seed=st.integers(0, 1 << 30))
def test_a_spoiled_json_is_read_or_refused(
    sets: dict[str, tuple[Path, Path, str]], kind: str, value: Any, seed: int
) -> None:
    folder, path, text = sets[kind]
    path.write_text(json.dumps(spoil(json.loads(text), random.Random(seed), value)))
    with suppress(UserError):
        decode_all(open_source(folder))


@pytest.fixture(scope="module")
def cvat(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = write_cvat(tmp_path_factory.mktemp("cvat"))
    return folder, (folder / "annotations.xml").read_text()


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    new=st.sampled_from(["", "-", "9" * 5000, "1e308", "nan", "&x;", "<", ">", '"', ",", ";", "\x00", "９"])
    | st.text(max_size=4),
)
def test_a_spoiled_xml_is_read_or_refused(cvat: tuple[Path, str], seed: int, new: str) -> None:
    folder, text = cvat
    choose = random.Random(seed)
    start = choose.randrange(len(text))
    spoiled = text[:start] + new + text[start + choose.randrange(12) :]
    (folder / "annotations.xml").write_text(spoiled, encoding="utf-8", errors="replace")
    with suppress(UserError):
        decode_all(open_source(folder))


@settings(max_examples=150, deadline=None)
@given(
    names=VALUES | st.lists(st.text(min_size=1, max_size=5), max_size=5),
    train=VALUES | st.just("images/train"),
    line=st.text(alphabet="0123456789.-e \n", max_size=60) | st.text(max_size=20),
)
def test_a_spoiled_yolo_set_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, names: Any, train: Any, line: str
) -> None:
    folder = tmp_path_factory.mktemp("yolo")
    (folder / "images" / "train").mkdir(parents=True)
    (folder / "labels" / "train").mkdir(parents=True)
    noise(1, (16, 8)).save(folder / "images" / "train" / "a.png")
    (folder / "labels" / "train" / "a.txt").write_bytes(line.encode("utf-8", "replace"))
    (folder / "data.yaml").write_text(json.dumps({"names": names, "train": train, "path": "."}))
    with suppress(UserError):
        decode_all(open_source(folder))
