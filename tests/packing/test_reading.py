"""Images and masks of one sample brought together: EXIF orientations, sizes, 16 bits."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fastseg.errors import UserError
from fastseg.packing.check import check_agreement
from fastseg.packing.pack import PackOptions, pack, pack_part
from fastseg.packing.parts import PartNumber, merge
from fastseg.packing.reading import Facts, ReadOptions, read_pair
from fastseg.packing.records import Statistics
from fastseg.packing.sources import DataSet, open_source
from fastseg.shards.set_warnings import set_warnings

CLASSES = {"name": "t", "classes": [{"value": 0, "name": "a", "color": [0, 0, 0]}, {"value": 1, "name": "b"}]}
SIZES = ((40, 24), (24, 24))


def draw(size: tuple[int, int]) -> np.ndarray:
    """A mask without any symmetry."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[2:9, 3:20] = mask[2:15, 3:6] = 1
    return mask


def write(
    folder: Path,
    stored: np.ndarray,
    orientation: int,
    mask: np.ndarray,
    mask_orientation: int = 1,
    split: str = "train",
    ending: str = ".png",
) -> None:
    """An image that shows the object of ``stored`` in white, with an EXIF orientation, and a mask."""
    exif, mask_exif = Image.Exif(), Image.Exif()
    exif[0x0112], mask_exif[0x0112] = orientation, mask_orientation
    number = len(list(folder.glob(f"{split}/images/*")))
    for kind in ("images", "masks"):
        (folder / split / kind).mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(stored * 255).convert("RGB")
    picture.save(folder / split / "images" / f"{number}{ending}", exif=exif)
    Image.fromarray(mask).save(folder / split / "masks" / f"{number}.png", exif=mask_exif)
    (folder / "classes.json").write_text(json.dumps(CLASSES))


def upright(mask: np.ndarray, orientation: int) -> np.ndarray:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(mask)
    image.info["exif"] = exif.tobytes()
    return np.asarray(ImageOps.exif_transpose(image))


def read(source: DataSet, **options: object) -> tuple[np.ndarray, np.ndarray, Facts]:
    pair = read_pair(source.samples[0], source.table, ReadOptions(**options))  # type: ignore[arg-type]
    assert pair.mask
    return np.asarray(pair.image)[..., 0] // 255, np.asarray(pair.mask), pair.facts


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("drawn", ["stored", "upright", "own tag"])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_mask_and_image_come_together_whichever_was_turned(
    ending: str, drawn: str, size: tuple[int, int], orientation: int, tmp_path: Path
) -> None:
    stored = draw(size)
    mask = stored if drawn != "upright" else upright(stored, orientation)
    write(tmp_path, stored, orientation, mask, orientation if drawn == "own tag" else 1, ending=ending)
    source = open_source(tmp_path)
    told = {} if drawn == "own tag" else {"masks_drawn": drawn}
    image, labels, facts = read(source, **told)
    np.testing.assert_array_equal(image, upright(stored, orientation))
    np.testing.assert_array_equal(labels, image)
    assert facts.drawn == (None if drawn == "own tag" else drawn)
    if orientation >= 5 and size[0] != size[1]:  # the sizes tell
        np.testing.assert_array_equal(read(source)[1], image)
        assert read(source)[2].drawn == facts.drawn
    elif drawn != "own tag":
        assert read(source)[2].drawn == "undecided"


def test_what_the_sizes_do_not_tell_is_counted_and_refused_beside_masks_drawn_as_stored(tmp_path: Path) -> None:
    stored = draw(SIZES[0])
    for _ in range(2):
        write(tmp_path, stored, 3, stored)
    write(tmp_path, stored, 1, stored, split="val")
    manifest = pack(open_source(tmp_path), tmp_path / "one", workers=1)
    assert any(sentence.startswith("of 2 masks the size does not tell") for sentence in set_warnings(manifest))
    write(tmp_path, stored, 6, stored)
    with pytest.raises(
        UserError, match=r"1 masks are drawn on images as stored, .* of 2 the size does not tell, such as"
    ):
        pack(open_source(tmp_path), tmp_path / "two", workers=1)
    options = PackOptions(reading=ReadOptions(masks_drawn="stored"))
    assert pack(open_source(tmp_path), tmp_path / "two", options, workers=1).options["masks_drawn_stored"] == 3


