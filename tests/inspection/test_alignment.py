"""A mask that lies beside its image is found out, by how far; one that lies on it, and noise, are left alone."""

import numpy as np
import pytest
from PIL import Image

from fastseg.inspection.alignment import SIDE, TURNS, label_shift, mask_turn
from layouts import labels, noise

SIZE = (320, 200)


def frames(count: int = 8, shift: tuple[int, int] = (0, 0)) -> list[tuple[Image.Image, Image.Image]]:
    """Scenes of 12 boxes in grays of their own, on a noisy ground; masks moved by ``shift`` pixels (down, right)."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        mask = np.zeros(SIZE[::-1], np.uint8)
        for label in range(1, 13):
            y, x = rng.integers(0, SIZE[1] - 60), rng.integers(0, SIZE[0] - 80)
            mask[y : y + rng.integers(20, 60), x : x + rng.integers(20, 80)] = label
        image = np.asarray(noise(seed, SIZE)) // 2 + (mask * 9)[..., None]
        found.append((Image.fromarray(image), Image.fromarray(np.roll(mask, shift, (0, 1)))))
    return found


@pytest.mark.parametrize("shift", [(9, 0), (0, -12), (-7, 15)])
def test_a_shift_is_measured(shift: tuple[int, int]) -> None:
    found = label_shift(frames(shift=shift))
    assert found is not None
    assert abs(found[0] * SIZE[1] - shift[0]) <= SIZE[1] / SIDE + 1
    assert abs(found[1] * SIZE[0] - shift[1]) <= SIZE[0] / SIDE + 1


@pytest.mark.parametrize("count", [0, 1, 8])
def test_masks_on_their_images_are_not_called_shifted(count: int) -> None:
    assert label_shift(frames(count)) is None


def test_what_cannot_be_told_is_not_called_shifted() -> None:
    flat = Image.new("L", SIZE)
    assert label_shift([(noise(0, SIZE), flat), (flat.convert("RGB"), flat)]) is None
    for seed in range(0, 40, 8):
        unrelated = [(noise(i, SIZE), labels(i, SIZE, (0, 1, 4, 9))) for i in range(seed, seed + 8)]
        assert label_shift(unrelated) is None


SQUARE = (200, 200)


@pytest.mark.parametrize("name", TURNS)
def test_turned_masks_are_told(name: str) -> None:
    """As stored beside an image that its EXIF orientation turns."""
    pairs = [(image.resize(SQUARE), mask.resize(SQUARE, Image.Resampling.NEAREST)) for image, mask in frames()]
    undo = {
        "turned by 90° to the right": Image.Transpose.ROTATE_270,
        "turned by 90° to the left": Image.Transpose.ROTATE_90,
    }
    turned = [(image, mask.transpose(undo.get(name, TURNS[name]))) for image, mask in pairs]
    assert mask_turn(turned) == name
    assert mask_turn(pairs) is None


def test_frames_that_are_not_square_may_be_upside_down() -> None:
    assert mask_turn([(image, mask.rotate(180)) for image, mask in frames()]) == "turned by 180°"
    assert mask_turn(frames()) is None
    assert mask_turn([]) is None
    for seed in range(0, 40, 8):
        assert mask_turn([(noise(i, SIZE), labels(i, SIZE, (0, 1, 4, 9))) for i in range(seed, seed + 8)]) is None
