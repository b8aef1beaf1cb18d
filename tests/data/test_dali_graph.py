"""The graphs' geometry against an independent one: Pillow's crop, resize, flip and paste."""

import io
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import pytest
from nvidia.dali import pipeline_def
from PIL import Image

from augments import augment_config
from fastseg.config import AugmentConfig
from fastseg.data import dali_graph
from fastseg.data.augment import FILL, Window, sample_crop, sample_rng
from graphs import encode, run_graph
from layouts import reference_crop

SIZE = (96, 160)
CROP = (64, 80)
COLORED = augment_config(CROP, brightness=0.1, contrast=0.1, saturation=0.1, hue=9)

WINDOWS = [
    Window(0, 64, 0, 80, 64, 80, 0, 0, False),
    Window(17, 81, 33, 113, 64, 80, 0, 0, True),
    Window(51, 83, 28, 68, 64, 80, 0, 0, False),  # twice as large
    Window(22, 69, 58, 116, 64, 80, 0, 0, True),
    Window(0, 96, 2, 153, 51, 80, 9, 0, True),  # padded above and below
    Window(0, 96, 0, 160, 40, 67, 13, 10, True),  # on all sides
    Window(0, 96, 0, 159, 64, 80, 0, 0, True),  # stretched
    *(sample_crop(sample_rng(0, 0, i), SIZE, augment_config(CROP, scale=(0.4, 3.0))) for i in range(12)),
]


