"""A network for pictures of any size, from Python."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import layouts
from checkpoints import ARCH, write_checkpoint
from fastseg.deploy import predictor
from fastseg.deploy.predictor import Predictor, blocks, load, pixels_at_once
from fastseg.errors import UserError
from fastseg.model.inference import MULTI_SCALE
from fastseg.report.pictures import blend


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load(write_checkpoint(tmp_path_factory.mktemp("model") / "ckpt.pt"), device="cpu", precision="fp32")


PICTURE = np.asarray(layouts.noise(7, (65, 50)))


def plainly(model: Predictor, frames: np.ndarray) -> torch.Tensor:
    """Probabilities by torchvision's own forward, which upsamples too."""
    network = model.model
    with torch.inference_mode():
        normalized = (torch.from_numpy(frames.copy()) - network.mean) / network.std
        return network.net(normalized.permute(0, 3, 1, 2))["out"].softmax(1)


def test_is_what_torchvision_says(model: Predictor) -> None:
    expected = plainly(model, PICTURE[None])[0].numpy()
    mask = model.predict(PICTURE)
    assert mask.shape == PICTURE.shape[:2]
    assert mask.dtype == np.uint8
    assert (mask == expected.argmax(0)).mean() > 0.999
    assert len(np.unique(mask)) > 2  # the agreement is about something
    np.testing.assert_allclose(model.probabilities(PICTURE), expected, atol=1e-5)


def test_every_kind_of_image_gives_the_same_mask(model: Predictor, tmp_path: Path) -> None:
    image = Image.fromarray(PICTURE)
    image.save(tmp_path / "image.png")
    sideways, exif = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x112] = 6
    sideways.save(tmp_path / "sideways.png", exif=exif)
    expected = model.predict(PICTURE)
    kinds = [tmp_path / "image.png", str(tmp_path / "sideways.png"), image, Image.open(tmp_path / "sideways.png")]
    for kind in [*kinds, torch.tensor(PICTURE), image.convert("RGBA")]:
        np.testing.assert_array_equal(model.predict(kind), expected)


def test_malformed_exif_does_not_stop_an_image(model: Predictor, tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "image.png", exif=b"Exif\0\0garbage!!")
    for kind in (tmp_path / "image.png", Image.open(tmp_path / "image.png")):
        np.testing.assert_array_equal(model.predict(kind), model.predict(PICTURE))


def test_a_batch_is_its_pictures(model: Predictor) -> None:
    frames = np.stack([PICTURE, PICTURE[::-1]])
    masks, pictures = model.predict(frames), model.overlay(frames, alpha=0.5)
    assert masks.shape == (2, 50, 65)
    assert model.probabilities(frames).shape == (2, 19, 50, 65)
    for frame, mask, picture in zip(frames, masks, pictures, strict=True):
        assert (mask == model.predict(frame)).mean() > 0.999
        np.testing.assert_array_equal(picture, blend(frame, mask, model.classes, 0.5))


@pytest.mark.parametrize(
    "image", [PICTURE.astype(np.float32), PICTURE[..., 0], PICTURE[None, None], np.zeros((0, 5, 3), np.uint8)]
)
def test_other_arrays_are_refused(model: Predictor, image: np.ndarray) -> None:
    with pytest.raises(UserError, match="must be uint8 of the shape"):
        model.predict(image)


def test_one_path_at_a_time(model: Predictor, tmp_path: Path) -> None:
    for paths in ([str(tmp_path)] * 2, [tmp_path], [PICTURE, PICTURE[1:]], None):
        with pytest.raises(UserError, match="one path, picture or array at a time"):
            model.predict(paths)  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [2, -0.1, float("nan"), "half"])
def test_more_than_the_colors_is_refused(model: Predictor, alpha: float) -> None:
    with pytest.raises(UserError, match=r"alpha is .*; it must be from 0"):
        model.overlay(PICTURE, alpha)


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
    assert (windowed.predict(PICTURE) != once.predict(PICTURE)).any()


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
    monkeypatch.setattr(predictor, "pixels_at_once", lambda *_: 64 * 80)
    frames = np.stack([np.asarray(layouts.noise(i, (150, 70))) for i in range(2)])
    masks, shares = model.answer(frames, np.float16)
    places = list(blocks(70, 150, 64 * 80))
    assert len(places) > 2
    for rows, columns in places:
        expected = plainly(model, frames[1:, rows.seen, columns.seen])[0, :, rows.inner, columns.inner].numpy()
        np.testing.assert_allclose(shares[1, :, rows.kept, columns.kept], expected, atol=2e-3)
        assert (masks[1, rows.kept, columns.kept] == expected.argmax(0)).mean() > 0.99
    assert shares.dtype == np.float16
