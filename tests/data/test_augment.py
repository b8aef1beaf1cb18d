"""What is drawn: windows inside the frame, of the right size, everywhere, and the same again for the same sample."""

import numpy as np
import pytest

from augments import augment_config
from fastseg.config import AugmentConfig
from fastseg.data.augment import AUGMENTATIONS, Window, sample_color, sample_crop, sample_rng

FRAME, CROP = (96, 160), (64, 80)


def draw(count: int, augment: AugmentConfig, frame: tuple[int, int] = FRAME) -> list[Window]:
    return [sample_crop(sample_rng(3, 0, i), frame, augment) for i in range(count)]


def test_a_sample_draws_the_same_again_and_others_else() -> None:
    settings = augment_config(CROP)
    one, again, epoch, seed, sample = (
        sample_crop(sample_rng(*stream), FRAME, settings)
        for stream in ((1, 2, 3), (1, 2, 3), (1, 3, 3), (2, 2, 3), (1, 2, 4))
    )
    assert one == again
    assert len({one, epoch, seed, sample}) == 4


@pytest.mark.parametrize("frame", [FRAME, (50, 300), (64, 80), (1, 1)])
def test_windows_lie_in_the_frame_and_in_the_crop(frame: tuple[int, int]) -> None:
    for w in draw(500, augment_config(CROP, scale=(0.3, 3.0)), frame):
        for start, stop, length, size, pad, crop in (
            (w.top, w.bottom, frame[0], w.height, w.pad_top, CROP[0]),
            (w.left, w.right, frame[1], w.width, w.pad_left, CROP[1]),
        ):
            assert 0 <= start < stop <= length
            assert 0 <= pad <= crop - size
            assert size >= 1
            # Padded only where the whole frame is seen.
            assert size == crop or (start, stop) == (0, length)


def test_a_window_is_the_crop_divided_by_the_ratio() -> None:
    for ratio in (0.9, 1.0, 1.37, 2.0):
        for w in draw(5, augment_config(CROP, scale=(ratio, ratio))):
            assert (w.bottom - w.top, w.right - w.left) == (round(CROP[0] / ratio), round(CROP[1] / ratio))
            assert (w.height, w.width) == CROP
    (w,) = draw(1, augment_config(CROP, scale=(0.5, 0.5)))
    assert (w.height, w.width) == (48, 80)


def test_a_stretched_frame_is_shown_whole() -> None:
    drawn = draw(400, augment_config(CROP, flip=0.25, resize="stretch"), frame=(50, 300))
    assert {w[:-1] for w in drawn} == {(0, 50, 0, 300, *CROP, 0, 0)}
    assert 0.18 < np.mean([w.flip for w in drawn]) < 0.32


def test_draws_cover_what_is_allowed_evenly() -> None:
    drawn = draw(4000, augment_config(CROP, scale=(0.5, 2.0), flip=0.25))
    ratio = np.array([w.width / (w.right - w.left) for w in drawn])
    share = np.array([w.left / (FRAME[1] - (w.right - w.left)) for w in drawn if w.right - w.left < FRAME[1] - 20])
    padded = np.array([w.pad_top / (CROP[0] - w.height) for w in drawn if w.height < CROP[0] - 8])
    for values, low, high in ((ratio, 0.5, 2.0), (share, 0.0, 1.0), (padded, 0.0, 1.0)):
        assert low - 0.01 <= values.min() < low + 0.03 * (high - low)
        assert high - 0.03 * (high - low) < values.max() <= high + 0.02
        assert abs(values.mean() - (low + high) / 2) < 0.04 * (high - low)
    assert 0.22 < np.mean([w.flip for w in drawn]) < 0.28


def test_colors_change_half_of_the_samples() -> None:
    settings = augment_config(CROP, brightness=0.1, contrast=0.5, hue=18)
    drawn = np.array([sample_color(sample_rng(1, 0, i), settings) for i in range(2000)])
    assert AUGMENTATIONS["color"].is_on(settings)
    assert not AUGMENTATIONS["color"].is_on(augment_config(CROP))
    assert (drawn[:, 2] == 1).all()
    for column, center, most in ((0, 1, 0.1), (1, 1, 0.5), (3, 0, 18)):
        off = drawn[:, column] - center
        assert 0.45 < (off != 0).mean() < 0.55
        assert 0.95 * most < np.abs(off).max() <= most
        assert abs(off.mean()) < 0.05 * most
