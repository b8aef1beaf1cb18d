"""Tiny data sets whose masks are shapes, in the layouts of the tools that draw them."""

import base64
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from layouts import noise

SIZE = (64, 48)
"""Width and height of the images."""
CATEGORIES = [
    {"id": 3, "name": "cat", "supercategory": "animal"},
    {"id": 7, "name": "bus", "supercategory": "vehicle"},
    {"id": 4, "name": "traffic light", "supercategory": "outdoor"},
]
"""Values by their ids: cat 1, traffic light 2, bus 3."""
SPLITS = {"train": 4, "val": 2}


def polygon(rng: np.random.Generator, size: tuple[int, int] = SIZE, points: int = 7) -> list[list[float]]:
    """A star-shaped outline somewhere in an image; parts of it may lie outside."""
    angles = np.sort(rng.random(points)) * 2 * np.pi
    radius = rng.uniform(5, 22, points)
    center = rng.uniform((4, 4), np.array(size) - 4)
    outline = center + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return outline.round(2).tolist()


def write_images(
    folder: Path, name: Callable[[str, int], str], **splits: int
) -> Iterator[tuple[str, int, Path, np.random.Generator]]:
    """Write noise images; yield the split, the number, the path and what to draw from."""
    for split, count in (splits or SPLITS).items():
        for number in range(count):
            seed = number + 1000 * len(split)
            path = folder / name(split, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            noise(seed, SIZE).save(path)
            yield split, number, path, np.random.default_rng(seed)


def coco_annotations(rng: np.random.Generator, image: int, first: int) -> list[dict[str, Any]]:
    """An annotation of each form: polygons of two parts, uncompressed runs, compressed runs of a group, a polygon."""
    width, height = SIZE
    blob = np.zeros((height, width), np.uint8, order="F")
    blob[rng.integers(0, 20) :, rng.integers(0, 30) : 50] = 1
    runs, crowd = (
        np.flatnonzero(np.diff(np.r_[0, blob.ravel(order="F"), 0])),
        coco.encode(np.asfortranarray(blob[::-1])),
    )
    counts = np.diff(np.r_[0, runs, width * height]).tolist()
    flat = [np.array(polygon(rng)).ravel().tolist() for _ in range(3)]
    forms = [
        (3, 0, [flat[0], flat[1]]),
        (7, 0, {"counts": counts, "size": [height, width]}),
        (4, 1, {"counts": crowd["counts"].decode(), "size": [height, width]}),
        (4, 0, [flat[2]]),
    ]
    return [
        {"id": first + i, "image_id": image, "category_id": category, "iscrowd": group, "segmentation": segmentation}
        for i, (category, group, segmentation) in enumerate(forms)
    ]


def coco_document(images: list[tuple[int, str, np.random.Generator]]) -> dict[str, Any]:
    """The JSON of some images: id, file_name, and what to draw from. The last has no annotations."""
    width, height = SIZE
    listed = [{"id": number, "file_name": name, "height": height, "width": width} for number, name, _ in images]
    annotations = [
        a for i, (number, _, rng) in enumerate(images[:-1]) for a in coco_annotations(rng, number, 10 * i + 1)
    ]
    return {"info": {"year": 2017}, "images": listed, "annotations": annotations, "categories": CATEGORIES}


def write_coco(folder: Path) -> Path:
    """COCO's own layout: {train,val}2017/ and annotations/instances_{train,val}2017.json, captions beside them."""
    grouped: dict[str, list[tuple[int, str, np.random.Generator]]] = {}
    for split, number, path, rng in write_images(folder, lambda s, n: f"{s}2017/{n:012d}.jpg"):
        grouped.setdefault(split, []).append((number, path.name, rng))
    (folder / "annotations").mkdir()
    for split, images in grouped.items():
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(coco_document(images)))
        captions = {"info": {}, "images": [], "annotations": [{"image_id": 1, "caption": "a cat"}]}
        (folder / "annotations" / f"captions_{split}2017.json").write_text(json.dumps(captions))
    return folder


def write_roboflow(folder: Path) -> Path:
    """Roboflow's export: {train,valid}/_annotations.coco.json beside the images; a category that is only a group."""
    grouped: dict[str, list[tuple[int, str, np.random.Generator]]] = {}
    for split, number, path, rng in write_images(
        folder, lambda s, n: f"{'valid' if s == 'val' else s}/{s}-{n}_jpg.jpg"
    ):
        grouped.setdefault("valid" if split == "val" else split, []).append((number, path.name, rng))
    for split, images in grouped.items():
        document = coco_document(images)
        document["categories"] = [
            {"id": 0, "name": "things", "supercategory": "none"},
            *({**category, "supercategory": "things"} for category in CATEGORIES),
        ]
        (folder / split / "_annotations.coco.json").write_text(json.dumps(document))
    return folder


