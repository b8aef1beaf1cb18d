"""The loader's peers do the same work as an independent reference, and as their docstrings promise."""

import inspect
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

import layouts
from bench import peers
from bench.peers import _cuda, torchvision_v2
from bench.peers._colors import color_by_product
from bench.runner import runner as runner
from bench.runner.runner import Entry, _version
from bench.stages.frames import Drawn, Frames, Work, frames_of_shards
from fastseg.data.augment import Window, color_matrix, sample_augmentations
from fastseg.errors import UserError
from fastseg.packing.pack import pack
from fastseg.packing.sources import open_source

WIDTH, HEIGHT = 256, 128
SEED = 0
WORK = Work(crop=(96, 96), scale=(0.5, 2.0), batch=4)
PLAIN = Work(crop=(96, 96), scale=(0.5, 2.0), batch=4, colors=False)
COLORS = np.array([[90, 160, 90], [220, 40, 40], [40, 60, 220]], np.uint8)
UNTAUGHT = np.array([240, 220, 60], np.uint8)
"""What ignored pixels look like."""
SMOOTH = {"notebook", "webdataset_opencv", "nvimagecodec", "streaming", "kornia_rs", "ultralytics"}
"""They do not antialias, which a frame without fine detail does not show."""


def why_not(peer: ModuleType) -> str | None:
    """Why it cannot be measured here."""
    return Entry("loader", "", "", "", {}, requires=peer.REQUIRES, python=peers.interpreter(peer)).why_not()


INSTALLED = [name for name in peers.loaders() if not why_not(peers.load(name))]


def peer_of(name: str) -> ModuleType:
    peer = peers.load(name)
    if absent := why_not(peer):
        pytest.skip(absent)
    if peers.interpreter(peer) != sys.executable:
        pytest.skip(f"lives in another environment, {peers.interpreter(peer)}: run these tests there")
    return peer


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """Six frames: two of noise, one of them smooth; the others show their mask in colors."""
    folder = tmp_path_factory.mktemp("peers")
    source = layouts.write_folder_dataset(folder / "source", train=6, val=1, size=(WIDTH, HEIGHT))
    images = source / "train/images"
    coarse = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(images / "train_000.png")
    for path in sorted(images.iterdir())[2:]:
        values = np.asarray(Image.open(source / "train/masks" / path.name))
        table = np.zeros((10, 3), np.uint8)
        table[[0, 1, 4]], table[9] = COLORS, UNTAUGHT
        # With some grain, so that no two crops are alike.
        grain = np.random.default_rng(1).integers(-4, 5, (HEIGHT, WIDTH, 3))
        Image.fromarray((table[values] + grain).astype(np.uint8)).save(path)
    pack(open_source(source), folder / "shards", workers=1)
    return frames_of_shards(folder / "shards", 6, folder / "cache", workers=1)


def crops() -> list[Drawn]:
    """Thirty with changes of color, of all kinds, and three without."""
    drawn = [WORK.draw_for(0, number)((HEIGHT, WIDTH)) for number in range(30)]
    windows = [one.window for one in drawn]
    assert any(w.height < 96 and w.flip for w in windows)
    assert any(w.height < 96 and not w.flip for w in windows)
    assert any(w.bottom - w.top > w.height and w.height == 96 for w in windows)
    assert any(w.bottom - w.top < 96 for w in windows)
    assert sum(not undecided(w).any() for w in windows) >= 12
    plain = [PLAIN.draw_for(1, number)((HEIGHT, WIDTH)) for number in range(3)]
    assert all(one.colors is None for one in plain)
    return drawn + plain


def test_crops_are_drawn_as_for_ours() -> None:
    for epoch, sample in ((0, 0), (0, 1), (3, 17)):
        window, colors = WORK.draw_for(epoch, sample)((HEIGHT, WIDTH))
        expected, numbers = sample_augmentations(WORK.seed, epoch, sample, (HEIGHT, WIDTH), WORK.augment)
        assert window == expected
        assert colors is not None
        assert np.array_equal(colors, color_matrix(*numbers))
        assert PLAIN.draw_for(epoch, sample)((HEIGHT, WIDTH)) == (expected, None)


def reference(image: Image.Image, mask: Image.Image, drawn: Drawn, colored_last: bool) -> tuple[np.ndarray, np.ndarray]:
    """What Pillow and numpy make of a window; ``colored_last``: always color after resizing, not where it is less."""
    window, matrix = drawn
    box = (window.left, window.top, window.right, window.bottom)
    size = (window.width, window.height)
    shown = image.crop(box)
    grows = window.height >= window.bottom - window.top and window.width >= window.right - window.left
    if grows and not colored_last:
        shown = colored(shown, matrix)
    shown = shown.resize(size, Image.Resampling.BILINEAR)
    if colored_last or not grows:
        shown = colored(shown, matrix)
    labels = mask.crop(box).resize(size, Image.Resampling.NEAREST)
    return placed(np.asarray(shown), window, WORK.fill), placed(np.asarray(labels), window, 255)


