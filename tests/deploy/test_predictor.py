"""A network for pictures of any size, from Python."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import layouts
from checkpoints import ARCH, write_checkpoint
from fastseg.arguments import naming_arguments
from fastseg.deploy import predictor
from fastseg.deploy.predictor import Predictor, blocks, load, pixels_at_once
from fastseg.deploy.video import read_video
from fastseg.errors import UserError
from fastseg.model.architectures import ARCHITECTURES, own_architecture
from fastseg.model.inference import MULTI_SCALE
from fastseg.model.network import SegmentationNetwork
from fastseg.report.pictures import blend
from videos import write_video


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load(write_checkpoint(tmp_path_factory.mktemp("model") / "ckpt.pt"), device="cpu", precision="fp32")


CPU = torch.device("cpu")
PICTURE = np.asarray(layouts.noise(7, (65, 50)))


def plainly(model: Predictor, frames: np.ndarray) -> torch.Tensor:
    """Probabilities by torchvision's own forward, which upsamples too."""
    network = model.model
    with torch.inference_mode():
        normalized = (torch.from_numpy(frames.copy()) - network.mean) / network.std
        return network.net(normalized.permute(0, 3, 1, 2))["out"].softmax(1)


def test_is_what_torchvision_says(model: Predictor) -> None:
    expected = plainly(model, PICTURE[None])[0].numpy()
    result = model(PICTURE, probabilities=True)
    assert result.mask.shape == PICTURE.shape[:2]
    assert result.mask.dtype == np.uint8
    assert (result.mask == expected.argmax(0)).mean() > 0.999
    assert len(np.unique(result.mask)) > 2  # the agreement is about something
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)
    assert result.probabilities.dtype == np.float32
    np.testing.assert_array_equal(result.image, PICTURE)


def kinds_of(picture: np.ndarray, folder: Path) -> list[tuple[object, bool]]:
    """The same picture in every way that it may be given, and whether OpenCV's order is to be said."""
    image = Image.fromarray(picture)
    image.save(folder / "image.png")
    sideways, exif = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x112] = 6
    sideways.save(folder / "sideways.png", exif=exif)
    tensor = torch.tensor(picture)
    files = [folder / "image.png", str(folder / "sideways.png"), Image.open(folder / "sideways.png")]
    plain = [*files, image, image.convert("RGBA"), picture, picture.transpose(2, 0, 1), tensor, tensor.permute(2, 0, 1)]
    floats = [picture / 255, picture.astype(np.float32) / 255, tensor.half() / 255, tensor.permute(2, 0, 1) / 255]
    turned = [picture[..., ::-1], picture[..., ::-1].astype(np.float32) / 255, tensor.flip(-1).permute(2, 0, 1)]
    return [*((kind, False) for kind in [*plain, *floats]), *((kind, True) for kind in turned)]


def test_every_kind_of_image_gives_the_same_mask(model: Predictor, tmp_path: Path) -> None:
    expected = model(PICTURE).mask
    for kind, bgr in kinds_of(PICTURE, tmp_path):
        result = model(kind, bgr=bgr)  # type: ignore[call-overload]
        np.testing.assert_array_equal(result.image, PICTURE)
        np.testing.assert_array_equal(result.mask, expected)


def test_malformed_exif_does_not_stop_an_image(model: Predictor, tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "image.png", exif=b"Exif\0\0garbage!!")
    for kind in (tmp_path / "image.png", Image.open(tmp_path / "image.png")):
        np.testing.assert_array_equal(model(kind).mask, model(PICTURE).mask)


