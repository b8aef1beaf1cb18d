"""The graph's geometry against an independent one: resize the whole frame with Pillow, then crop, pad and flip."""

import io

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import pytest
from nvidia.dali import pipeline_def
from PIL import Image

from fastseg.data import pipeline
from fastseg.data.pipeline import Augmentation, Draw

SIZE = (96, 160)
CROP = (64, 80)
FILL = (124, 116, 104)

# ratio, (row, column) of the crop in the resized frame, flip
DRAWS = [
    (1.0, (0, 0), 0),
    (1.0, (17, 33), 1),
    (2.0, (101, 55), 0),
    (1.37, (30, 80), 1),
    (0.8, (12, 40), 0),
    (0.53, (-9, 3), 1),  # 51 rows: padded above and below
    (0.5, (-16, 0), 0),  # padded above only
    (0.42, (-5, -10), 1),  # smaller than the crop both ways
]


def smooth_frame(seed: int = 0) -> np.ndarray:
    """A frame with low frequencies, on which interpolation is well defined to a grey level."""
    noise = np.random.default_rng(seed).integers(0, 255, (*(n // 8 for n in SIZE), 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize(SIZE[::-1], Image.Resampling.BICUBIC))


def encode(image: np.ndarray, codec: str) -> np.ndarray:
    buffer = io.BytesIO()
    options = {"TIFF": {"compression": "tiff_lzw"}, "JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}}[codec]
    Image.fromarray(image).save(buffer, codec, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def decoded(image: np.ndarray, codec: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encode(image, codec).tobytes())))


def reference(frame: np.ndarray, ratio: float, offset: tuple[int, int], flip: int, fill: object) -> np.ndarray:
    """What the crop shows, step by step; masks (two dimensions) by nearest neighbour."""
    size = [int(np.floor(np.float32(n) * np.float32(ratio) + np.float32(0.5))) for n in frame.shape[:2]]
    if frame.ndim == 3:
        resized = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))
    else:
        rows, columns = (((np.arange(s) + 0.5) * n / s).astype(int) for s, n in zip(size, frame.shape, strict=True))
        resized = frame[rows][:, columns]
    out = np.empty((*CROP, *frame.shape[2:]), np.uint8)
    out[:] = fill
    rows, columns = (range(max(o, 0), min(o + c, s)) for o, c, s in zip(offset, CROP, size, strict=True))
    out[rows.start - offset[0] : rows.stop - offset[0], columns.start - offset[1] : columns.stop - offset[1]] = resized[
        rows.start : rows.stop, columns.start : columns.stop
    ]
    return out[:, ::-1] if flip else out


def run_graph(
    image: np.ndarray, mask: np.ndarray, draws: list, codec: str = "PNG", **augmentation: float
) -> tuple[np.ndarray, np.ndarray]:
    """The graph's own steps, with the draws given instead of drawn."""
    settings = Augmentation(CROP, fill=FILL, **augmentation)

    @pipeline_def(batch_size=len(draws), num_threads=1, device_id=None, seed=1)
    def graph():
        def given(values, dtype):
            return fn.external_source(lambda: [np.asarray(v, dtype) for v in values], batch=True)

        encoded = given([encode(image, codec)] * len(draws), np.uint8)
        encoded_mask = given([encode(mask, "TIFF")] * len(draws), np.uint8)
        draw = Draw(
            given([d[0] for d in draws], np.float32),
            given([d[1] for d in draws], np.float32),
            given([d[2] for d in draws], np.int32),
        )
        frame = pipeline.frame_size(encoded)
        window = pipeline.look(frame, draw, settings)
        return (
            pipeline.crop_image(encoded, draw, window, settings, "cpu", "jpg"),
            pipeline.crop_mask(encoded_mask, draw, window, settings, "cpu"),
        )

    images, masks = graph().run()
    return images.as_array(), masks.as_array()[..., 0]


def ties(draw: tuple) -> np.ndarray:
    """Where in the crop a sampling point falls between two pixels of the frame, so that rounding decides."""
    lines = []
    for n, crop, offset, flip in zip(SIZE, CROP, draw[1], (0, draw[2]), strict=True):
        resized = int(np.floor(n * draw[0] + 0.5))
        point = (np.arange(offset, offset + crop) + 0.5) * n / resized
        line = np.abs(point - np.round(point)) < 1e-4
        lines.append(line[::-1] if flip else line)
    return lines[0][:, None] | lines[1][None, :]


@pytest.mark.parametrize("codec", ["PNG", "JPEG"])
def test_image_equals_resize_crop_pad_flip(codec: str) -> None:
    frame = smooth_frame()
    mask = np.zeros(SIZE, np.uint8)
    images, _ = run_graph(frame, mask, DRAWS, codec)
    for image, draw in zip(images, DRAWS, strict=True):
        expected = reference(decoded(frame, codec), *draw, fill=FILL)
        difference = np.abs(image.astype(int) - expected)
        assert difference.mean() < 0.6, draw
        assert difference.max() <= 6, draw


def test_mask_equals_nearest_neighbour() -> None:
    mask = np.random.default_rng(1).integers(0, 19, SIZE, np.uint8)
    mask[::5] = 255
    _, masks = run_graph(smooth_frame(), mask, DRAWS)
    for result, draw in zip(masks, DRAWS, strict=True):
        expected = reference(mask, *draw, fill=255)
        assert ((result == expected) | ties(draw)).all(), draw
        assert set(np.unique(result)) <= set(np.unique(mask))


def test_padding_is_exact() -> None:
    ratio, offset, flip = DRAWS[-1]
    images, masks = run_graph(np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, np.uint8), [(ratio, offset, flip)])
    expected = reference(np.zeros(SIZE, np.uint8), ratio, offset, flip, fill=255)
    assert (masks[0] == expected).all()
    assert (images[0][expected == 255] == FILL).all()
    assert (images[0][expected == 0] == 0).all()