def write_one_coco(folder: Path) -> Path:
    """One annotations.json and images/, without splits."""
    images = [(n, p.name, rng) for _, n, p, rng in write_images(folder, lambda _, n: f"images/{n}.png", train=3)]
    (folder / "annotations.json").write_text(json.dumps(coco_document(images)))
    return folder


def write_panoptic(folder: Path) -> Path:
    """COCO's panoptic layout: {train,val}2017/, annotations/panoptic_{split}2017.json and the PNGs beside it."""
    categories = [{**category, "color": [10 * i, 200, 7], "isthing": 1} for i, category in enumerate(CATEGORIES)]
    documents: dict[str, dict[str, list[Any]]] = {}
    for split, number, path, rng in write_images(folder, lambda s, n: f"{s}2017/{n:012d}.jpg"):
        document = documents.setdefault(split, {"images": [], "annotations": []})
        document["images"].append({"id": number, "file_name": path.name, "height": SIZE[1], "width": SIZE[0]})
        segments = rng.choice(1 << 24, 3, replace=False) | 1
        pan = np.zeros((SIZE[1], SIZE[0]), np.int64)
        for i, segment in enumerate(segments):
            pan[8 * i + 4 :, 10 * i : 10 * i + 40] = segment
        rgb = np.stack([pan % 256, pan // 256 % 256, pan // 65536], -1).astype(np.uint8)
        png = folder / "annotations" / f"panoptic_{split}2017" / f"{path.stem}.png"
        png.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(png)
        infos = [
            {"id": int(segment), "category_id": category["id"], "iscrowd": 0}
            for segment, category in zip(segments, CATEGORIES, strict=True)
        ]
        document["annotations"].append({"image_id": number, "file_name": png.name, "segments_info": infos})
    for split, document in documents.items():
        text = json.dumps({"info": {}, **document, "categories": categories})
        (folder / "annotations" / f"panoptic_{split}2017.json").write_text(text)
    return folder


def labelme_shapes(rng: np.random.Generator) -> list[dict[str, Any]]:
    """A shape of each kind that has an area."""
    png = io.BytesIO()
    Image.fromarray(rng.integers(0, 2, (5, 9), np.uint8) * 255).save(png, "PNG")
    x, y = rng.integers(0, 40, 2).tolist()
    kinds = [
        ("dog", "polygon", polygon(rng), None),
        ("cat", "rectangle", [[x + 20.5, y + 8.0], [x + 1.25, y - 3.5]], None),
        ("dog", "circle", [[30.5, 20.0], [35.0, 24.5]], None),
        ("_background_", "polygon", polygon(rng), None),
        ("__ignore__", "polygon", polygon(rng, points=3), None),
        ("cat", "mask", [[x, y], [x + 8, y + 4]], base64.b64encode(png.getvalue()).decode()),
        ("zebra", None, polygon(rng, points=4), None),
    ]
    return [
        {
            "label": label,
            "points": points,
            "group_id": None,
            "shape_type": kind,
            "flags": {},
            **({"mask": m} if m else {}),
        }
        for label, kind, points, m in kinds
    ]


def write_labelme(folder: Path) -> Path:
    """labelme: train/ and val/ with a JSON beside each image, one image in its JSON, one without any."""
    for split, number, path, rng in write_images(folder, lambda s, n: f"{s}/{s}_{n}.jpg"):
        data = path.read_bytes() if number == 1 else None
        write_labelme_json(path, labelme_shapes(rng), imageData=data and base64.b64encode(data).decode())
        if data:
            path.unlink()
        if split == "val":
            noise(7, SIZE).save(path.with_name("unlabeled.jpg"))
    return folder


def write_labelme_json(image: Path, shapes: list[dict[str, Any]], **fields: Any) -> Path:
    """Write the JSON of one image."""
    document = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image.name, "imageData": None}
    size = {"imageHeight": SIZE[1], "imageWidth": SIZE[0]}
    image.with_suffix(".json").write_text(json.dumps({**document, **size, **fields}))
    return image.with_suffix(".json")


def write_yolo(folder: Path) -> Path:
    """YOLO: images/{train,val}, labels/{train,val}, data.yaml; the last image of each split has no text file."""
    for split, number, path, rng in write_images(folder, lambda s, n: f"images/{s}/{s}_{n}.jpg"):
        labels = folder / "labels" / split / f"{path.stem}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        if number < SPLITS[split] - 1:
            outlines = [np.clip(np.array(polygon(rng)) / SIZE, 0, 1).ravel() for _ in range(4)]
            rows = [f"{i % 3} " + " ".join(f"{v:.6f}" for v in outline) for i, outline in enumerate(outlines)]
            labels.write_text("\n".join(rows) + "\n")
    (folder / "data.yaml").write_text(
        "path: ../datasets/tiny\ntrain: images/train\nval: images/val\nnc: 3\nnames: [tree, no, car]\n"
    )
    return folder


def supervisely_objects(rng: np.random.Generator) -> list[dict[str, Any]]:
    """An object of each kind that has an area; a polygon with a hole."""
    bitmap, png = rng.integers(0, 2, (9, 14), np.uint8) * 255, io.BytesIO()
    Image.fromarray(bitmap).convert("1").save(png, "PNG")
    data = base64.b64encode(zlib.compress(png.getvalue())).decode()
    whole = np.floor(np.array(polygon(rng, points=9)))
    hole = np.floor(whole.mean(0) + (whole - whole.mean(0)) * 0.4)
    x, y = rng.integers(0, 30, 2).tolist()
    return [
        {
            "classTitle": "car",
            "geometryType": "rectangle",
            "points": {"exterior": [[x + 20, y], [x, y + 9]], "interior": []},
        },
        {
            "classTitle": "road",
            "geometryType": "polygon",
            "points": {"exterior": whole.tolist(), "interior": [hole.tolist()]},
        },
        {"classTitle": "tree", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [x + 4, y + 3]}},
        {"classTitle": "road", "geometryType": "polygon", "points": {"exterior": polygon(rng), "interior": []}},
    ]


