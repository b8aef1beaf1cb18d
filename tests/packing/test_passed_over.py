"""Nothing of a set is passed over in silence, and of two files that could be meant none is chosen in silence."""

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.errors import UserError
from fastseg.packing.sources import open_source
from layouts import noise
from shape_layouts import write_labelme_json, write_one_coco, write_yolo

CLASSES = json.dumps({"classes": [{"value": value, "name": str(value)} for value in range(3)]})
SIZE = (24, 16)


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full(SIZE[::-1], value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def members() -> dict[str, bytes]:
    """A set of two images; their masks are of one size in bytes."""
    names = [f"{split}/{kind}/a.png" for split in ("train", "val") for kind in ("images", "masks")]
    return {name: png() for name in names} | {"classes.json": CLASSES.encode()}


def write_files(folder: Path) -> Path:
    for name, data in members().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def hide(folder: Path) -> Path:
    for kind in ("images", "masks"):
        (folder / "train" / kind / ".b.png").write_bytes(png())
        (folder / "train" / kind / "._a.png").write_bytes(b"a note of a Mac")
    return folder


def put_archive(folder: Path) -> Path:
    (folder / "train" / "more.tar.gz").write_bytes(b"")
    return folder


def add_image(folder: Path) -> Path:
    """Add an image beside one that an annotation file names."""
    beside = next(path for path in sorted(folder.rglob("*.*")) if path.suffix in (".jpg", ".png"))
    noise(9, SIZE).save(beside.with_name("unlisted.png"))
    return folder


def add_text(folder: Path) -> Path:
    beside = next(iter(sorted(folder.rglob("labels/**/*.txt"))))
    beside.with_name("orphan.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    return folder


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: hide(write_files(p)), r"^2 files are left out: a dot before .* as train/images/\.b\.png"),
        (lambda p: put_archive(write_files(p)), r"^1 file is left out: the archive is not read, .*train/more\.tar\.gz"),
        (
            lambda p: add_image(write_one_coco(p)),
            r"^1 file is left out: no annotation names the image, .*listed\.png",
        ),
        (
            lambda p: add_image(write_yolo(p)),
            r"^\d images without a text file are background only, such as",
        ),
        (lambda p: add_text(write_yolo(p)), r"^1 file is left out: the text file has no image .*orphan\.txt"),
    ],
)
def test_what_is_left_out_is_said(write: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    assert not open_source(write_files(tmp_path / "plain")).warnings()
    found = open_source(write(tmp_path / "set")).warnings()
    assert any(re.search(says, sentence) for sentence in found), found


def zip_of(path: Path, *parts: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (entry for part in parts for entry in part.items()):
            archive.writestr(name, data)
    return path


def tar_of(path: Path, *parts: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in (entry for part in parts for entry in part.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def cut(path: Path) -> Path:
    """Cut a tar off where a member begins."""
    with tarfile.open(path) as archive:
        start = archive.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[:start])
    return path


def two_zips(folder: Path) -> Path:
    for name, value in (("a", 0), ("b", 1)):
        zip_of(folder / f"{name}.zip", members() | {"train/masks/a.png": png(value)})
    return folder


OTHER = {"train/masks/a.png": png(1)}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: zip_of(p / "s.zip", members(), OTHER), r"s\.zip holds 'train/masks/a\.png' twice, and not the same"),
        (lambda p: tar_of(p / "s.tar", members(), {"train/masks/a.png": png() + b"\0"}), r"s\.tar holds .* twice"),
        (lambda p: cut(tar_of(p / "s.tar", members())), r"s\.tar is not a readable tar \(it ends early"),
        (two_zips, r"a\.zip and \S+b\.zip both hold train/masks/a\.png, and not the same; extract each"),
    ],
)
def test_archives_with_two_files_of_one_name_or_cut_off_are_refused(
    write: Callable[[Path], Path], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        open_source(write(tmp_path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_alike_is_taken(tmp_path: Path) -> None:
    assert len(open_source(zip_of(tmp_path / "s.zip", members(), members())).samples) == 2


@pytest.mark.parametrize("form", ["./{}", "././{}", "set/./{}", "./set//{}"])
@pytest.mark.parametrize("write", [zip_of, tar_of])
def test_members_are_found_by_their_names_without_dots_and_double_slashes(
    write: Callable[[Path, dict[str, bytes]], Path], form: str, tmp_path: Path
) -> None:
    """As "zip -r set.zip ./", "tar -cf set.tar ." and joined paths name them."""
    plain = open_source(zip_of(tmp_path / "plain.zip", members()))
    found = open_source(
        write(tmp_path / f"dots.{write.__name__[:3]}", {form.format(n): d for n, d in members().items()})
    )
    assert [(s.key, s.split, s.name) for s in found.samples] == [(s.key, s.split, s.name) for s in plain.samples]
    for one, other in zip(found.samples, plain.samples, strict=True):
        assert (one.image.read(), one.image.head(9)) == (other.image.read(), other.image.head(9))
        assert one.mask
        assert other.mask
        assert one.mask.decode().image == other.mask.decode().image


@pytest.mark.parametrize("write", [zip_of, tar_of])
@pytest.mark.parametrize("name", ["./../up.png", "a/./../../up.png", "//up.png"])
def test_dots_hide_no_member_that_points_elsewhere(
    write: Callable[[Path, dict[str, bytes]], Path], name: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="has a member that points elsewhere"):
        open_source(write(tmp_path / f"set.{write.__name__[:3]}", members() | {name: png()}))


@pytest.mark.parametrize("write", [zip_of, tar_of])
def test_two_members_that_differ_by_dots_alone_are_one_file(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds 'train/masks/a\.png' twice, and not the same"):
        open_source(write(tmp_path / f"set.{write.__name__[:3]}", members(), {"./train/masks/a.png": png(1) + b"\0"}))


def test_two_json_files_do_not_share_an_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        noise(0, SIZE).save(tmp_path / f"{name}.png")
        write_labelme_json(tmp_path / f"{name}.png", [], imagePath="a.png")
    with pytest.raises(UserError, match=r"a\.json and \S+b\.json both name the image \S+; let each name its own"):
        open_source(tmp_path)


def test_voc_has_one_image_of_a_name_and_may_list_it_twice(tmp_path: Path) -> None:
    for folder, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (tmp_path / folder).mkdir()
        Image.new("L", SIZE).save(tmp_path / folder / f"a.{ending}")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\na\n")
    (tmp_path / "classes.json").write_text(CLASSES)
    assert len(open_source(tmp_path).samples) == 1
    Image.new("L", SIZE).save(tmp_path / "JPEGImages" / "a.png")
    with pytest.raises(UserError, match=r"a\.jpg and \S+a\.png could both be the image of one sample"):
        open_source(tmp_path)