def test_checkerboard_stays_aligned() -> None:
    """The mask is a function of the image's pixels, so after any draw it still is."""
    rows, columns = np.indices(SIZE) // 16
    board = ((rows + columns) % 2).astype(np.uint8)
    images, masks = run_graph(np.repeat(board[..., None] * 255, 3, axis=2), board, DRAWS)
    inside = masks != 255
    assert inside.sum() > 20_000
    disagree = (images[..., 0] > 127) != (masks == 1)
    assert (disagree & inside).sum() / inside.sum() < 0.03


def test_colour_changes_the_image_only() -> None:
    frame, mask = smooth_frame(), np.random.default_rng(2).integers(0, 19, SIZE, np.uint8)
    plain, plain_mask = run_graph(frame, mask, [DRAWS[1]] * 16)
    changed, changed_mask = run_graph(frame, mask, [DRAWS[1]] * 16, brightness=0.4)
    assert (plain_mask == changed_mask).all()
    ratios = changed.mean(axis=(1, 2, 3)) / plain.mean(axis=(1, 2, 3))
    assert 0 < (np.abs(ratios - 1) < 0.01).sum() < 16  # half of them, by a coin
    assert ratios.min() > 0.55
    assert ratios.max() < 1.45
    # Where nothing saturates, brightness is one factor for all pixels.
    darkest = changed[ratios.argmin()] / np.maximum(plain[ratios.argmin()], 40)
    assert darkest[plain[ratios.argmin()] >= 40].std() < 0.02


def test_draws_cover_the_allowed_positions() -> None:
    @pipeline_def(batch_size=400, num_threads=1, device_id=None, seed=5)
    def graph():
        frame = types.Constant([96.0, 160.0], dtype=types.FLOAT)
        draw = pipeline.draw_geometry(frame, Augmentation(CROP, scale=(0.5, 2.0)))
        return draw.ratio, draw.offset, draw.flip

    ratio, offset, flip = (output.as_array() for output in graph().run())
    ratio = ratio.reshape(-1)
    free = np.floor(np.array(SIZE) * ratio[:, None] + 0.5) - CROP
    assert ((offset >= np.minimum(free, 0)) & (offset <= np.maximum(free, 0))).all()
    assert (offset == np.round(offset)).all()
    share = offset[free > 40] / free[free > 40]
    assert share.min() < 0.1
    assert share.max() > 0.9
    assert 0.45 < share.mean() < 0.55
    assert (offset[free < 0] < 0).any()
    assert 0.4 < flip.mean() < 0.6
    assert 0.5 <= ratio.min() < 0.55
    assert 1.95 < ratio.max() < 2.0


def test_gpu_graph_can_be_defined_without_a_gpu() -> None:
    """Operator names and arguments are checked when the graph is defined; no driver is needed for that."""
    files = pipeline.Files(("a.tar",), ("a.idx",), "jpg", "tif")
    settings = Augmentation(CROP, brightness=0.1, contrast=0.1, saturation=0.1, hue=9)
    graph = pipeline.train_graph(files, settings, "gpu", 8, 0, batch_size=2, num_threads=1, device_id=0)
    assert graph is not None
    assert pipeline.eval_graph(files, "gpu", batch_size=2, num_threads=1, device_id=0) is not None