def write_supervisely(folder: Path) -> Path:
    """Supervisely: meta.json, and for each dataset img/ and ann/ with a JSON called after the image."""
    for split, _, path, rng in write_images(folder, lambda s, n: f"{s}/img/{s} {n}.jpg"):
        size = {"height": SIZE[1], "width": SIZE[0]}
        annotation = folder / split / "ann" / f"{path.name}.json"
        annotation.parent.mkdir(exist_ok=True)
        annotation.write_text(
            json.dumps({"description": "", "tags": [], "size": size, "objects": supervisely_objects(rng)})
        )
    titles = {
        "road": ("polygon", "#208020"),
        "tree": ("bitmap", "#E0F000"),
        "car": ("any", "#10A0FF"),
        "eye": ("point", "#FFFFFF"),
    }
    classes = [{"title": title, "shape": shape, "color": color} for title, (shape, color) in titles.items()]
    (folder / "meta.json").write_text(json.dumps({"classes": classes, "tags": [], "projectType": "images"}))
    return folder


def cvat_shapes(rng: np.random.Generator) -> str:
    """XML of a shape of each kind; the last one lies below all others."""
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in polygon(rng))
    blob = rng.integers(0, 2, 12 * 20)
    blob[0] = 1
    edges = np.flatnonzero(np.diff(np.r_[0, blob, 1 - blob[-1]]))
    runs = ", ".join(str(run) for run in np.diff(np.r_[0, edges]).tolist())
    x, y = rng.integers(0, 30, 2).tolist()
    under = ";".join(f"{x:.2f},{y:.2f}" for x, y in polygon(rng, points=4))
    return f"""
    <polygon label="road" source="manual" occluded="0" points="{points}" z_order="1">
      <attribute name="wet">yes</attribute>
    </polygon>
    <mask label="car" source="manual" occluded="0" rle="{runs}" left="{x}" top="{y}" width="20" height="12" z_order="1">
    </mask>
    <box label="sign" xtl="{x + 9.5}" ytl="{y + 2.0}" xbr="{x + 21.25}" ybr="{y + 11.5}" rotation="30.0" z_order="2"/>
    <polyline label="road" points="1.0,1.0;9.0,9.0" z_order="3"></polyline>
    <ellipse label="car" cx="{x + 5.4}" cy="20.6" rx="6.2" ry="3.7" z_order="2"></ellipse>
    <polygon label="sign" points="{under}" z_order="-1"></polygon>
    <tag label="night"></tag>"""