def test_masks_of_another_size_but_the_same_proportions_are_resized_when_told(tmp_path: Path) -> None:
    stored = draw((40, 24))
    write(tmp_path, stored, 1, np.repeat(np.repeat(stored, 2, 0), 2, 1))
    write(tmp_path, stored, 1, np.zeros((24, 41), np.uint8))
    source = open_source(tmp_path)
    with pytest.raises(
        UserError, match=r"has 80×48 pixels, its image \S+ 40×24; --resize-masks brings it to its image's"
    ):
        read(source)
    _, labels, facts = read(source, resize_masks=True)
    np.testing.assert_array_equal(labels, stored)
    assert facts.resized
    write(tmp_path / "b", stored, 1, np.zeros((80, 48), np.uint8))
    with pytest.raises(UserError, match=r"has 48×80 pixels.*they must show the same, in one size"):
        read(open_source(tmp_path / "b"), resize_masks=True)


def test_16_bit_images_have_one_white_in_a_set(tmp_path: Path) -> None:
    stored = draw(SIZES[0])
    for white in (4000, 1000):
        write(tmp_path, stored, 1, stored)
        number = len(list(tmp_path.glob("train/images/*"))) - 1
        Image.fromarray(stored.astype(np.uint16) * white).save(tmp_path / "train" / "images" / f"{number}.png")
    write(tmp_path, stored, 1, stored, split="val")
    manifest = pack(open_source(tmp_path), tmp_path / "shards", workers=1)
    assert manifest.options["white"] == 4000
    assert any("4,000 is white" in sentence for sentence in set_warnings(manifest))
    images = [
        np.asarray(read_pair(s, open_source(tmp_path).table, ReadOptions(white=4000)).image)
        for s in open_source(tmp_path).samples
    ]
    assert [int(image.max()) for image in images] == [255, 64, 255]


def test_an_image_of_16_bits_has_a_name_by_which_its_white_is_searched(tmp_path: Path) -> None:
    write(tmp_path, draw(SIZES[0]), 1, draw(SIZES[0]))
    image = tmp_path / "train" / "images" / "0.png"
    Image.fromarray(draw(SIZES[0]).astype(np.uint16) * 4000).save(image)
    image.rename(image.with_suffix(".jpg"))
    with pytest.raises(UserError, match=r"0\.jpg is a PNG of 16 bits, but its name does not end so"):
        pack(open_source(tmp_path), tmp_path / "shards", workers=1)


def test_masks_of_0_and_1_are_not_mixed_with_masks_of_0_and_255(tmp_path: Path) -> None:
    for value in (1, 255):
        write(tmp_path, draw(SIZES[0]), 1, draw(SIZES[0]) * np.uint8(value))
    classes = json.dumps({**CLASSES, "ignore": [255]})
    (tmp_path / "classes.json").write_text(classes)
    with pytest.raises(UserError, match=r"1 masks hold 255, which is ignored, .*1\.png, .*--mask-values value"):
        pack(open_source(tmp_path), tmp_path / "shards", workers=1)
    said = PackOptions(reading=ReadOptions(mask_values="value"))
    assert pack(open_source(tmp_path), tmp_path / "shards", said, workers=1).splits["train"].pixels[2]
    both = draw(SIZES[0])
    both[0] = 255
    write(tmp_path, both, 1, both)  # ignored beside both classes: there, it is no object
    (tmp_path / "classes.json").write_text(classes)
    assert pack(open_source(tmp_path), tmp_path / "more", workers=1).splits["train"].samples == 3


def test_all_that_cannot_be_packed_is_named_at_once_and_skipped_when_told(tmp_path: Path) -> None:
    stored = draw(SIZES[0])
    for i in range(6):
        write(tmp_path, stored, 1, stored if i < 3 else np.zeros((9, 9), np.uint8))
    write(tmp_path, stored, 1, stored, split="val")
    (tmp_path / "train" / "images" / "0.png").write_bytes(b"nothing")
    source = open_source(tmp_path)
    with pytest.raises(UserError, match="4 of 7 samples cannot be packed; mend them, or leave them out") as caught:
        pack(source, tmp_path / "shards", workers=1)
    assert len(caught.value.details) == 4
    manifest = pack(source, tmp_path / "shards", workers=1, skip_bad=True)
    assert manifest.splits["train"].samples == 2
    assert manifest.options["skipped"] == 4
    lines = (tmp_path / "shards" / "skipped.txt").read_text().splitlines()
    assert [line.split("masks/")[-1][:5] for line in lines if "masks/" in line] == ["3.png", "4.png", "5.png"]
    assert any(sentence.startswith("4 files or samples were left out") for sentence in set_warnings(manifest))


