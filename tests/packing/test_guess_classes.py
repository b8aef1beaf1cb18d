"""Classes guessed from masks: what each kind of mask gives, what is refused, and that the result packs."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.errors import UserError
from fastseg.labels import read_classes
from fastseg.packing.guess_classes import voc_color, write_guess


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


def test_grey_values_get_voc_colors_and_255_is_ignored(tmp_path: Path) -> None:
    guess, path = write_guess(masks(tmp_path / "my set", mask(0, 3, 255), mask(3, 3, 7)), workers=1)
    assert guess.pixels == {0: 2, 3: 6, 7: 2, 255: 2}
    table = read_classes(path)
    assert table.name == "my set"
    assert [c.name for c in table.classes] == ["class 0", "class 3", "class 7"]
    assert [c.color for c in table.classes] == [(0, 0, 0), (128, 128, 0), (128, 128, 128)]
    assert table.train_ids == {0: 0, 3: 1, 7: 2, 255: 255}
    assert len(path.read_text().splitlines()) == 5  # a class a line, to edit


def test_a_palette_gives_its_colors(tmp_path: Path) -> None:
    palette = [0, 0, 0, 200, 10, 20, 30, 40, 250]
    pictures = mask(0, 1, palette=palette), mask(1, 2, 255, palette=[*palette, *[9] * 759])
    _, path = write_guess(masks(tmp_path, *pictures), workers=2)
    assert [c.color for c in read_classes(path).classes] == [(0, 0, 0), (200, 10, 20), (30, 40, 250)]


def test_a_palette_of_greys_tells_nothing_apart(tmp_path: Path) -> None:
    _, path = write_guess(masks(tmp_path, mask(0, 1, palette=[0, 0, 0, 1, 1, 1])), workers=1)
    assert [c.color for c in read_classes(path).classes] == [(0, 0, 0), (128, 0, 0)]


def test_black_and_white_are_two_classes(tmp_path: Path) -> None:
    _, path = write_guess(masks(tmp_path, mask(0, 255), mask(0, 0)), workers=1)
    assert read_classes(path).train_ids == {0: 0, 255: 1}


def test_all_values_there_are(tmp_path: Path) -> None:
    _, path = write_guess(masks(tmp_path, mask(*range(256))), workers=1)
    assert len(read_classes(path).classes) == 255


def test_refusals_are_one_sentence(tmp_path: Path) -> None:
    a, b = mask(0, 1, palette=[0, 0, 0, 200, 0, 0]), mask(0, 1, palette=[0, 0, 0, 0, 200, 0])
    deep = Image.fromarray(np.array([[0, 26_001]], np.uint16))
    for name, pictures, says in (
        ("palettes", (a, b), r"the value 1 has the color \(200, 0, 0\) in the palette of \S+0\.png and \(0, 200, 0\)"),
        ("colors", (mask(0).convert("RGB"),), r"mode RGB; it must have one 8-bit label .*docs/data\.md"),
        ("deep", (deep,), "such as 26001"),
        ("nothing", (), "does not exist; name the folder"),
    ):
        with pytest.raises(UserError, match=says):
            write_guess(masks(tmp_path / name, *pictures), workers=1)
        assert not (tmp_path / name / "classes.json").exists()


def test_what_a_person_has_written_is_kept(tmp_path: Path) -> None:
    masks(tmp_path, mask(0, 1))
    (tmp_path / "classes.json").write_text(json.dumps({"mine": True}))
    with pytest.raises(UserError, match=r"classes\.json is there already; remove it"):
        write_guess(tmp_path, workers=1)
    assert "mine" in (tmp_path / "classes.json").read_text()


def test_voc_colors() -> None:
    """The first of the development kit's table, and its last."""
    assert [voc_color(label) for label in (0, 1, 2, 8, 20, 255)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (64, 0, 0),
        (0, 64, 128),
        (224, 224, 192),
    ]
