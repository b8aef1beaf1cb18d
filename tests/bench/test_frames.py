"""The frames of a benchmark: the same pixels in every format, made once, whole or absent."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from bench.stages.frames import CODECS, Frames, FrameSize, Work, frames_of_shards, once, procedural_frames
from fastseg.errors import UserError
from fastseg.labels import cityscapes
from fastseg.packing.sources import open_source
from fastseg.shards.jpeg_tiles import find_tiles
from fastseg.shards.manifest import read_manifest


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def frames(shards: Path, cache: Path) -> Frames:
    return frames_of_shards(shards, 6, cache, workers=1)


def members(shards: Path, split: str = "train") -> dict[str, bytes]:
    """All files in the tars of a split."""
    found: dict[str, bytes] = {}
    for path in sorted(shards.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    return found


def pixels(data: bytes | Path) -> np.ndarray:
    return np.asarray(Image.open(data if isinstance(data, Path) else io.BytesIO(data)))


def test_the_source_holds_the_pixels_of_the_shards(frames: Frames, shards: Path) -> None:
    packed = members(shards)
    assert len(frames.keys) == 6
    assert set(frames.keys) < {name.partition(".")[0] for name in packed}
    for key in frames.keys:
        assert np.array_equal(pixels(frames.image(key, "png")), pixels(packed[f"{key}.jpg"]))
        assert np.array_equal(pixels(frames.mask(key, "png")), pixels(packed[f"{key}.mask.tif"]))


def test_every_format_holds_the_same_frames(frames: Frames) -> None:
    for codecs in CODECS:
        image, mask = codecs.split("-")
        manifest = read_manifest(frames.shards(codecs))
        suffix = "png" if image == "png" else "jpg"
        assert (manifest.image_codec, manifest.mask_codec) == (suffix, mask)
        packed = members(frames.shards(codecs))
        assert {name.partition(".")[0] for name in packed} == set(frames.keys)
        for key in frames.keys:
            stored = packed[f"{key}.{suffix}"]
            # Restart markers change no pixel.
            assert np.array_equal(pixels(frames.image(key, suffix)), pixels(stored))
            assert (frames.image(key, suffix).read_bytes() == stored) == (image != "jpg")
            assert (find_tiles(np.frombuffer(stored, np.uint8)) is not None) == (image == "jpg")
            assert np.array_equal(pixels(frames.mask(key, mask)), pixels(packed[f"{key}.mask.{mask}"]))
            assert np.array_equal(pixels(frames.mask(key, "png")), pixels(frames.mask(key, "tif")))
    assert frames.mask(key, "tif").read_bytes() == members(frames.shards("jpg-tif"))[f"{key}.mask.tif"]


def test_the_source_is_a_data_set_of_own_images(frames: Frames) -> None:
    source = open_source(frames.source)
    assert [sample.split for sample in source.samples] == ["train"] * 6 + ["val"]
    assert source.table.classes == cityscapes().classes
    assert np.array_equal(source.table.lookup()[:19], np.arange(19))
    assert frames.about["size"] == [64, 96]
    assert (frames.about["val"], frames.about["classes"]) == (1, 19)


def test_readers_that_share_by_shards_have_some_to_share(frames: Frames) -> None:
    assert len(read_manifest(frames.shards()).split("train").shards) == 3


def test_a_second_call_finds_them(frames: Frames, shards: Path, cache: Path) -> None:
    told: list[object] = []
    again = frames_of_shards(shards, 6, cache, workers=1, progress=lambda *what: told.append(what))
    assert again.root == frames.root
    assert told == []
    assert frames_of_shards(shards, 2, cache, workers=1).root != frames.root


def test_no_more_than_there_are(shards: Path, cache: Path) -> None:
    frames = frames_of_shards(shards, 100, cache, workers=1)
    assert len(frames.keys) == 11
    assert frames.about["val"] == 5


def test_procedural_frames_are_scenes(cache: Path) -> None:
    told: list[str] = []
    frames = procedural_frames(2, (128, 64), cache, workers=1, progress=lambda what, *_: told.append(what))
    assert (len(frames.keys), frames.about["val"], frames.about["size"]) == (2, 1, [64, 128])
    assert {"scenes", "shards jpg-tif"} <= set(told)
    for key in frames.keys:
        labels = pixels(frames.mask(key))
        assert set(np.unique(labels).tolist()) <= {*range(19), 255}
        assert len(np.unique(labels)) > 4
        assert pixels(frames.image(key, "png")).shape == (64, 128, 3)


def test_camvid_s_frames_are_shown_in_their_own_size() -> None:
    assert FrameSize.parse("480x360") == (480, 360, False)
    assert FrameSize.parse("480x360").crop == (360, 480)
    assert FrameSize.parse("2048x1024-420") == (2048, 1024, True)
    assert FrameSize.parse("2048x1024-420").crop == (768, 768)


def test_own_jpegs_are_packed_as_they_are(cache: Path) -> None:
    frames = procedural_frames(1, (128, 64), cache, workers=1, own=True)
    (key,) = frames.keys
    stored = members(frames.shards())[f"{key}.jpg"]
    assert stored == frames.image(key).read_bytes() == members(frames.shards("plain-tif"))[f"{key}.jpg"]
    assert find_tiles(np.frombuffer(stored, np.uint8)) is None
    with Image.open(io.BytesIO(stored)) as image:
        assert get_sampling(image) == 2  # 4:2:0
    assert np.array_equal(pixels(frames.image(key, "png")), pixels(members(frames.shards("png-tif"))[f"{key}.png"]))


def test_what_cannot_be_made(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--frames is 0"):
        frames_of_shards(shards, 0, tmp_path)
    with pytest.raises(UserError, match="no finished set of shards"):
        frames_of_shards(tmp_path / "nothing", 1, tmp_path)
    with pytest.raises(UserError, match="no finished frames"):
        _ = Frames(tmp_path).keys
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        once(tmp_path / "made", fail)
    assert list(tmp_path.iterdir()) == []

    def overtaken(folder: Path) -> None:
        (tmp_path / "made").mkdir()
        (tmp_path / "made/by").write_text("another process")
        (folder / "by").write_text("us")

    once(tmp_path / "made", overtaken)
    assert (tmp_path / "made/by").read_text() == "another process"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_work_draws_by_epoch_and_sample() -> None:
    work = Work(crop=(96, 96), scale=(0.5, 2.0))
    first, again, other = (work.draw_for(epoch, 3)((128, 256)).window for epoch in (0, 0, 1))
    assert first == again != other
    assert json.loads(json.dumps(first)) == list(first)