def test_several_images_are_a_list(model: Predictor, tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    frames = np.stack([PICTURE, PICTURE[::-1]])
    for batch in (frames, torch.tensor(frames).permute(0, 3, 1, 2), list(frames), [tmp_path / "a.png", frames[1]]):
        results = model(batch, probabilities=True)
        assert isinstance(results, list)
        for frame, result in zip(frames, results, strict=True):
            alone = model(frame)
            assert (result.mask == alone.mask).mean() > 0.999
            assert result.probabilities.shape == (19, 50, 65)
            np.testing.assert_array_equal(
                np.asarray(result.overlay(0.5, legend=False)), blend(frame, result.mask, model.classes, 0.5)
            )
    assert [result.name.as_posix() for result in results] == ["a.png", "000001.png"]


def test_a_folder_is_read_as_it_is_needed(model: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    for i, name in enumerate(("b.png", "a.jpg", "deep/c.png")):
        layouts.noise(i, (40, 33)).save(tmp_path / "in" / name)
    (tmp_path / "in/notes.txt").write_text("no picture")
    with pytest.warns(UserWarning, match=r"holds 1 file \.txt, neither images nor videos"):
        results = model(tmp_path / "in")
    assert isinstance(results, Iterator)
    first = next(results)
    assert first.path == tmp_path / "in/a.jpg"
    (tmp_path / "in/b.png").write_bytes(b"damaged by now")
    with pytest.raises(UserError, match=r"b\.png is not an image"):
        next(results)
    names = [result.name.as_posix() for result in model(tmp_path / "in/deep")]
    assert names == ["c.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images or videos"):
        model(tmp_path / "empty")


def test_a_video_is_its_frames(model: Predictor, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", (64, 40), 12.5, 3)
    results = list(model(clip))
    assert [result.name.as_posix() for result in results] == [f"clip/{i:06d}.png" for i in range(3)]
    for frame, result in zip(read_video(clip), results, strict=True):
        np.testing.assert_array_equal(result.mask, model(frame).mask)


WANTED = "must be uint8, or floating-point from 0 to 1, of the shape H×W×3 or 3×H×W, or N of them"


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (PICTURE[..., 0], WANTED),
        (PICTURE[None, None], WANTED),
        (np.zeros((0, 5, 3), np.uint8), WANTED),
        (np.zeros((40, 50, 4), np.uint8), WANTED),
        (PICTURE.astype(np.int32), f"the image is int32; it {WANTED}"),
        (PICTURE.astype(np.uint16), f"the image is uint16; it {WANTED}"),
        (PICTURE > 100, f"the image is bool; it {WANTED}"),
        (PICTURE.astype(object), "the image is an array of object; it must be uint8"),
        (np.zeros((3, 40, 3), np.uint8), "can be read as H×W×3 and as 3×H×W; pad or cut the side of 3 pixels"),
        (np.zeros((2, 3, 40, 3), np.uint8), "can be read as H×W×3 and as 3×H×W"),
        (PICTURE.astype(np.float32), r"is float32 from \d+ to 255, and must be from 0 to 1; divide it by 255"),
        (PICTURE / 100 - 1, r"is float64 from -[\d.]+ to [\d.]+, and must be from 0 to 1; undo its normalization"),
        (np.full((4, 4, 3), np.nan), "from nan to nan, and must be from 0 to 1"),
        (None, "the image is None; it must be a path, a PIL image, an array or a tensor"),
        ({"image": 1}, "it must be a path, a PIL image, an array or a tensor"),
        ([PICTURE, "none.jpg"], r"none\.jpg does not exist"),
        ("https://example.org/a.jpg", "is an address; download it"),
        (Image.new("F", (9, 9)), "has pixels of mode F; give its file, or 8 bits"),
    ],
)
def test_anything_else_is_refused(model: Predictor, image: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        model(image)  # type: ignore[call-overload]


def test_only_arrays_can_be_in_another_order(model: Predictor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bgr is True, but only arrays and tensors"):
        model(tmp_path / "image.png", bgr=True)


def test_a_result_keeps_its_image(model: Predictor) -> None:
    frame = PICTURE.copy()
    result, other = model(frame), model(torch.from_numpy(frame))
    frame[:] = 0
    np.testing.assert_array_equal(result.image, PICTURE)
    np.testing.assert_array_equal(other.image, PICTURE)


def test_results_can_be_changed_in_place(model: Predictor) -> None:
    result = model(torch.tensor(PICTURE))
    result.tensor[:] = 3
    assert (result.mask == 3).all()


def test_it_says_what_it_is(model: Predictor) -> None:
    assert repr(model) == f"<Predictor: {ARCH}, 19 classes, on cpu>"


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "none.pt")
    path = write_checkpoint(tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match="'quantum'; it must be auto, cuda"):
        load(path, device="quantum")
    for device in ("mps", "meta", None, 1.5):
        with pytest.raises(UserError, match="it must be auto, cuda, cuda:N or cpu"):
            load(path, device=device)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the precision is 'int8'; it must be auto, bf16, fp16 or fp32"):
        load(path, "cpu", "int8")
    for window in (64, (64,), (0, 64), (64.5, 64)):
        with pytest.raises(UserError, match=r"the window is .*; it must be a height and a width in pixels"):
            load(path, "cpu", window=window)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="sees no GPU"):
            load(path, device="cuda")


def test_views_reach_the_network(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "ckpt.pt")
    assert load(path, "cpu", tta=True).views == MULTI_SCALE
    windowed = load(path, "cpu", "fp32", window=(32, 40))
    assert windowed.views.window == (32, 40)
    once = load(path, "cpu", "fp32")
    assert (windowed(PICTURE).mask != once(PICTURE).mask).any()


@pytest.mark.parametrize(
    ("height", "width", "pixels"),
    [(100, 200, 20000), (3000, 4000, 2_000_000), (400, 9000, 600_000), (9000, 400, 600_000), (2161, 3841, 8_300_000)],
)
def test_blocks_show_every_pixel_once(height: int, width: int, pixels: int) -> None:
    seen = np.zeros((height, width), np.uint8)
    for rows, columns in blocks(height, width, pixels):
        seen[rows.kept, columns.kept] += 1
        for span, length in ((rows, height), (columns, width)):
            start, stop = span.seen.start, span.seen.stop
            assert 0 <= start <= span.kept.start < span.kept.stop <= stop <= length
            # What is kept has its surroundings, or the picture's border.
            assert start == 0 or span.kept.start - start >= predictor.OVERLAP // 2
            assert stop == length or stop - span.kept.stop >= predictor.OVERLAP // 2
            assert (span.kept.start - start, span.kept.stop - start) == (span.inner.start, span.inner.stop)
        assert (rows.seen.stop - rows.seen.start) * (columns.seen.stop - columns.seen.start) <= pixels
    assert (seen == 1).all()


def test_memory_holds_a_4k_frame_of_19_classes_in_one_piece() -> None:
    assert len(list(blocks(2160, 3840, pixels_at_once(19, 1.0)))) == 1
    assert len(list(blocks(2160, 3840, pixels_at_once(150, 1.0)))) > 1
    assert pixels_at_once(19, 1.75) < pixels_at_once(19, 1.0) == pixels_at_once(19, 0.5)


def test_a_large_picture_goes_in_blocks(model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks see what a cut-out picture would show, and are put where they belong."""
    monkeypatch.setattr(predictor, "OVERLAP", 32)
    monkeypatch.setattr(predictor, "ALIGNMENT", 8)
    monkeypatch.setattr(predictor, "pixels_at_once", lambda *_: 64 * 80)
    frames = np.stack([np.asarray(layouts.noise(i, (150, 70))) for i in range(2)])
    masks, shares = (part.numpy() for part in model.answer(torch.from_numpy(frames), torch.float16))
    places = list(blocks(70, 150, 64 * 80))
    assert len(places) > 2
    for rows, columns in places:
        expected = plainly(model, frames[1:, rows.seen, columns.seen])[0, :, rows.inner, columns.inner].numpy()
        np.testing.assert_allclose(shares[1, :, rows.kept, columns.kept], expected, atol=2e-3)
        assert (masks[1, rows.kept, columns.kept] == expected.argmax(0)).mean() > 0.99
    assert shares.dtype == np.float16


class Convolutions(nn.Module):
    """A network of stride 8 that sees 35 pixels around each: its context is bounded, unlike where the picture's mean
    is part of every logit."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 8, 8, 3, 2, 1) for i in range(3)))
        self.head = nn.Conv2d(8, classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image))


def test_tiles_with_enough_context_equal_the_whole(model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same classes, and probabilities but for rounding, where the sides are multiples of the stride."""
    torch.manual_seed(0)
    frame = torch.from_numpy(np.asarray(layouts.noise(3, (416, 288))).copy())[None]
    monkeypatch.setitem(ARCHITECTURES, "convolutions", own_architecture(Convolutions))
    network = SegmentationNetwork("convolutions", 19, (120.0, 115.0, 110.0), (60.0, 60.0, 60.0), aux=False)
    whole, tiled = (Predictor(network, model.classes, CPU, "fp32", tile=tile) for tile in (None, 128))
    assert len(list(blocks(288, 416, 128**2, 128))) > 6
    (masks, shares), (others, more) = (each.answer(frame, torch.float32) for each in (whole, tiled))
    assert torch.equal(masks, others)
    assert shares is not None
    assert more is not None
    assert (shares - more).abs().max() < 1e-6
    _, shifted = whole.answer(frame[:, 4:132, 4:132], torch.float32)  # off the network's grid
    assert shifted is not None
    assert (shifted[0, :, 64:68, 64:68] - shares[0, :, 68:72, 68:72]).abs().max() > 1e-5


def test_tiles_of_a_network_that_pools_the_picture_differ_little(model: Predictor) -> None:
    """DeepLab's image pooling sees a tile in place of the picture."""
    frame = torch.from_numpy(np.asarray(layouts.noise(3, (416, 288))).copy())[None]
    tiled = Predictor(model.model, model.classes, CPU, "fp32", tile=128)
    (_, one), (_, other) = (each.answer(frame, torch.float32) for each in (model, tiled))
    assert 0 < (one - other).abs().mean() < 0.01


@pytest.mark.parametrize("tile", [0, 100, 129, "128"])
def test_tiles_have_sizes_of_the_grid(tmp_path: Path, tile: object) -> None:
    path = write_checkpoint(tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match=r"tile is .*; it must be a multiple of 32 pixels, 128 or more"):
        load(path, device="cpu", tile=tile)  # type: ignore[arg-type]


def test_the_tile_that_fits_is_said(model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a line through the memory of two squares: here a kilobyte a pixel, and what 192² pixels take is there."""

    def infer(_self: Predictor, frames: Tensor, _probably: bool) -> None:
        pixels = frames.shape[1] * frames.shape[2]
        torch.ones(1024 * pixels if pixels <= 512**2 else 1 << 46, dtype=torch.uint8)

    monkeypatch.setattr(Predictor, "_infer", infer)
    monkeypatch.setattr("fastseg.memory.memory_left", lambda *_: 1024 * 192**2 + (8 << 20))
    with (
        pytest.raises(UserError, match=r"to predict a picture of 900×900 pixels; tile=(192|224) fits"),
        naming_arguments(),
    ):
        model.answer(torch.zeros(1, 900, 900, 3, dtype=torch.uint8))
