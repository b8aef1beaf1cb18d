"""Which mask belongs to which image, which kind of masks is meant, and masks in several files."""

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.errors import UserError
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.records import Codec
from fastseg.packing.sources import DataSet, FindOptions, open_source
from fastseg.packing.sources.merged import MergedMask
from layouts import noise

SIZE = (24, 16)
BLACK_AND_WHITE = {"name": "cells", "classes": [{"value": 0, "name": "ground"}, {"value": 255, "name": "cell"}]}


def write(folder: Path, *names: str) -> Path:
    """Write empty files: names are all that matching reads."""
    (folder / "x").mkdir(parents=True, exist_ok=True)
    (folder / "classes.json").write_text(json.dumps(BLACK_AND_WHITE))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def disc(value: int, left: int, bits: int = 8) -> Image.Image:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[4:10, left : left + 6] = value
    return Image.fromarray(mask).convert("1") if bits == 1 else Image.fromarray(mask)


def save(folder: Path, name: str, picture: Image.Image) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    picture.save(folder / name)


def pairs(found: DataSet, folder: Path) -> dict[str, tuple[str, ...]]:
    """Image → its masks, by their names."""
    members = {
        sample.name: (sample.mask.members if isinstance(sample.mask, MergedMask) else (sample.mask,))
        for sample in found.samples
    }
    return {
        name: tuple(sorted(str(one.path.relative_to(folder)) for one in masks if one))  # type: ignore[union-attr]
        for name, masks in members.items()
    }


def test_masks_of_single_objects_are_merged(tmp_path: Path) -> None:
    objects = {"aa": ((255, 1), (255, 9)), "bb": ((255, 3), (0, 0), (255, 17))}
    for name, masks in objects.items():
        save(tmp_path, f"stage1_train/{name}/images/{name}.png", noise(1, SIZE))
        for number, (value, left) in enumerate(masks):
            save(tmp_path, f"stage1_train/{name}/masks/c{name}{number}f{number}.png", disc(value, left))
    save(tmp_path, "stage1_test/cc/images/cc.png", noise(2, SIZE))
    (tmp_path / "classes.json").write_text(json.dumps(BLACK_AND_WHITE))
    found = open_source(tmp_path)
    assert found.warnings() == ["2 images have several masks, which are merged: an object in any of them is one in all"]
    pack(found, tmp_path / "shards", PackOptions(codec=Codec(image="png", mask="png")), workers=1)
    with tarfile.open(tmp_path / "shards" / "train-000000.tar") as tar:
        for name, masks in objects.items():
            file = tar.extractfile(next(member for member in tar if member.name == f"stage_1_{name}_{name}.mask.png"))
            assert file
            union = np.max([np.asarray(disc(value, left)) for value, left in masks], 0) > 0
            assert (np.asarray(Image.open(io.BytesIO(file.read()))) == union).all()
    assert not (tmp_path / "shards" / "test-000000.tar").read_bytes().count(b"mask.png")


def test_numbered_masks_beside_an_image_are_merged_whatever_their_depth(tmp_path: Path) -> None:
    for number, bits in enumerate((8, 1)):
        save(tmp_path, f"benign/benign ({number}).png", noise(number, SIZE))
        save(tmp_path, f"benign/benign ({number})_mask.png", disc(255, 1, bits))
    save(tmp_path, "benign/benign (1)_mask_1.png", disc(255, 12))
    (tmp_path / "classes.json").write_text(json.dumps(BLACK_AND_WHITE))
    one, both = (sample.mask for sample in open_source(tmp_path).samples)
    assert one
    assert isinstance(both, MergedMask)
    assert (np.asarray(both.decode().image) == np.maximum(disc(255, 1), disc(255, 12))).all()


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2)), disc(1, 1), "shows more than one kind of object"),
        (noise(1, SIZE), disc(1, 1), "shows more than one kind of object"),
        (
            disc(255, 1),
            disc(255, 1).resize((8, 8), Image.Resampling.NEAREST),
            "are masks of one image, but differ in size",
        ),
    ],
)
def test_parts_that_cannot_be_merged_are_refused(
    first: Image.Image, second: Image.Image, sentence: str, tmp_path: Path
) -> None:
    save(tmp_path, "a.png", noise(1, SIZE))
    save(tmp_path, "b.png", noise(2, SIZE))
    for name, picture in (("a_mask.png", first), ("a_mask_1.png", second), ("b_mask.png", second)):
        save(tmp_path, name, picture)
    (tmp_path / "classes.json").write_text(json.dumps(BLACK_AND_WHITE))
    mask = open_source(tmp_path).samples[0].mask
    assert mask
    with pytest.raises(UserError, match=sentence):
        mask.decode()


def test_masks_of_several_classes_are_not_merged(tmp_path: Path) -> None:
    folders = [f"{n}/{name}" for n in "12" for name in ("images/photo.png", "masks/hair.png", "masks/skin.png")]
    write(tmp_path, *folders)
    with pytest.raises(UserError, match=r"hair\.png and 1/masks/skin\.png could both be the mask of 1/images/photo\."):
        open_source(tmp_path)