def smooth_frame(seed: int = 0) -> np.ndarray:
    """A frame with low frequencies, on which interpolation is well defined to a gray level."""
    noise = np.random.default_rng(seed).integers(0, 255, (*(n // 8 for n in SIZE), 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize(SIZE[::-1], Image.Resampling.BICUBIC))


def decoded(image: np.ndarray, codec: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encode(image, codec).tobytes())))


def make_crops(image: np.ndarray, mask: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    return run_graph(image, mask, WINDOWS, augment_config(CROP), {}, **options)


def ties(window: Window) -> np.ndarray:
    """Where in the crop a sampling point falls between two pixels of the frame, so that rounding decides."""
    lines = []
    for length, size, pad, crop, flip in (
        (window.bottom - window.top, window.height, window.pad_top, CROP[0], False),
        (window.right - window.left, window.width, window.pad_left, CROP[1], window.flip),
    ):
        point = (np.arange(size) + 0.5) * length / size
        near = np.abs(point - np.round(point)) < 1e-4
        line = np.zeros(crop, bool)
        line[pad : pad + size] = near[::-1] if flip else near
        lines.append(line)
    return lines[0][:, None] | lines[1][None, :]


@pytest.mark.parametrize("on_cpu", [False, True], ids=["graph", "cpu"])
@pytest.mark.parametrize("codec", ["PNG", "JPEG"])
def test_image_equals_crop_resize_flip_paste(codec: str, on_cpu: bool) -> None:
    frame = smooth_frame()
    images, _ = make_crops(frame, np.zeros(SIZE, np.uint8), codec=codec, on_cpu=on_cpu)
    for image, window in zip(images, WINDOWS, strict=True):
        expected = reference_crop(decoded(frame, codec), window, CROP, FILL)
        difference = np.abs(image.astype(int) - expected)
        assert difference.mean() < 0.6, window
        assert difference.max() <= 6, window


@pytest.mark.parametrize("on_cpu", [False, True], ids=["graph", "cpu"])
def test_mask_equals_nearest_neighbor(on_cpu: bool) -> None:
    mask = np.random.default_rng(1).integers(0, 19, SIZE, np.uint8)
    mask[::5] = 255
    _, masks = make_crops(smooth_frame(), mask, on_cpu=on_cpu)
    for result, window in zip(masks, WINDOWS, strict=True):
        expected = reference_crop(mask, window, CROP, 255)
        assert ((result == expected) | ties(window)).all(), window
        assert ties(window).mean() < 0.5
        assert set(np.unique(result)) <= set(np.unique(mask))


@pytest.mark.parametrize("on_cpu", [False, True], ids=["graph", "cpu"])
def test_padding_is_exact(on_cpu: bool) -> None:
    black = np.zeros((*SIZE, 3), np.uint8)
    images, masks = make_crops(black, black[..., 0], on_cpu=on_cpu)
    for image, mask, window in zip(images, masks, WINDOWS, strict=True):
        assert (mask == reference_crop(black[..., 0], window, CROP, 255)).all()
        assert (image[mask == 255] == FILL).all()
        assert (image[mask == 0] == 0).all()


def test_checkerboard_stays_aligned() -> None:
    """The mask is a function of the image's pixels, so after any draw it still is."""
    rows, columns = np.indices(SIZE) // 16
    board = ((rows + columns) % 2).astype(np.uint8)
    for on_cpu in (False, True):
        images, masks = make_crops(np.repeat(board[..., None] * 255, 3, axis=2), board, on_cpu=on_cpu)
        inside = masks != 255
        assert inside.sum() > 50_000
        disagree = (images[..., 0] > 127) != (masks == 1)
        assert (disagree & inside).sum() / inside.sum() < 0.03


def gpu_graph(augment: AugmentConfig, codec: str) -> Any:
    options = {"batch_size": 2, "num_threads": 1, "device_id": 0}
    graph = dali_graph.train_graph(lambda: None, augment, FILL, "gpu", codec, **options)
    graph._build_graph()
    return graph


@pytest.mark.parametrize("codec", ["jpg", "png", dali_graph.DECODED])
@pytest.mark.parametrize("augment", [augment_config(CROP), COLORED], ids=["plain", "colored"])
def test_gpu_graph_can_be_defined_without_a_gpu(augment: AugmentConfig, codec: str) -> None:
    """Operator names and arguments are checked when the graph is defined; no driver is needed for that."""
    graph = gpu_graph(augment, codec)
    assert [output.device for output in graph._graph_outputs] == ["gpu", "gpu"]


def operators_of(graph: Any) -> list[tuple[str, str]]:
    """Name and device of each operator, what feeds the graph left out."""
    return [(op._op.schema_name, op._op.device) for op in graph._ops if hasattr(op._op, "schema_name")]


@pytest.mark.parametrize("codec", ["jpg", "png"])
def test_the_gpus_decoder_is_not_asked_for_a_region(codec: str) -> None:
    """nvImageCodec 0.9 crashes there (https://github.com/NVIDIA/nvImageCodec/issues/55); the CPU's decoder may be."""
    decoders = [operator for operator in operators_of(gpu_graph(COLORED, codec)) if "decoders" in operator[0]]
    mask = ("decoders__ImageSlice", "cpu")
    assert sorted(decoders) == sorted([("decoders__Image", "mixed"), mask] if codec == "jpg" else [mask, mask])


def test_the_gpu_graph_has_no_operator_for_numbers() -> None:
    """They are computed once a batch, before: each operator costs the host some 30 µs an iteration."""
    for codec in ("jpg", "png", dali_graph.DECODED):
        names = {name for name, _ in operators_of(gpu_graph(COLORED, codec)) if "decoders" not in name}
        assert names <= {"ColorTwist", "Copy", "Resize", "Slice"}


@pytest.mark.parametrize("restart", [0, 4], ids=["no markers", "markers"])
@pytest.mark.parametrize("chroma", [0, 2], ids=["444", "420"])
def test_a_window_of_a_whole_image_is_the_window_alone(chroma: int, restart: int) -> None:
    """What the GPU's graph decodes, by the CPU's decoder: bit for bit what the CPU's graph decodes."""
    buffer = io.BytesIO()
    Image.fromarray(smooth_frame()).save(buffer, "JPEG", quality=95, subsampling=chroma, restart_marker_blocks=restart)
    encoded = np.frombuffer(buffer.getvalue(), np.uint8)
    start, shape = np.array([[3, 17]] * 2, np.int32), np.array([[50, 101]] * 2, np.int32)

    @pipeline_def
    def both() -> Any:
        source, begin, size = fn.external_source(lambda: ([encoded] * 2, start, shape), 3)
        alone = dali_graph._window(source, begin, size, "jpg", types.RGB, device="cpu")
        whole = fn.decoders.image(source, output_type=types.RGB)
        return alone, dali_graph._window(whole, begin, size, dali_graph.DECODED, types.RGB, device="cpu")

    alone, cut = both(batch_size=2, num_threads=1, device_id=None, prefetch_queue_depth=1).run()
    assert np.array_equal(alone.as_array(), cut.as_array())
    assert alone.as_array().shape == (2, 50, 101, 3)


def test_evaluation_graph_can_be_defined_without_a_gpu() -> None:
    assert dali_graph.eval_graph(lambda: None, "gpu", "jpg", batch_size=2, num_threads=1, device_id=0) is not None
