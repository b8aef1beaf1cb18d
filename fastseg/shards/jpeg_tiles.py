"""JPEGs of which a part can be cut out without decoding: restart markers divide them into tiles.

A decoder has to read a JPEG's code from its first bit to the part that is wanted. Restart markers (ITU-T T.81, B.2.1
and F.1.1.5) avoid that: behind each the code starts afresh. With one every few blocks, a row of blocks falls into tiles
that follow each other in the file. The tiles under a window, joined and given a header with their size, are a JPEG
again: any decoder reads it, a GPU's hardware engine too, and its pixels are those of the whole image (but for the
outermost ones where chroma is halved and has to be interpolated). A 768² crop of a 2048×1024 frame then costs a third
of the decoding, for one and a half per cent more bytes. A decoder that reads such a file whole is up to a fifth slower.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]

TILE = 128
"""Target width of a tile, pixels: half of it is wasted on either side of a window; each tile costs four bytes."""

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 0
"""Maximum pixels of an image to decode; a header may claim 4 thousand million."""

SOF0, SOS, DRI, RST0, EOI = 0xC0, 0xDA, 0xDD, 0xD0, 0xD9


class Tiles(NamedTuple):
    """Positions of a JPEG's tiles in its file."""

    height: int
    """Height of the image, pixels; ``width`` alike."""
    width: int
    tile_height: int
    """Pixels; ``tile_width`` alike."""
    tile_width: int
    size_at: int
    """Byte offset of the height in the file; the width follows it."""
    starts: NDArray[np.int32]
    """rows × columns + 1: first byte of each tile's code, and where one more would start. A tile's code ends with a
    marker of two bytes."""


def blocks_per_tile(width: int, chroma: str) -> int:
    """Count the blocks (8 pixels, 16 with chroma ``420``) between two restart markers, so that tiles fill a row."""
    size = {"444": 8, "420": 16}[chroma]
    row = -(-width // size)
    return min((n for n in range(1, row + 1) if row % n == 0), key=lambda n: abs(n * size - TILE))


def find_tiles(data: Bytes) -> Tiles | None:
    """Find the tiles in a file's bytes; None if it is no JPEG or has no restart markers."""
    frame = interval = scan = 0
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF and not scan:
        marker, end = data[at + 1], at + 2 + _number(data, at + 2)
        if marker == SOF0:
            frame = at
        elif marker == DRI:
            interval = _number(data, at + 4)
        elif marker == SOS:
            # One scan of all components, whose blocks are interleaved.
            if not frame or data[at + 4] != data[frame + 9] or not data[at + 4]:
                return None
            scan = end
        at = end
    if not (frame and interval and scan):
        return None
    sampling = data[frame + 11 : frame + 10 + 3 * int(data[frame + 9]) : 3]  # sampling factors: horizontal × vertical
    block = (8 * int((sampling & 15).max()), 8 * int((sampling >> 4).max()))
    height, width = _number(data, frame + 5), _number(data, frame + 7)
    if scan > len(data) - 2 or not all(block) or height * width > MAX_PIXELS:
        return None
    rows, blocks = -(-height // block[0]), -(-width // block[1])
    starts = np.concatenate(([scan], _restarts(data, scan) + 2, [len(data)])).astype(np.int32)
    if blocks % interval or len(starts) != rows * (blocks // interval) + 1:
        return None
    return Tiles(height, width, block[0], interval * block[1], frame + 5, starts)


def cut(data: Bytes, tiles: Tiles, top: int, bottom: int, left: int, right: int) -> tuple[Bytes, int, int]:
    """Cut out a JPEG of the tiles under a window of the image; return it, and its first row and column there."""
    columns = -(-tiles.width // tiles.tile_width)
    rows = np.arange(top // tiles.tile_height, -(-bottom // tiles.tile_height))
    across = np.arange(left // tiles.tile_width, -(-right // tiles.tile_width))
    # The tiles of a row follow each other: one piece of the file for each row.
    starts, stops = (tiles.starts[rows * columns + column] for column in (across[0], across[-1] + 1))
    top, left = int(rows[0]) * tiles.tile_height, int(across[0]) * tiles.tile_width
    height = min((int(rows[-1]) + 1) * tiles.tile_height, tiles.height) - top
    width = min((int(across[-1]) + 1) * tiles.tile_width, tiles.width) - left
    view = data.data
    header = bytearray(view[: tiles.starts[0]])
    header[tiles.size_at : tiles.size_at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    pieces = [view[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
    out = np.frombuffer(bytearray().join([header, *pieces]), np.uint8)
    # Markers are numbered 0 to 7 cyclically; the last is the image's end.
    moved = len(header) + np.cumsum(stops - starts) - stops
    ends = (tiles.starts[(rows * columns)[:, None] + across + 1] + moved[:, None]).ravel()
    out[ends - 1] = RST0 + (np.arange(len(ends)) & 7)
    out[-1] = EOI
    return out, top, left


def _restarts(data: Bytes, scan: int) -> NDArray[np.int64]:
    """Return the byte offsets of the restart markers. In the code itself 0xFF is followed by 0."""
    found = np.flatnonzero(data[scan:-1] == 0xFF) + scan
    return found[(data[found + 1] & 0xF8) == RST0]


def _number(data: Bytes, at: int) -> int:
    return int(data[at]) << 8 | int(data[at + 1])
