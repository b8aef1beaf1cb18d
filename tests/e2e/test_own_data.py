"""A data set as people have it, brought by the lines of docs/data.md from two folders to a report."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import commands
from fastseg.data.loader import open_files
from fastseg.data.reader import Reader
from fastseg.errors import UserError
from fastseg.packing.pack import pack
from fastseg.packing.sources import open_source
from fastseg.shards.images import read_labels, read_rgb
from fastseg.shards.manifest import read_manifest

README, GUIDE = commands.ROOT / "README.md", commands.ROOT / "docs" / "data.md"
SIZES = ((97, 71), (64, 120), (131, 64), (75, 75), (90, 66), (66, 91))
"""Width and height: odd, portrait, landscape, square."""
GREYS = {0: 60, 1: 140, 2: 220, 255: 10}
"""The brightness of each label in the images, so that an image proves which mask is its own."""
PALETTE = [0, 0, 0, 128, 64, 128, 0, 0, 142]
TURNED = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180, 1: None}
"""EXIF orientation → how the upright picture is turned before it is stored under that tag."""


def mask_of(seed: int, size: tuple[int, int]) -> Image.Image:
    """Labels 0, 1, 2 and 255 in rectangles, none of them alike when turned."""
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    mask[height // 2 :, : width // 3 + seed] = 1
    mask[: height // 4, width // 2 :] = 2
    mask[-3:] = 255
    return Image.fromarray(mask)


def write_own(folder: Path) -> Path:
    """JPEG photographs with EXIF orientations, of :data:`SIZES`; palette masks, one of 16 bits; a test split."""
    for split, count in (("train", 6), ("val", 3), ("test", 1)):
        for number in range(count):
            size, orientation = SIZES[number % len(SIZES)], (6, 1, 3)[number % 3]
            mask = mask_of(number, size)
            gray = Image.fromarray(np.vectorize(GREYS.__getitem__)(np.asarray(mask)).astype(np.uint8))
            write_photograph(folder / split / "images" / f"IMG_{number}.jpg", gray, orientation)
            if split != "test":
                write_mask(folder / split / "masks" / f"IMG_{number}.png", mask, deep=number == 1)
    return folder


def write_photograph(path: Path, upright: Image.Image, orientation: int) -> None:
    """As a phone does: the sensor's rows, and a tag that says how to turn them."""
    turn, exif = TURNED[orientation], Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = upright.convert("RGB") if turn is None else upright.convert("RGB").transpose(turn)
    stored.save(path, quality=95, exif=exif)


def write_mask(path: Path, mask: Image.Image, deep: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if deep:
        mask = Image.fromarray(np.asarray(mask).astype(np.uint16))
    else:
        mask.putpalette([*PALETTE, *[255] * (768 - len(PALETTE))])
    mask.save(path)


def lines(document: Path) -> list[list[str]]:
    """The commands of its section on one's own data, in words."""
    section = document.read_text(encoding="utf-8").partition("## Your own images and masks")[2]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block
    return [shlex.split(line, comments=True) for line in block[1].splitlines()]


def adapted(words: list[str]) -> list[str]:
    """The same command in seconds: smaller crops, the small network, one epoch."""
    small = ["--data.crop", "64", "64"]
    if "fastseg/train.py" in words:
        return [*words, *commands.TINY, "--optim.epochs", "1", "--optim.warmup", "0.5"]
    if words[0] == "fastseg-inspect":
        return [str(commands.BIN / "fastseg-inspect"), *words[1:], *small, "--samples", "8", "--show", "4"]
    return [*words, "--workers", "1"] if "tools/make_shards.py" in words else words


def test_the_readme_has_lines_of_the_guide() -> None:
    guide = iter(lines(GUIDE))
    assert len(lines(README)) > 2
    for words in lines(README):
        assert words in guide, f"{words}: not in docs/data.md, or in another order"


def test_the_lines_of_the_guide_lead_to_a_report(tmp_path: Path) -> None:
    write_own(tmp_path / "mydata")
    for folder in ("tools", "fastseg"):
        (tmp_path / folder).symlink_to(commands.ROOT / folder)
    *typed, (opens, report) = lines(GUIDE)
    assert opens == "xdg-open"
    for words in typed:
        result = commands.typed(*adapted(words), cwd=tmp_path)
        assert result.returncode == 0, f"{words}: {result.stderr}"
    assert "road" in result.stdout  # the scores
    assert "<svg" in (tmp_path / report).read_text()
    assert (tmp_path / "runs/inspect/mydata/index.html").exists()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write_own(folder / "mydata")
    classes = [{"value": v, "name": f"class {v}", "color": [v, v, v]} for v in (0, 1, 2)]
    (folder / "mydata" / "classes.json").write_text(json.dumps({"ignore": [255], "classes": classes}))
    pack(open_source(folder / "mydata"), folder / "shards", workers=1)
    return folder / "shards"


def test_every_mask_lies_on_its_upright_image(packed: Path) -> None:
    manifest = read_manifest(packed)
    assert {(h, w) for h, w, _ in manifest.splits["train"].sizes} == {(h, w) for w, h in SIZES}
    assert not manifest.splits["test"].labeled
    reader = Reader(open_files(packed, manifest, "train"))
    for place in range(len(reader)):
        record = reader.read(place)
        image = np.asarray(read_rgb(record.image.tobytes(), "x")[0]).mean(2)
        labels = np.asarray(read_labels(record.mask.tobytes(), "x"))
        assert set(np.unique(labels)) == set(GREYS)
        for label, gray in GREYS.items():
            assert abs(np.median(image[labels == label]) - gray) < 4, (reader.key(place), label)


def test_masks_drawn_on_the_picture_as_it_is_stored_are_turned_with_it(tmp_path: Path) -> None:
    write_own(tmp_path)
    classes = [{"value": value, "name": str(value)} for value in (0, 1, 2)]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": classes, "ignore": [255]}))
    path = tmp_path / "train" / "masks" / "IMG_0.png"
    write_mask(path, mask_of(0, SIZES[0]).transpose(Image.Transpose.ROTATE_90))
    with pytest.raises(UserError, match=r"1 masks are drawn on images as stored, .* of 4 the size does not tell"):
        pack(open_source(tmp_path), tmp_path / "shards", workers=1)
    write_mask(path, mask_of(0, (50, 60)))
    with pytest.raises(UserError, match="they must show the same, in one size"):
        pack(open_source(tmp_path), tmp_path / "shards", workers=1)


def test_more_than_255_classes_are_refused(tmp_path: Path) -> None:
    write_own(tmp_path)
    classes = [{"value": v, "name": f"class {v}", "color": [v, v, v]} for v in range(256)]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": classes}))
    with pytest.raises(UserError, match="has 256 classes; a mask holds 1 to 255"):
        open_source(tmp_path)


def test_without_a_table_packing_names_the_flag_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"classes\.json does not exist; fastseg-pack --guess-classes makes one"):
        open_source(write_own(tmp_path))


@pytest.mark.parametrize("orientation", TURNED)
def test_photographs_are_stored_as_a_phone_stores_them(orientation: int, tmp_path: Path) -> None:
    upright = mask_of(0, (31, 20))
    write_photograph(tmp_path / "a.png", upright, orientation)
    turned, _ = read_rgb((tmp_path / "a.png").read_bytes(), "a.png")
    np.testing.assert_array_equal(np.asarray(turned)[..., 0], np.asarray(upright))