def test_images_in_train_and_in_val_are_named(tmp_path: Path) -> None:
    stored = draw(SIZES[0])
    for split in ("train", "val"):
        write(tmp_path, stored, 1, stored, split=split)
    manifest = pack(open_source(tmp_path), tmp_path / "shards", workers=1)
    assert any("1 images (train/images/0.png = val/images/0.png)" in sentence for sentence in set_warnings(manifest))


def statistics(facts: Facts) -> Statistics:
    return Statistics(1, 1, (), (), None, facts)


def test_palettes_of_one_set_agree() -> None:
    red, blue = (255, 0, 0), (0, 0, 255)
    check_agreement([("a", statistics(Facts(((1, red),)))), ("b", statistics(Facts(((2, blue),))))])
    with pytest.raises(
        UserError, match=r"value 1 has the color \[255, 0, 0\] in the palette of the mask of a and \[0, 0"
    ):
        check_agreement([("a", statistics(Facts(((1, red),)))), ("b", statistics(Facts(((1, blue),))))])


def test_rgb_masks_are_all_read_alike() -> None:
    with pytest.raises(UserError, match=r"a has nothing but grays .* b has colors"):
        check_agreement([("a", statistics(Facts(gray_rgb=True))), ("b", statistics(Facts(gray_rgb=False)))])


def write_palettes(folder: Path, classes: dict) -> DataSet:
    """Two masks of the same colors, whose palettes list them in another order."""
    for number, order in enumerate(([0, 1], [1, 0])):
        write(folder, draw(SIZES[0]), 1, draw(SIZES[0]))
        mask = Image.fromarray(np.array([order.index(0), order.index(1)], np.uint8)[draw(SIZES[0])])
        mask.putpalette([channel for index in order for channel in ((0, 0, 0), (0, 200, 0))[index]])
        mask.save(folder / "train" / "masks" / f"{number}.png")
    (folder / "classes.json").write_text(json.dumps(classes))
    return open_source(folder)


def test_palettes_in_another_order_are_one_set_by_color_and_what_was_said_holds(tmp_path: Path) -> None:
    names = [{"name": "a", "color": [0, 0, 0]}, {"name": "b", "color": [0, 200, 0]}]
    source = write_palettes(tmp_path / "colors", {"classes": names})
    pixels = int((draw(SIZES[0]) == 1).sum())
    assert pack(source, tmp_path / "one", workers=1).splits["train"].pixels[1] == 2 * pixels
    other = [{"name": n, "value": i, "color": [9, 9, 9 + i]} for i, n in enumerate("ab")]  # colors of nobody's palette
    source = write_palettes(tmp_path / "values", {"classes": other})
    with pytest.raises(UserError, match="say which of them holds: --mask-values value or color"):
        pack(source, tmp_path / "two", workers=1)
    options = PackOptions(reading=ReadOptions(mask_values="value"))
    assert pack(source, tmp_path / "two", options, workers=1).splits["train"].samples == 2


def test_parts_of_one_set_agree(tmp_path: Path) -> None:
    classes = {"classes": [{"name": n, "value": i, "color": [9, 9, 9 + i]} for i, n in enumerate("ab")]}
    source = write_palettes(tmp_path / "set", classes)
    for index in range(2):
        pack_part(source, tmp_path / "out", PartNumber(index, 2), PackOptions(samples_per_shard=1), workers=1)
    with pytest.raises(UserError, match=r"the value \d has the color .* in that of train/images/\d\.png"):
        merge(tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_parts_become_the_set_that_one_machine_packs(tmp_path: Path) -> None:
    """What all samples tell together included: duplicates across splits, and what was left out."""
    stored = draw(SIZES[0])
    for split in ("train", "val"):
        write(tmp_path / "set", stored, 1, stored, split=split)
    write(tmp_path / "set", stored, 1, np.zeros((9, 9), np.uint8))
    source = open_source(tmp_path / "set")
    manifest = pack(source, tmp_path / "one", workers=1, skip_bad=True)
    for index in range(2):
        pack_part(source, tmp_path / "parts", PartNumber(index, 2), workers=1, skip_bad=True)
    assert merge(tmp_path / "parts") == manifest
    assert manifest.options["duplicates"].startswith("1 images")
    assert (tmp_path / "parts" / "skipped.txt").read_text() == (tmp_path / "one" / "skipped.txt").read_text()