def colored(image: Image.Image, matrix: np.ndarray | None) -> Image.Image:
    """A matrix applied to every pixel's (R, G, B, 1), rounded and clipped."""
    if matrix is None:
        return image
    changed = np.asarray(image).astype(float) @ matrix[:, :3].T + matrix[:, 3]
    return Image.fromarray(changed.round().clip(0, 255).astype(np.uint8))


def gain(matrix: np.ndarray | None) -> float:
    """By how much a matrix multiplies an error of all three channels at most."""
    return 1.0 if matrix is None else max(1.0, float(np.abs(matrix[:, :3]).sum(1).max()))


def test_the_product_on_a_gpu_colors_as_the_reference_does() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (40, 30, 3), np.uint8)
    for drawn in crops():
        if drawn.colors is None:
            continue
        found = color_by_product(torch.from_numpy(pixels), drawn.colors).numpy()
        expected = np.asarray(colored(Image.fromarray(pixels), drawn.colors))
        # float32 may round to the other side of a half.
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert (found != expected).mean() < 0.001


def undecided(window: Window) -> np.ndarray:
    """Where the nearest pixel is two: the center of a pixel of the crop lies on the border between two of the frame.

    The libraries' rounding decides there (64 → 96 pixels: at every third).
    """
    rows, columns = (
        (2 * np.arange(length) + 1) * seen % (2 * length) == 0
        for length, seen in ((window.height, window.bottom - window.top), (window.width, window.right - window.left))
    )
    return placed(rows[:, None] | columns, window, False)


def placed(shown: np.ndarray, window: Window, fill: Any) -> np.ndarray:
    """The finished crop: flipped and padded."""
    crop = np.empty((96, 96, *shown.shape[2:]), shown.dtype)
    crop[:] = fill
    part = shown[:, ::-1] if window.flip else shown
    crop[window.pad_top : window.pad_top + window.height, window.pad_left : window.pad_left + window.width] = part
    return crop


def codecs(peer: ModuleType) -> list[dict[str, Any]]:
    """The candidates' settings that decide what a sample looks like, each once."""
    names = {"masks", "decoder", "decode"}
    kinds = [{k: v for k, v in settings.items() if k in names} for settings in peer.candidates(2)]
    return [kind for number, kind in enumerate(kinds) if kind not in kinds[:number]]


def as_bytes(image: torch.Tensor) -> np.ndarray:
    """An image as uint8 h×w×3; the notebook project's is normalized, its and Ultralytics' have channels first."""
    if image.dtype == torch.uint8:
        return (image if image.shape[-1] == 3 else image.permute(1, 2, 0)).numpy()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((image.permute(1, 2, 0) * std + mean) * 255).round().clamp(0, 255).byte().numpy()


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
@pytest.mark.parametrize("name", peers.loaders())
def test_a_sample_is_what_pillow_makes_of_it(name: str, frames: Frames) -> None:
    peer = peer_of(name)
    for settings in codecs(peer):
        smooth = name in SMOOTH or settings.get("decoder") == "opencv"
        key = frames.keys[0 if smooth else 1]
        encoded, masks = frames.image(key).read_bytes(), frames.mask(key, settings.get("masks", "png")).read_bytes()
        image, mask = Image.open(frames.image(key)), Image.open(frames.mask(key))
        ffmpeg = settings.get("decoder") == "ffmpeg"
        for drawn in crops():
            sizes: list[tuple[int, int]] = []

            def draw(size: tuple[int, int], drawn: Drawn = drawn, sizes: list = sizes) -> Drawn:
                sizes.append(tuple(size))
                return drawn

            shown, labels = peer.sample(encoded, masks, draw, WORK, **settings)
            expected, expected_labels = reference(image, mask, drawn, colored_last=ffmpeg)
            assert sizes == [(HEIGHT, WIDTH)]
            assert not ((labels.numpy() != expected_labels) & ~undecided(drawn.window)).any(), (settings, drawn)
            difference = np.abs(as_bytes(shown).astype(int) - expected)
            # Rounding, and another JPEG decoder's; bilinear weights of 11 bits or of 8. A matrix multiplies these
            # differences by its gain at most, and its result is rounded once more.
            most = gain(drawn.colors)
            again = 0.0 if drawn.colors is None else 1.0
            assert difference.mean() < 0.6 * most, (settings, drawn)
            assert difference.max() <= (5 if ffmpeg else 3) * most + again, (settings, drawn)