def test_the_flags_of_a_refusal_work(tmp_path: Path) -> None:
    write(tmp_path, *(f"CXR_png/M_{n}.png" for n in "12"))
    write(tmp_path, *(f"ManualMask/{side}Mask/M_{n}.png" for n in "12" for side in ("left", "right")))
    with pytest.raises(UserError, match=r"could both be the mask of CXR_png/M_1\.png") as refused:
        open_source(tmp_path)
    images, left, both = re.findall("'([^']+)'", str(refused.value))
    assert pairs(open_source(tmp_path, options=FindOptions(images, left)), tmp_path) == {
        f"CXR_png/M_{n}.png": (f"ManualMask/leftMask/M_{n}.png",) for n in "12"
    }
    assert pairs(open_source(tmp_path, options=FindOptions(images, both)), tmp_path) == {
        f"CXR_png/M_{n}.png": (f"ManualMask/leftMask/M_{n}.png", f"ManualMask/rightMask/M_{n}.png") for n in "12"
    }


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (
            [
                f"{split}/{kind}/s {n}/{n}.png"
                for split in ("train", "val")
                for kind in ("A", "B", "label")
                for n in "12"
            ],
            {f"{split}/A/s {n}/{n}.png": (f"{split}/label/s {n}/{n}.png",) for split in ("train", "val") for n in "12"},
        ),
        (
            [
                f"{kind}/0{n}_{end}.png"
                for kind, end in (("images", "im"), ("masks", "m"), ("labels", "lab"))
                for n in "12"
            ],
            {f"images/0{n}_im.png": (f"labels/0{n}_lab.png",) for n in "12"},
        ),
    ],
)
def test_suggested_patterns_find_the_first_of_two_kinds(
    names: list[str], chosen: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    write(tmp_path, *names)
    with pytest.raises(UserError, match="could") as refused:
        open_source(tmp_path)
    images, masks = re.findall("'([^']+)'", str(refused.value))[:2]
    assert pairs(open_source(tmp_path, options=FindOptions(images, masks)), tmp_path) == chosen


def test_pairs_beside_the_folders_of_a_set_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        "dataset.jpg",
        "dataset.png",
        *(f"MT_{n % 2}/Imgs/{n}.{end}" for n in range(12) for end in ("jpg", "png")),
    )
    found = open_source(tmp_path)
    assert len(found.samples) == 12
    assert {name for name, _ in found.skipped} == {"dataset.jpg", "dataset.png"}


def test_a_kind_of_picture_without_masks_is_left_out_but_a_single_one_is_named(tmp_path: Path) -> None:
    images = [f"train/photos/{n}.jpg" for n in "123"]
    write(tmp_path, *images, *(f"train/masks/{n}.png" for n in "123"), "figs/images/net.png", "valid/photos/9.jpg")
    found = open_source(tmp_path)
    assert pairs(found, tmp_path) == {image: (f"train/masks/{image[-5]}.png",) for image in images}
    assert found.skipped == (
        ("figs/images/net.png", "no such image has a mask"),
        ("valid/photos/9.jpg", "no such image has a mask"),
    )
    (tmp_path / "train/masks/2.png").unlink()
    with pytest.raises(UserError, match=r"train/photos/2\.jpg: the image has no mask"):
        open_source(tmp_path)


def test_a_set_most_of_whose_masks_match_nothing_is_refused(tmp_path: Path) -> None:
    write(
        tmp_path,
        "images/a.png",
        "masks/a.png",
        *(f"p/images/{n}.jpgpatch_0{n}.jpg" for n in "12"),
        *(f"p/masks/{n}.pngpatch_0{n}.png" for n in "12"),
    )
    with pytest.raises(UserError, match="4 files belong to no pair"):
        open_source(tmp_path)


def test_images_without_any_mask_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train_images/a.jpg", "test_images/b.jpg", "train.csv")
    with pytest.raises(UserError, match=r"there are 2 images, such as \S+b\.jpg, and no masks; say where these lie"):
        open_source(tmp_path)


def test_masks_in_files_are_taken_if_shapes_label_fewer_images(tmp_path: Path) -> None:
    pictures = tmp_path / "images"
    for number in range(3):
        save(tmp_path, f"images/{number}.png", noise(number, SIZE))
        save(tmp_path, f"masks/{number}.png", disc(255, number))
    shape = {"label": "cell", "shape_type": "polygon", "points": [[1, 1], [9, 1], [9, 9]]}
    for number in range(2):
        document = {"shapes": [shape], "imagePath": f"{number}.png", "imageWidth": SIZE[0], "imageHeight": SIZE[1]}
        (pictures / f"{number}.json").write_text(json.dumps({"version": "5.0", **document}))
    (tmp_path / "classes.json").write_text(json.dumps(BLACK_AND_WHITE))
    found = open_source(tmp_path)
    assert found.summary() == "images and masks by their names: 3 train"
    assert found.example() == f"images/0.png with {tmp_path}/masks/0.png"
    (tmp_path / "masks/2.png").unlink()
    assert open_source(tmp_path, skip_bad=True).summary() == "labelme: 2 train"