def write_cvat(folder: Path) -> Path:
    """A project of CVAT with two subsets, as CVAT for images 1.1."""
    images = ""
    for number, (_, _, path, rng) in enumerate(
        write_images(folder, lambda s, n: f"images/{'Train' if s == 'train' else 'Validation'}/{s}{n}.jpg")
    ):
        size = f'width="{SIZE[0]}" height="{SIZE[1]}"'
        subset = path.parent.name
        images += f'  <image id="{number}" name="{path.name}" subset="{subset}" {size}>{cvat_shapes(rng)}\n  </image>\n'
    labels = "".join(
        f"<label><name>{name}</name><color>{color}</color><type>{kind}</type><attributes></attributes></label>"
        for name, color, kind in (
            ("road", "#33ddff", "any"),
            ("night", "#000000", "tag"),
            ("car", "#fa3253", "mask"),
            ("sign", "#ffcc33", "rectangle"),
        )
    )
    (folder / "annotations.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta><project><id>3</id>'
        f"<labels>{labels}</labels></project></meta>\n{images}</annotations>\n"
    )
    return folder


def via_regions(rng: np.random.Generator) -> list[dict[str, Any]]:
    """A region of each shape with an area."""
    corners = np.array(polygon(rng)).round().astype(int)
    x, y = rng.integers(0, 30, 2).tolist()
    shapes = [
        ("road", {"name": "polygon", "all_points_x": corners[:, 0].tolist(), "all_points_y": corners[:, 1].tolist()}),
        ("car", {"name": "rect", "x": x, "y": y, "width": 17, "height": 9}),
        ("tree", {"name": "circle", "cx": 30, "cy": y, "r": 7.5}),
        ("car", {"name": "ellipse", "cx": x, "cy": 25, "rx": 9, "ry": 4, "theta": 0.5}),
    ]
    return [
        {"shape_attributes": shape, "region_attributes": {"kind of damage": "", "class": name}}
        for name, shape in shapes
    ]


def write_via(folder: Path) -> Path:
    """VIA: {train,val}/via_region_data.json beside the images; val as VIA 1 has it, with numbered regions."""
    documents: dict[str, dict[str, Any]] = {}
    for split, _, path, rng in write_images(folder, lambda s, n: f"{s}/{s}_{n}.jpg"):
        regions = via_regions(rng)
        entry = {"filename": path.name, "size": path.stat().st_size, "regions": regions, "file_attributes": {}}
        if split == "val":
            entry["regions"] = {str(number): region for number, region in enumerate(regions)}
        documents.setdefault(split, {})[f"{path.name}{entry['size']}"] = entry
    for split, document in documents.items():
        (folder / split / "via_region_data.json").write_text(json.dumps(document))
    return folder


def write_brush(folder: Path) -> Path:
    """Label Studio: brush labels as PNGs, two for each task, the JSON of the tasks, and the images."""
    tasks = []
    for number, (_, _, path, rng) in enumerate(write_images(folder, lambda s, n: f"images/{s}/{s}-{n}.jpg"), 1):
        for label in ("road", "swimming pool", "well-kept lawn"):
            y, x = rng.integers(0, 30, 2)
            stroke = np.zeros((SIZE[1], SIZE[0]), np.uint8)
            stroke[y : y + rng.integers(5, 18), x : x + rng.integers(5, 30)] = 255
            Image.fromarray(stroke).save(folder / f"task-{number}-annotation-{number + 90}-by-1-tag-{label}-0.png")
        annotation = {
            "id": number + 90,
            "completed_by": 1,
            "result": [{"type": "brushlabels", "value": {"rle": [0] * 99}}],
        }
        source = f"/data/local-files/?d=images/{path.parent.name}/{path.name}"
        tasks.append({"id": number, "annotations": [annotation], "file_upload": None, "data": {"image": source}})
    (folder / "project-1-at-2024-05-01-10-00-1a2b3c4d.json").write_text(json.dumps(tasks, indent=2))
    return folder


SHAPE_WRITERS: dict[str, Callable[[Path], Path]] = {
    "COCO panoptic": write_panoptic,
    "COCO JSON": write_coco,
    "labelme": write_labelme,
    "Supervisely": write_supervisely,
    "CVAT for images": write_cvat,
    "VIA": write_via,
    "Label Studio (brush)": write_brush,
    "YOLO segmentation": write_yolo,
}
"""For every source of shapes its tiny set."""