def first_batches(peer: ModuleType, frames: Frames, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Of its first candidate with a single worker, in their own colors."""
    settings = peer.candidates(1)[0]
    peer.prepare(frames)
    batches = peer.batches(frames, PLAIN, **settings)
    assert inspect.isgenerator(batches)
    yield from itertools.islice(batches, count)
    batches.close()


KINDS = {
    "notebook": ((4, 3, 96, 96), torch.float32, torch.int64),
    "ultralytics": ((4, 3, 96, 96), torch.uint8, torch.int32),
}
"""Shape and types of the batches of peers whose docstrings say otherwise."""


@pytest.mark.parametrize("name", peers.loaders())
def test_batches_are_endless_fresh_and_in_step(name: str, frames: Frames) -> None:
    peer, seen = peer_of(name), []
    for image, label in first_batches(peer, frames, 6):
        assert (image.shape, image.dtype, label.dtype) == KINDS.get(name, ((4, 96, 96, 3), torch.uint8, torch.uint8))
        assert label.shape == (4, 96, 96)
        assert image.is_contiguous()
        assert label.is_contiguous()
        assert set(label.unique().tolist()) <= {0, 1, 2, 255}
        seen += [(as_bytes(one), labels.numpy()) for one, labels in zip(image, label, strict=True)]
    # 24 samples of 6 frames: endless, each another crop.
    assert len({image.tobytes() for image, _ in seen}) == 24
    assert sum(_matches(image, labels) for image, labels in seen) >= 8


@pytest.mark.slow
def test_what_a_gpu_decodes_is_drawn_as_what_workers_decode(frames: Frames) -> None:
    """On the CPU, by the same decoder and the same order: only where images are decoded differs."""

    def show(images: list[bytes], drawn: list[Drawn], work: Work) -> list[torch.Tensor]:
        encoded = [torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in images]
        decoded = [decode_image(image, ImageReadMode.RGB) for image in encoded]
        return [torchvision_v2.show_image(frame, one, work) for frame, one in zip(decoded, drawn, strict=True)]

    found = _cuda.batches_decoded_on_gpu(frames, WORK, 1, show)
    expected = torchvision_v2.batches(frames, WORK, 1)
    for _ in range(2):
        for one, other in zip(next(found), next(expected), strict=True):
            assert torch.equal(one, other)


def _matches(image: np.ndarray, labels: np.ndarray) -> bool:
    """Whether an image shows its labels' colors; false for the frames of noise, where colors mean nothing."""
    taught = labels < 3
    if not taught.any():
        return False
    nearest = np.abs(image[taught][:, None].astype(int) - COLORS).sum(-1).argmin(-1)
    error = np.abs(image[taught].astype(int) - COLORS[nearest]).sum(-1)
    if np.median(error) > 12:
        return False
    right = (nearest == labels[taught]).mean()
    assert right > 0.93, "an image beside the labels of another"
    return True


def test_all_that_can_be_tested_without_an_environment_of_its_own_is_installed() -> None:
    """Peers whose libraries are requirements of fastseg itself have no excuse."""
    assert {"torchvision_v2", "kornia_rs"} <= set(INSTALLED)


def test_names() -> None:
    shipped = {"notebook", "torchvision_v2", "webdataset_opencv", "litdata", "spdl", "streaming", "kornia_rs"}
    assert shipped <= set(peers.loaders())
    assert set(peers.loaders()) <= set(peers.known())
    assert not any(name.startswith("_") for name in peers.known())
    for name in INSTALLED:
        candidates = peers.load(name).candidates(2, "cpu")
        assert candidates == peers.load(name).candidates(2)
        assert all(settings.get("decode") != "cuda" and settings.get("decoder") != "nvjpeg" for settings in candidates)
    with pytest.raises(UserError, match=r"no peer 'ffcv'; choose from: .*notebook"):
        peers.load("ffcv")
    shown = [peers.load(name).NAME for name in peers.loaders()]
    assert len(set(shown)) == len(shown)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    peer = ModuleType("peer")
    peer.REQUIRES = ("numpy", "no-such-distribution")  # type: ignore[attr-defined]
    assert why_not(peer) == "not installed: no-such-distribution"
    peer.ENVIRONMENT = "FASTSEG_TEST_PYTHON"  # type: ignore[attr-defined]
    assert peers.interpreter(peer) == sys.executable
    monkeypatch.setenv("FASTSEG_TEST_PYTHON", str(tmp_path / "python"))
    assert why_not(peer) == "not installed: numpy, no-such-distribution"
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    _version.cache_clear()
    assert why_not(peer) == "not installed: no-such-distribution"


def test_listing_them_imports_none_of_their_libraries() -> None:
    code = (
        "import sys; from bench import peers; [p.candidates(2, 'cuda') for p in map(peers.load, peers.loaders())]; "
        "print(*sorted({'torch', 'litdata', 'spdl', 'webdataset', 'albumentations', 'kornia_rs'} & set(sys.modules)))"
    )
    root = Path(peers.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "\n"
