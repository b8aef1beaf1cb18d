"""Classes guessed from masks: what each kind of mask gives, what is refused, and that the result packs."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fastseg.errors import UserError
from fastseg.labels import IGNORE
from fastseg.packing.classes_json import read_classes
from fastseg.packing.guess_classes import write_guess
from fastseg.packing.masks import decode_mask, read_train_ids
from fastseg.packing.pack import pack
from fastseg.packing.sources import open_source


def masks(folder: Path, *pictures: Image.Image) -> Path:
    for number, picture in enumerate(pictures):
        path = folder / ("train", "val")[number % 2] / "masks" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return folder


def mask(*values: int, palette: list[int] | None = None) -> Image.Image:
    """A row of each value, two pixels long."""
    picture = Image.fromarray(np.repeat(np.array(values, np.uint8)[:, None], 2, 1))
    if palette:
        picture.putpalette(palette)
    return picture


def test_gray_values_get_colors_that_are_told_apart_and_255_is_ignored(tmp_path: Path) -> None:
    guess, path = write_guess(masks(tmp_path / "my set", mask(0, 3, 255), mask(3, 3, 7)), workers=1)
    assert guess.pixels == {0: 2, 3: 6, 7: 2, 255: 2}
    table = read_classes(path)
    assert table.name == "my set"
    assert [c.name for c in table.classes] == ["class 0", "class 3", "class 7"]
    assert len({c.color for c in table.classes} - {(0, 0, 0), (255, 0, 0)}) == 3
    assert table.train_ids == {0: 0, 3: 1, 7: 2, 255: 255}
    assert len(path.read_text().splitlines()) == 5  # a class a line, to edit


def test_a_palette_gives_its_colors(tmp_path: Path) -> None:
    palette = [0, 0, 0, 200, 10, 20, 30, 40, 250]
    pictures = mask(0, 1, palette=palette), mask(1, 2, 255, palette=[*palette, *[9] * 759])
    _, path = write_guess(masks(tmp_path, *pictures), workers=2)
    assert [c.color for c in read_classes(path).classes] == [(0, 0, 0), (200, 10, 20), (30, 40, 250)]


def test_a_palette_of_grays_is_read_as_its_grays(tmp_path: Path) -> None:
    guess, path = write_guess(masks(tmp_path, mask(0, 1, palette=[0, 0, 0, 7, 7, 7])), workers=1)
    assert guess.pixels == {0: 2, 7: 2}
    assert read_classes(path).train_ids == {0: 0, 7: 1, 255: IGNORE}


def test_colors_become_classes_in_the_order_of_their_pixels(tmp_path: Path) -> None:
    colors = np.array([[0, 0, 0], [128, 64, 128], [0, 0, 142]], np.uint8)
    labels = np.zeros((9, 9), np.uint8)
    labels[3:, 2:7], labels[8] = 1, 2
    black = Image.new("RGB", (9, 9))  # nothing but grays: colors all the same, since other masks have some
    guess, path = write_guess(masks(tmp_path, Image.fromarray(colors[labels]), black), workers=1)
    table = read_classes(path)
    assert table.train_ids == {}
    assert [c.color for c in table.classes] == [(0, 0, 0), (128, 64, 128), (0, 0, 142)]
    assert guess.mixed == 0
    assert guess.name((128, 64, 128)) == "color #804080"


def test_soft_edges_become_no_classes(tmp_path: Path) -> None:
    hard = np.zeros((60, 60, 3), np.uint8)
    hard[10:50, 10:50], hard[20:40, 20:40] = (200, 30, 30), (30, 200, 30)
    soft = np.asarray(Image.fromarray(hard).rotate(30, Image.Resampling.BICUBIC))
    guess, path = write_guess(masks(tmp_path, Image.fromarray(soft)), workers=1)
    assert {c.color for c in read_classes(path).classes} == {(0, 0, 0), (200, 30, 30), (30, 200, 30)}
    assert guess.mixed == (~(soft[:, :, None] == np.unique(hard.reshape(-1, 3), axis=0)).all(3).any(2)).sum()
    assert read_classes(path).others == IGNORE


def soft_levels(size: int = 120) -> Image.Image:
    """Three gray levels with blurred edges."""
    hard = np.zeros((size, size), np.uint8)
    hard[size // 6 : -size // 6, size // 6 : -size // 6], hard[size // 3 : -size // 3, size // 3 : -size // 3] = (
        128,
        255,
    )
    return Image.fromarray(hard).rotate(30, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1.5))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_levels_of_gray_with_soft_edges_are_classes_white_too(mode: str, tmp_path: Path) -> None:
    folder = masks(tmp_path, soft_levels().convert(mode))
    guess, path = write_guess(folder, workers=1)
    assert list(guess.pixels) == [0, 128, 255]
    assert (guess.ignored, guess.tolerance) == (False, 63)
    assert guess.mixed > 0
    levels = np.asarray(soft_levels())
    for tolerance in (0, guess.tolerance):
        decoded = decode_mask((folder / "train" / "masks" / "0.png").read_bytes(), "mask")
        ids = np.asarray(read_train_ids(decoded, read_classes(path), "mask", tolerance=tolerance).image)
        for index, level in enumerate((0, 128, 255)):
            assert ((ids == index) == (abs(levels.astype(int) - level) <= tolerance)).all()


def test_masks_stored_as_jpeg_are_guessed_and_read_with_the_tolerance_that_is_named(tmp_path: Path) -> None:
    hard = np.zeros((80, 80), np.uint8)
    hard[13:47, 21:66] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(hard).save(tmp_path / "masks" / "a.jpg", quality=60)
    guess, path = write_guess(tmp_path, workers=1)
    assert (list(guess.pixels), guess.ignored, guess.tolerance) == ([0, 255], False, 127)
    decoded = decode_mask((tmp_path / "masks" / "a.jpg").read_bytes(), "mask", lossy=True)
    ids = np.asarray(read_train_ids(decoded, read_classes(path), "mask", tolerance=guess.tolerance).image)
    assert (ids == hard // 255).mean() > 0.99


def test_palettes_made_for_each_file_are_read_by_color(tmp_path: Path) -> None:
    red, green = [200, 0, 0], [0, 200, 0]
    repeating = mask(0, 1, 2, palette=[*red, *green, *red])
    guess, path = write_guess(masks(tmp_path / "a", repeating, mask(0, palette=green)), workers=1)
    assert guess.pixels == {(200, 0, 0): 4, (0, 200, 0): 4}
    assert read_classes(path).train_ids == {}
    two = masks(tmp_path / "b", mask(0, 1, palette=[*red, *green]), mask(0, 1, palette=[*green, *red]))
    assert write_guess(two, workers=1, by="color")[0].pixels == {(200, 0, 0): 4, (0, 200, 0): 4}


def test_damaged_masks_are_passed_over_on_request(tmp_path: Path) -> None:
    folder = masks(tmp_path, mask(0, 1), mask(0, 2))
    (folder / "train" / "masks" / "0.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"0\.png"):
        write_guess(folder, workers=1)
    assert list(write_guess(folder, workers=1, skip_bad=True)[0].pixels) == [0, 2]


def test_white_is_one_class_whatever_the_bits_of_a_file(tmp_path: Path) -> None:
    _, path = write_guess(masks(tmp_path, mask(0, 255), mask(0, 255).convert("1")), workers=1)
    assert read_classes(path).train_ids == {0: 0, 255: 1}
    _, path = write_guess(masks(tmp_path / "one bit", mask(0, 255).convert("1")), workers=1)
    assert read_classes(path).train_ids == {0: 0, 1: 1, 255: IGNORE}


def test_black_and_white_are_two_classes(tmp_path: Path) -> None:
    _, path = write_guess(masks(tmp_path, mask(0, 255), mask(0, 0)), workers=1)
    assert read_classes(path).train_ids == {0: 0, 255: 1}


@pytest.mark.parametrize(
    ("pictures", "asked"),
    [
        ([(0, 1), (0, 255)], True),
        ([(0, 255), (0, 1), (0, 0), (255, 255)], True),
        ([(0, 1, 2), (0, 255)], True),
        ([(0, 1), (0, 255), (0, 1, 255)], False),  # 255 lies beside several classes: it is the rest
        ([(0, 0), (1, 1), (1, 255)], False),
        ([(0, 255), (0, 0)], False),  # 255 is a class
        ([(0, 128), (128, 255)], False),
    ],
)
def test_white_that_may_be_an_object_is_asked_for_where_packing_asks(
    pictures: list[tuple[int, ...]], asked: bool, tmp_path: Path
) -> None:
    folder = masks(tmp_path / "set", *(mask(*values) for values in pictures))
    for path in sorted(folder.rglob("masks/*.png")):
        (path.parent.parent / "images").mkdir(exist_ok=True)
        Image.open(path).convert("RGB").save(path.parent.parent / "images" / path.name)
    says = r"masks hold 255, which is ignored, beside one class only, .*--mask-values value"
    with pytest.raises(UserError, match=says) if asked else nullcontext():
        write_guess(folder, workers=1)
    if asked:  # the cure that the sentence names: 255 is ignored, and packing has to be told so too
        guess, path = write_guess(folder, workers=1, by="value")
        assert (guess.ignored, read_classes(path).train_ids[255]) == (True, IGNORE)
    with pytest.raises(UserError, match=says) if asked else nullcontext():
        pack(open_source(folder), tmp_path / "shards", workers=1)


def test_all_values_there_are(tmp_path: Path) -> None:
    _, path = write_guess(masks(tmp_path, mask(*range(256))), workers=1)
    assert len(read_classes(path).classes) == 255


def test_refusals_are_one_sentence(tmp_path: Path) -> None:
    a, b = mask(0, 1, palette=[0, 0, 0, 200, 0, 0]), mask(0, 1, palette=[0, 0, 0, 0, 200, 0])
    deep = Image.fromarray(np.array([[0, 26_001]], np.uint16))
    for name, pictures, says in (
        ("palettes", (a, b), r"the value 1 has the color \[200, 0, 0\] in the palette of \S+0\.png and \[0, 200, 0\]"),
        ("both", (mask(0), Image.new("RGB", (2, 2), "red")), r"1 masks have colors, such as \S+1\.png, and 1 values"),
        (
            "photo",
            (
                Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype(np.uint8)).resize(
                    (90, 90), 0
                ),
            ),
            "areas",
        ),
        ("deep", (deep,), "such as 26001"),
        ("nothing", (), "does not exist; name the folder"),
    ):
        with pytest.raises(UserError, match=says):
            write_guess(masks(tmp_path / name, *pictures), workers=1)
        assert not (tmp_path / name / "classes.json").exists()


def test_what_a_person_has_written_is_kept(tmp_path: Path) -> None:
    masks(tmp_path, mask(0, 1))
    (tmp_path / "classes.json").write_text(json.dumps({"mine": True}))
    with pytest.raises(UserError, match=r"classes\.json is there already: pack with it, or remove it"):
        write_guess(tmp_path, workers=1)
    assert "mine" in (tmp_path / "classes.json").read_text()
