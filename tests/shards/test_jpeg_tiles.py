"""Cutting JPEGs: what is cut out must be what is there, pixel by pixel."""

import io

import numpy as np
import pytest
from PIL import Image

import layouts
from fastseg.shards.images import encode_jpeg
from fastseg.shards.jpeg_tiles import TILE, blocks_per_tile, cut, find_tiles


def pixels(data: bytes | np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))


def windows(size: tuple[int, int], count: int, seed: int = 0) -> list[tuple[int, int, int, int]]:
    rng = np.random.default_rng(seed)
    width, height = size
    drawn = []
    for _ in range(count):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        drawn.append((top, int(rng.integers(top, height)) + 1, left, int(rng.integers(left, width)) + 1))
    return [*drawn, (0, height, 0, width), (height - 1, height, width - 1, width), (0, 1, 0, 1)]


@pytest.mark.parametrize("size", [(512, 256), (480, 360), (515, 131), (97, 50), (8, 8), (1, 1)])
def test_a_cut_shows_the_pixels_of_the_whole(size: tuple[int, int]) -> None:
    data = np.frombuffer(encode_jpeg(layouts.noise(1, size), 95, "444"), np.uint8)
    whole, tiles = pixels(data), find_tiles(data)
    assert tiles is not None
    for window in windows(size, 20):
        out, top, left = cut(data, tiles, *window)
        part = pixels(out)
        assert top <= window[0] < top + tiles.tile_height
        assert left <= window[2] < left + tiles.tile_width
        assert top + part.shape[0] >= window[1]
        assert left + part.shape[1] >= window[3]
        assert (part == whole[top : top + part.shape[0], left : left + part.shape[1]]).all(), window


def test_halved_chroma_differs_at_the_edge_only() -> None:
    """Chroma is interpolated between neighbors, which the outermost pixels of a cut lack."""
    data = np.frombuffer(encode_jpeg(layouts.noise(1, (500, 300)), 95, "420"), np.uint8)
    whole, tiles = pixels(data), find_tiles(data)
    assert tiles is not None
    assert tiles.tile_height == 16
    for window in windows((500, 300), 20):
        out, top, left = cut(data, tiles, *window)
        part = pixels(out).astype(int)
        off = np.abs(part - whole[top : top + part.shape[0], left : left + part.shape[1]])
        assert off[1:-1, 1:-1].max(initial=0) == 0
        assert off.max() < 40


def test_cutting_leaves_the_file_alone() -> None:
    data = np.frombuffer(encode_jpeg(layouts.noise(1, (512, 256)), 95, "444"), np.uint8)
    before = data.tobytes()
    tiles = find_tiles(data)
    assert tiles is not None
    out, _, _ = cut(data, tiles, 0, 256, 0, 512)
    assert data.tobytes() == before == out.tobytes()


def test_tiles_fill_rows_and_are_about_as_wide_as_wanted() -> None:
    assert blocks_per_tile(2048, "444") * 8 == TILE
    assert blocks_per_tile(2048, "420") * 16 == TILE
    for width in (1, 8, 480, 1000, 1024, 1280, 1920):
        row = -(-width // 8)
        assert row % blocks_per_tile(width, "444") == 0
    assert blocks_per_tile(8 * 127, "444") in (1, 127)  # a prime number of blocks


def test_other_files_have_no_tiles() -> None:
    image = layouts.noise(1, (96, 64))
    for form, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "restart_marker_blocks": 4}),
        ("JPEG", {"restart_marker_blocks": 5}),  # does not fill rows
        ("PNG", {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        assert find_tiles(np.frombuffer(buffer.getvalue(), np.uint8)) is None, (form, options)


def test_damaged_files_have_no_tiles() -> None:
    data = np.frombuffer(encode_jpeg(layouts.noise(1, (512, 256)), 95, "444"), np.uint8)
    for length in (0, 1, 2, 3, 20, 200, 600, 1000, len(data) // 2):
        assert find_tiles(data[:length]) is None, length
