"""Tiny data sets in the layouts that are packed, for tests: noise images, masks of rectangles."""

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fastseg.data.augment import Window

CLASSES = {
    "name": "shapes",
    "classes": [
        {"value": 0, "name": "ground", "color": [90, 90, 90]},
        {"value": 1, "name": "box", "color": [200, 30, 30]},
        {"value": 4, "name": "dot", "color": [30, 30, 200]},
    ],
    "ignore": [9],
}
"""Train ids: value 0 → 0, 1 → 1, 4 → 2, 9 → ignored."""

CITYSCAPES_IDS = (0, 3, 7, 8, 11, 17, 21, 23, 24, 26, 33)
"""labelIds, ignored ones among them."""


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    """An RGB image of ``size`` (width, height) that compresses like a photograph: smooth, with some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.integers(-4, 5, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + grain, 0, 255).astype(np.uint8))


def labels(seed: int, size: tuple[int, int], values: tuple[int, ...]) -> Image.Image:
    """A mask of ``size`` (width, height): ``values`` in overlapping rectangles, each somewhere."""
    rng = np.random.default_rng(seed)
    width, height = size
    mask = np.full((height, width), values[0], np.uint8)
    for value in rng.permutation(values[1:]):
        y, x = rng.integers(0, height - height // 3), rng.integers(0, width - width // 4)
        mask[y : y + height // 3, x : x + width // 4] = value
    return Image.fromarray(mask)


def write_cityscapes(
    folder: Path, train: int = 4, val: int = 2, test: int = 0, size: tuple[int, int] = (64, 32)
) -> Path:
    """Write ``leftImg8bit/`` and ``gtFine/`` below ``folder``, in the official layout; ``size`` is width, height."""
    for split, city, count in (("train", "aachen", train), ("val", "lindau", val), ("test", "berlin", test)):
        for number in range(count):
            stem, seed = f"{city}_{number:06d}_000019", number + 1000 * len(split)
            image = folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
            mask = folder / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png"
            for path in (image, mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            noise(seed, size).save(image)
            labels(seed, size, CITYSCAPES_IDS).save(mask)
    return folder


def zip_cityscapes(folder: Path, target: Path) -> Path:
    """Put what :func:`write_cityscapes` wrote to ``folder`` into the two official zips in the folder ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    for package in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(target / f"{package}_trainvaltest.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("README", "not an image")
            for path in sorted((folder / package).rglob("*.png")):
                archive.write(path, path.relative_to(folder).as_posix())
    return target


def write_folder_dataset(folder: Path, train: int = 4, val: int = 2, size: tuple[int, int] = (64, 32)) -> Path:
    """Write ``classes.json`` and ``{train,val}/{images,masks}/STEM.png`` below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            write_pair(folder, split, f"{split}_{number:03d}", number + 1000 * len(split), size)
    return folder


def write_pair(folder: Path, split: str, stem: str, seed: int = 0, size: tuple[int, int] = (64, 32)) -> None:
    """Write one image and its mask to a data set of :func:`write_folder_dataset`."""
    for kind, picture in (("images", noise(seed, size)), ("masks", labels(seed, size, (0, 1, 4, 9)))):
        path = folder / split / kind / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


class Layout(NamedTuple):
    """A tiny data set as one is handed on: which files it has, and which image and mask belong together."""

    source: str
    """Name of the entry that recognizes it."""
    pairs: tuple[tuple[str, str, str | None], ...]
    """Split, image and mask, by their paths."""
    values: tuple[int, ...] = (0, 1, 4, 9)
    """Of the masks' pixels."""
    preset: str | None = None
    """Name of the table of its classes; None: it has a classes.json, :data:`CLASSES`."""
    others: tuple[str, ...] = ()
    """Further image files, which are not meant."""
    texts: tuple[tuple[str, str], ...] = ()
    """Further files and what they hold."""

    def write(self, folder: Path, size: tuple[int, int] = (48, 32)) -> Path:
        """Write it into ``folder``; ``size`` is width, height."""
        names = [(image, False) for _, image, _ in self.pairs] + [(mask, True) for *_, mask in self.pairs if mask]
        for seed, (name, is_mask) in enumerate([*names, *((name, False) for name in self.others)]):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (labels(seed, size, self.values) if is_mask else noise(seed, size)).save(
                folder / name, "JPEG" if name.endswith(".jfif") else None
            )
        for name, text in [*self.texts, *([] if self.preset else [("classes.json", json.dumps(CLASSES))])]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        return folder


def _pairs(image: str, mask: str, train: str = "train", val: str = "val", stems: str = "ab") -> Any:
    """Two pairs in train, the first in val as well: patterns with {split} and {stem}."""
    spread = [("train", train, stem) for stem in stems] + [("val", val, stems[0])]
    return tuple(
        (split, image.format(split=word, stem=stem), mask.format(split=word, stem=stem)) for split, word, stem in spread
    )


_ANY = "images and masks by their names"
_VOC = tuple(
    (split, f"JPEGImages/2007_{number:06d}.jpg", f"SegmentationClass/2007_{number:06d}.png")
    for number, split in enumerate(("train", "train", "val"))
)
_VOC_LISTS = (
    ("ImageSets/Segmentation/train.txt", "2007_000000\n2007_000001\n"),
    ("ImageSets/Segmentation/val.txt", "2007_000002\n"),
    ("ImageSets/Segmentation/trainval.txt", "2007_000000\n2007_000001\n2007_000002\n"),
)
_ADE = (
    ("train", "images/training/ADE_train_00000001.jpg", "annotations/training/ADE_train_00000001.png"),
    ("train", "images/training/ADE_train_00000002.jpg", "annotations/training/ADE_train_00000002.png"),
    ("val", "images/validation/ADE_val_00000001.jpg", "annotations/validation/ADE_val_00000001.png"),
)
_MAPILLARY = "{split}/images/{stem}_7iSKmiBgDGyIq6HFhlQ.jpg"
_VISTAS = ("training", "validation", ("-a", "_b"))
_TEST_VISTA = ("test", "testing/images/-c_7iSKmiBgDGyIq6HFhlQ.jpg", None)


def _vistas(labels: str) -> Any:
    mask = f"{{split}}/{labels}/{{stem}}_7iSKmiBgDGyIq6HFhlQ.png"
    return (*_pairs(_MAPILLARY, mask, "training", "validation", _VISTAS[2]), _TEST_VISTA)  # type: ignore[arg-type]


LAYOUTS: dict[str, Layout] = {
    "cityscapes": Layout(
        "Cityscapes",
        tuple(
            (
                split,
                f"leftImg8bit/{split}/{city}/{city}_00000{n}_000019_leftImg8bit.png",
                f"gtFine/{split}/{city}/{city}_00000{n}_000019_gtFine_labelIds.png",
            )
            for split, city, n in (("train", "aachen", 0), ("train", "aachen", 1), ("val", "lindau", 0))
        ),
        CITYSCAPES_IDS,
        "cityscapes",
        others=("gtFine/train/aachen/aachen_000000_000019_gtFine_color.png",),
    ),
    "voc": Layout(
        "PASCAL VOC",
        (*_VOC, ("test", "JPEGImages/2008_000001.jpg", None)),
        (0, 7, 15, 255),
        "voc",
        ("JPEGImages/2008_000009.jpg", "SegmentationObject/2007_000000.png"),
        (*_VOC_LISTS, ("ImageSets/Segmentation/test.txt", "2008_000001\n"), ("Annotations/2007_000000.xml", "<a/>")),
    ),
    "voc of a tool": Layout(
        "PASCAL VOC",
        tuple(("train", f"JPEGImages/{stem}.jpg", f"SegmentationClassPNG/{stem}.png") for stem in "abc"),
        others=("SegmentationClassVisualization/a.jpg",),
        texts=(("SegmentationClass/a.npy", ""), ("class_names.txt", "ground\nbox\n")),
    ),
    "voc of CVAT": Layout(
        "PASCAL VOC",
        tuple(
            (split, f"JPEGImages/{stem}.jpg", f"SegmentationClass/{stem}.png")
            for split, stem in (("train", "frame_000000"), ("train", "north side/my photo 1"), ("val", "frame_000002"))
        ),
        others=("SegmentationObject/frame_000000.png",),
        texts=(
            ("ImageSets/Segmentation/Train.txt", "frame_000000\nnorth side/my photo 1\n"),
            ("ImageSets/Segmentation/Validation.txt", '"frame_000002"\n'),
            ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbox:250,50,83::\n"),
        ),
    ),
    "camvid of SegNet": Layout(
        "CamVid",
        (
            ("train", "train/0001TP_006690.png", "trainannot/0001TP_006690.png"),
            ("train", "train/0001TP_006720.png", "trainannot/0001TP_006720.png"),
            ("val", "val/0016E5_07959.png", "valannot/0016E5_07959.png"),
            ("test", "test/Seq05VD_f00000.png", "testannot/Seq05VD_f00000.png"),
        ),
        (0, 3, 8, 11),
        "camvid",
        texts=(("train.txt", "/SegNet/CamVid/train/0001TP_006690.png /SegNet/CamVid/trainannot/0001TP_006690.png\n"),),
    ),
    "camvid of fast.ai": Layout(
        "CamVid",
        (
            ("train", "images/0001TP_006690.png", "labels/0001TP_006690_P.png"),
            ("train", "images/0006R0_f00930.png", "labels/0006R0_f00930_P.png"),
            ("val", "images/0016E5_07959.png", "labels/0016E5_07959_P.png"),
        ),
        (4, 17, 21, 30),
        "camvid32",
        texts=(("valid.txt", "0016E5_07959.png\n"), ("codes.txt", "Animal\n")),
    ),
    "ade20k": Layout("ADE20K", _ADE, (0, 1, 13, 150), "ade20k", texts=(("objectInfo150.txt", "Idx\n"),)),
    "mapillary": Layout("Mapillary Vistas (labels)", _vistas("labels"), (13, 27, 65), "mapillary"),
    "mapillary 1.2": Layout("Mapillary Vistas (v1.2/labels)", _vistas("v1.2/labels"), (13, 27, 65), "mapillary"),
    "mapillary 2.0": Layout(
        "Mapillary Vistas (v2.0/labels)",
        _vistas("v2.0/labels"),
        (21, 108, 123),
        "mapillary2",
        ("training/v2.0/instances/-a_7iSKmiBgDGyIq6HFhlQ.png", "training/v2.0/panoptic/-a_7iSKmiBgDGyIq6HFhlQ.png"),
    ),
    "bdd100k": Layout(
        "BDD100K",
        (
            *_pairs(
                "images/10k/{split}/0{stem}04a0a2-f64ef1bb.jpg",
                "labels/sem_seg/masks/{split}/0{stem}04a0a2-f64ef1bb.png",
            ),
            ("test", "images/10k/test/ac0455a7-d32b4a3e.jpg", None),
        ),
        (0, 2, 13, 255),
        "bdd100k",
        ("images/100k/train/0000f77c-6257be58.jpg", "labels/sem_seg/colormaps/train/0a04a0a2-f64ef1bb.png"),
    ),
    "bdd100k seg": Layout(
        "BDD100K (seg)",
        _pairs(
            "seg/images/{split}/0{stem}04a0a2-f64ef1bb.jpg", "seg/labels/{split}/0{stem}04a0a2-f64ef1bb_train_id.png"
        ),
        (0, 2, 13, 255),
        "bdd100k",
        ("seg/color_labels/train/0a04a0a2-f64ef1bb_train_color.png",),
    ),
    "kitti": Layout(
        "KITTI semantics",
        (
            ("train", "training/image_2/000000_10.png", "training/semantic/000000_10.png"),
            ("train", "training/image_2/000001_10.png", "training/semantic/000001_10.png"),
            ("test", "testing/image_2/000000_10.png", None),
        ),
        (7, 11, 26, 4),
        "kitti",
        ("training/semantic_rgb/000000_10.png", "training/instance/000000_10.png"),
    ),
    "Ultralytics' masks": Layout(
        "YOLO semantic segmentation",
        (*_pairs("images/{split}/{stem}.jpg", "sem/{split}/{stem}.png"), ("test", "images/test/c.jpg", None)),
        texts=(
            (
                "data.yaml",
                "path: /home/me/set\ntrain: images/train\nval: images/val\ntest: images/test\n"
                "masks_dir: sem\nnames: {0: ground, 1: box}\n",
            ),
        ),
    ),
    "split, kind": Layout(_ANY, _pairs("{split}/images/{stem}.png", "{split}/masks/{stem}.png")),
    "kind, split": Layout(_ANY, _pairs("images/{split}/{stem}.jpg", "masks/{split}/{stem}.png")),
    "mmsegmentation": Layout(
        "mmsegmentation (img_dir, ann_dir)",
        _pairs("img_dir/{split}/c/{stem}.jpg", "ann_dir/{split}/c/{stem}_labelTrainIds.png"),
    ),
    "synonyms": Layout(
        _ANY,
        (
            ("train", "Training/Imgs/City A/1.JPEG", "Training/GroundTruth/City A/1.PNG"),
            ("val", "Validation/Imgs/City A/1.JPEG", "Validation/GroundTruth/City A/1.PNG"),
            ("test", "Testing/Imgs/City A/1.JPEG", None),
        ),
    ),
    "glued": Layout(_ANY, _pairs("{split}_images/{stem}.jpg", "{split}_masks/{stem}.png")),
    "x and y": Layout(_ANY, _pairs("x/{split}/{stem}.jpg", "y/{split}/{stem}.png")),
    "no splits": Layout(
        _ANY,
        (
            ("train", "photos/straße 1.jpg", "masks/straße 1.png"),
            ("train", "photos/a.b [2].jfif", "masks/a.b [2].gif"),
            ("train", "photos/deep/er/3.webp", "masks/deep/er/3.tif"),
        ),
    ),
    "images beside": Layout(_ANY, tuple(("train", f"pictures of May/{s}.jpg", f"gt/{s}_gt.png") for s in "ab")),
    "two prefixes": Layout(_ANY, tuple(("train", f"images/img_{s}.jpg", f"labels/mask_{s}.png") for s in "12")),
    "flat by suffix": Layout(_ANY, tuple(("train", f"{s}_sat.jpg", f"{s}_mask.png") for s in ("1", "22"))),
    "tree by suffix": Layout(
        _ANY,
        (
            ("train", "train/benign/benign (1).png", "train/benign/benign (1)_mask.png"),
            ("train", "train/other/benign (1).png", "train/other/benign (1)_mask.png"),
            ("val", "valid/benign/benign (2).png", "valid/benign/benign (2)_mask.png"),
        ),
    ),
    "flat by ending": Layout(_ANY, tuple(("train", f"{s}.jpg", f"{s}.png") for s in ("a", "b"))),
    "DRIVE": Layout(
        _ANY,
        (
            ("train", "training/images/21_training.tif", "training/1st_manual/21_manual1.gif"),
            ("train", "training/images/22_training.tif", "training/1st_manual/22_manual1.gif"),
            ("test", "test/images/01_test.tif", "test/1st_manual/01_manual1.gif"),
        ),
        others=(
            *(f"training/mask/{n}_training_mask.gif" for n in (21, 22)),
            "test/mask/01_test_mask.gif",
            "test/2nd_manual/01_manual2.gif",
        ),
    ),
    "CHASE_DB1": Layout(
        _ANY,
        tuple(("train", f"Image_0{s}.jpg", f"Image_0{s}_1stHO.png") for s in ("1L", "1R")),
        others=("Image_01L_2ndHO.png", "Image_01R_2ndHO.png"),
    ),
    "iSAID": Layout(
        "iSAID",
        _pairs("{split}/images/P0{stem}.png", "{split}/Semantic_masks/images/P0{stem}_instance_color_RGB.png"),
        others=("train/Instance_masks/images/P0a_instance_id_RGB.png",),
    ),
    "ACDC": Layout(
        _ANY,
        (
            *_pairs(
                "rgb_anon/fog/{split}/GOPR01/GOPR01_frame_0{stem}_rgb_anon.png",
                "gt/fog/{split}/GOPR01/GOPR01_frame_0{stem}_gt_labelTrainIds.png",
                stems="12",
            ),
            ("test", "rgb_anon/fog/test/GOPR02/GOPR02_frame_01_rgb_anon.png", None),
        ),
        others=(
            *(
                f"gt/fog/{split}/GOPR01/GOPR01_frame_0{n}_gt_{kind}.png"
                for split, n in (("train", 1), ("train", 2), ("val", 1))
                for kind in ("labelIds", "labelColor", "invGray")
            ),
            "rgb_anon/fog/train_ref/GOPR01/GOPR01_frame_01_rgb_ref_anon.png",
            "rgb_anon/fog/test_ref/GOPR02/GOPR02_frame_01_rgb_ref_anon.png",
        ),
    ),
    "India Driving (gtFine without labelIds)": Layout(
        _ANY,
        _pairs("leftImg8bit/{split}/0/0{stem}_leftImg8bit.png", "gtFine/{split}/0/0{stem}_gtFine_labellevel3Ids.png"),
    ),
    "RUGD": Layout(
        _ANY,
        tuple(
            ("train", f"RUGD_frames-with-annotations/creek/creek_0{s}.png", f"RUGD_annotations/creek/creek_0{s}.png")
            for s in "12"
        ),
    ),
    "A2D2": Layout(
        _ANY,
        tuple(
            (
                "train",
                f"2018_{s}/camera/front/2018_camera_front_{s}.png",
                f"2018_{s}/label/front/2018_label_front_{s}.png",
            )
            for s in ("01", "02")
        ),
    ),
    "words inside": Layout(
        _ANY, tuple(("train", f"images/104_sat_0{s}.jpg", f"masks/104_mask_0{s}.png") for s in "12")
    ),
    "letter behind": Layout(
        _ANY, tuple(("train", f"M_images_512/000{s}.jpg", f"M_masks_512/000{s}m.png") for s in "12")
    ),
    "nnU-Net": Layout(
        _ANY,
        (
            *(("train", f"imagesTr/case_{s}_0000.png", f"labelsTr/case_{s}.png") for s in "12"),
            ("test", "imagesTs/case_3_0000.png", None),
        ),
    ),
    "a folder for each": Layout(
        _ANY, _pairs("{split}/iid0{stem}/rgb.jpg", "{split}/iid0{stem}/labels.png", val="valid", stems="12")
    ),
    "labelme's export": Layout(
        _ANY,
        tuple(("train", f"{s}_json/img.png", f"{s}_json/label.png") for s in "12"),
        others=("1_json/label_viz.png", "2_json/label_viz.png"),
    ),
    "CVC-ClinicDB": Layout(
        _ANY,
        tuple(("train", f"PNG/Original/{s}.png", f"PNG/Ground Truth/{s}.png") for s in "12"),
        others=tuple(f"TIF/{kind}/{s}.tif" for kind in ("Original", "Ground Truth") for s in "12"),
    ),
    "Massachusetts": Layout(_ANY, _pairs("{split}/sat/{stem}_15.tiff", "{split}/map/{stem}_15.tif", val="valid")),
    "Potsdam": Layout(
        _ANY,
        tuple(("train", f"2_Ortho_RGB/top_2_{s}_RGB.tif", f"5_Labels_all/top_2_{s}_label.tif") for s in ("10", "11")),
        others=tuple(
            name
            for s in ("10", "11")
            for name in (
                f"4_Ortho_RGBIR/top_2_{s}_RGBIR.tif",
                f"5_Labels_all_noBoundary/top_2_{s}_label_noBoundary.tif",
            )
        ),
        texts=(("2_Ortho_RGB/top_2_10_RGB.tfw", "1\n"),),
    ),
    "DeepGlobe": Layout(
        _ANY,
        (*(("train", f"train/{s}_sat.jpg", f"train/{s}_mask.png") for s in "12"), ("test", "test/3_sat.jpg", None)),
        others=("valid/4_sat.jpg",),
    ),
    "DUTS": Layout(
        _ANY,
        (
            *(("train", f"DUTS-TR/DUTS-TR-Image/{s}.jpg", f"DUTS-TR/DUTS-TR-Mask/{s}.png") for s in "ab"),
            ("test", "DUTS-TE/DUTS-TE-Image/c.jpg", "DUTS-TE/DUTS-TE-Mask/c.png"),
        ),
    ),
    "splits in names": Layout(
        _ANY,
        (
            *(("train", f"train_{s}.bmp", f"train_{s}_anno.bmp") for s in "12"),
            ("test", "testA_1.bmp", "testA_1_anno.bmp"),
        ),
    ),
    "validation beside": Layout(
        _ANY,
        (
            *(("train", f"images/{s}.png", f"Masks/{s}.png") for s in "12"),
            ("val", "imagesValidation/1.png", "MasksValidation/1.png"),
        ),
    ),
    "masks outside of train": Layout(_ANY, tuple(("train", f"train/{s}.png", f"masks/{s}.png") for s in "12")),
    "Oxford Pets": Layout(
        _ANY,
        tuple(("train", f"images/Abyssinian_{s}.jpg", f"annotations/trimaps/Abyssinian_{s}.png") for s in "12"),
        texts=(("images/Abyssinian_1.mat", ""), ("annotations/list.txt", "")),
    ),
    "a repository": Layout(
        _ANY,
        tuple(("train", f"data/membrane/train/image/{s}.png", f"data/membrane/train/label/{s}.png") for s in "12"),
        others=(
            *(f"data/membrane/train/aug/{kind}_{s}.png" for kind in ("image", "mask") for s in "123"),
            "data/membrane/test/0.png",
            "data/membrane/test/0_predict.png",
            "img/u-net-architecture.png",
            "predicted/test_image/1.jpg",
        ),
    ),
    "one word for all": Layout(_ANY, tuple(("train", f"images/{s}.png", f"images/{s}-mask.png") for s in ("a", "b"))),
}
"""Layouts as data sets, tools and people have them."""


def reference_crop(frame: np.ndarray, window: Window, crop: tuple[int, int], fill: object) -> np.ndarray:
    """What a window of ``frame`` (an image, or a mask of two dimensions) becomes, by Pillow step by step."""
    part = Image.fromarray(np.ascontiguousarray(frame[window.top : window.bottom, window.left : window.right]))
    method = Image.Resampling.BILINEAR if frame.ndim == 3 else Image.Resampling.NEAREST
    shown = np.asarray(part.resize((window.width, window.height), method))
    out = np.empty((*crop, *frame.shape[2:]), np.uint8)
    out[:] = fill
    rows = slice(window.pad_top, window.pad_top + window.height)
    columns = slice(window.pad_left, window.pad_left + window.width)
    out[rows, columns] = shown[:, ::-1] if window.flip else shown
    return out
