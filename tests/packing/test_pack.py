"""Packing as a whole: the same bytes whatever the way there, restarts, and what the manifest says."""

import fcntl
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from fastseg.errors import UserError
from fastseg.files import sha256
from fastseg.labels import cityscapes
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.records import Codec
from fastseg.packing.sources import DataSet, open_source
from fastseg.shards.manifest import VERSION, read_manifest
from fastseg.shards.tar import read_index
from layouts import write_cityscapes, write_folder_dataset, zip_cityscapes

SMALL = PackOptions(samples_per_shard=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cityscapes(tmp_path_factory.mktemp("cityscapes"), train=8, val=4, test=2)


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "undisturbed"
    pack(open_source(folder), out, SMALL, workers=1)
    return out


def _files(out: Path, hidden: bool = False) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if hidden or not path.name.startswith(".")}


class _Ticks(list[tuple[int, int]]):
    """A progress that remembers, and raises like Ctrl-C after ``stop`` calls."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__()
        self.stop = stop

    def __call__(self, done: int, total: int) -> None:
        self.append((done, total))
        if len(self) == self.stop:
            raise KeyboardInterrupt


def test_zips_and_workers_change_no_byte(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    zips = zip_cityscapes(folder, tmp_path / "zips")
    pack(open_source(zips), tmp_path / "out", SMALL, workers=2)
    assert _files(tmp_path / "out") == _files(undisturbed)
    names = ["train-000000", "train-000001", "train-000002", "val-000000", "val-000001", "test-000000"]
    assert set(_files(undisturbed)) == {f"{n}.{kind}" for n in names for kind in ("tar", "idx")} | {"manifest.json"}


def test_the_manifest_tells_what_the_shards_hold(folder: Path, undisturbed: Path) -> None:
    manifest = read_manifest(undisturbed)
    assert (manifest.name, manifest.image_codec, manifest.mask_codec) == ("cityscapes", "jpg", "tif")
    assert {name: (split.samples, split.labeled) for name, split in manifest.splits.items()} == {
        "train": (8, True),
        "val": (4, True),
        "test": (2, False),
    }
    table = cityscapes().lookup()
    for name, split in manifest.splits.items():
        keys, masks = [], []
        for shard in split.shards:
            assert sha256(undisturbed / shard.file) == shard.sha256
            keys += [entry.key for entry in read_index((undisturbed / shard.index).read_text())]
        assert split.sizes == ((32, 64, split.samples),)
        if split.labeled:
            paths = [next(folder.glob(f"gtFine/{name}/*/{key}_gtFine_labelIds.png")) for key in keys]
            masks = [table[np.asarray(Image.open(path))] for path in paths]
            counts = np.bincount(np.concatenate(masks, None), minlength=256)
            assert split.pixels == (*counts[:19].tolist(), counts[255])
    images = np.stack([np.asarray(Image.open(path)) for path in folder.glob("leftImg8bit/train/*/*.png")])
    np.testing.assert_allclose(manifest.mean, images.mean((0, 1, 2)), atol=1e-3)
    np.testing.assert_allclose(manifest.std, images.std((0, 1, 2)), atol=1e-3)
    psnr = manifest.options.pop("psnr")
    assert 35 < psnr < 60
    assert manifest.options == {"quality": 95, "chroma": "444", "height": None, "samples_per_shard": 3, "seed": 0}


def test_a_set_of_another_version_is_packed_again_when_told(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Also one whose tars would be the same."""
    out = Path(shutil.copytree(undisturbed, tmp_path / "out"))
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace(f'"version": {VERSION}', '"version": 1'))
    with pytest.raises(UserError, match=f"format version 1, this fastseg reads {VERSION}; pack the set again"):
        pack(open_source(folder), out, SMALL, workers=1)
    pack(open_source(folder), out, SMALL, workers=1, overwrite=True)
    assert _files(out) == _files(undisturbed)


def test_plain_webdataset_reads_a_set(folder: Path, undisturbed: Path) -> None:
    urls = [str(undisturbed / shard.file) for shard in read_manifest(undisturbed).splits["val"].shards]
    table = cityscapes().lookup()
    count = 0
    for entry in webdataset.WebDataset(urls, shardshuffle=False):
        mask = np.asarray(Image.open(io.BytesIO(entry["mask.tif"])))
        labels = next(folder.glob(f"gtFine/val/*/{entry['__key__']}_gtFine_labelIds.png"))
        np.testing.assert_array_equal(mask, table[np.asarray(Image.open(labels))])
        count += 1
    assert count == 4


@pytest.mark.parametrize("stop", [1, 2, 5, 9, 15])
def test_interrupted_packing_goes_on_after_the_last_shard(
    folder: Path, undisturbed: Path, tmp_path: Path, stop: int
) -> None:
    source = open_source(folder)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path, SMALL, workers=1, progress=_Ticks(stop))
    assert not (tmp_path / "manifest.json").exists()
    assert not list(tmp_path.glob(".*.tmp"))
    written = sum(1 for shard in (3, 6, 8, 11, 12, 14) if shard <= stop - 2)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    assert len(kept) == written
    ticks = _Ticks()
    pack(source, tmp_path, SMALL, workers=1, progress=ticks)
    assert ticks[0] == ((0, 3, 6, 8, 11, 12, 14)[written], 14)
    assert ticks[-1] == (14, 14)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    assert _files(tmp_path) == _files(undisturbed)
    assert not (tmp_path / ".packing").exists()


def test_leftovers_of_a_kill_are_not_mistaken(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path, SMALL, workers=1, progress=_Ticks(9))
    # Killed while a tar was being written, and between a tar and the note that it is finished.
    (tmp_path / ".train-000002.tar.0123456789abcdef.tmp").write_bytes(b"half")
    (tmp_path / ".packing" / ".val-000000.tar.json.0123456789abcdef.tmp").write_bytes(b"half")
    (tmp_path / ".packing" / "train-000001.tar.json").unlink()
    (tmp_path / "train-000000.tar").write_bytes(b"short")
    pack(source, tmp_path, SMALL, workers=1)
    assert _files(tmp_path) == _files(undisturbed)
    assert set(_files(tmp_path, hidden=True)) - set(_files(tmp_path)) == {".request"}


def test_an_unfinished_other_request_is_replaced(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        pack(open_source(folder), tmp_path, PackOptions(samples_per_shard=2), workers=1, progress=_Ticks(9))
    pack(open_source(folder), tmp_path, SMALL, workers=1)
    files = _files(tmp_path)
    assert files.pop("notes.json") == b"mine"
    assert files == _files(undisturbed)


def test_a_finished_set_is_left_alone(folder: Path, tmp_path: Path) -> None:
    manifest = pack(open_source(folder), tmp_path, SMALL, workers=1)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    ticks = _Ticks()
    assert pack(open_source(folder), tmp_path, SMALL, workers=1, progress=ticks) == manifest
    assert ticks == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps


def _other_requests(source: DataSet) -> Iterator[tuple[DataSet, PackOptions]]:
    yield source, replace(SMALL, seed=1)
    yield source, replace(SMALL, codec=Codec(quality=90))
    yield DataSet(source.table, source.samples[1:]), SMALL
    first = source.samples[0]
    touched = replace(first, image=replace(first.image, stamp=first.image.stamp + 1))
    yield DataSet(source.table, (touched, *source.samples[1:])), SMALL
    yield DataSet(replace(source.table, train_ids=source.table.train_ids | {0: 1}), source.samples), SMALL


def test_a_finished_other_set_is_refused_unless_overwritten(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    pack(source, tmp_path, SMALL, workers=1)
    before = _files(tmp_path, hidden=True)
    for other, options in _other_requests(source):
        with pytest.raises(UserError, match="from other inputs or with other options; choose another --out, or replac"):
            pack(other, tmp_path, options, workers=1)
    assert _files(tmp_path, hidden=True) == before
    manifest = pack(source, tmp_path, PackOptions(), workers=1, overwrite=True)
    assert {path.name for path in tmp_path.glob("*.tar")} == {
        shard.file for split in manifest.splits.values() for shard in split.shards
    }


def test_shards_of_unknown_origin_are_not_removed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "train-000000.tar").write_bytes(b"somebody's")
    with pytest.raises(UserError, match=r"holds train-000000\.tar but no manifest\.json"):
        pack(open_source(folder), tmp_path, SMALL, workers=1)
    assert _files(tmp_path, hidden=True) == {"train-000000.tar": b"somebody's"}


def test_two_at_a_time_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".packing").mkdir()
    with (tmp_path / ".packing" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is packing into"):
            pack(open_source(folder), tmp_path, SMALL, workers=1)


def test_a_refused_sample_keeps_the_finished_shards(tmp_path: Path) -> None:
    data = write_folder_dataset(tmp_path / "data", train=6, val=1)
    out = tmp_path / "out"
    mask = data / "val/masks/val_000.png"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:60])
    for workers in (1, 2):
        with pytest.raises(UserError, match=r"val/masks/val_000\.png is damaged"):
            pack(open_source(data), out, SMALL, workers)
        assert {path.name for path in out.glob("*.tar")} == ({"train-000000.tar", "train-000001.tar"})
        assert not list(out.glob(".*.tmp"))
    mask.write_bytes(whole)
    assert pack(open_source(data), out, SMALL, workers=1).splits["val"].samples == 1


def test_png_sets_keep_every_bit(folder: Path, tmp_path: Path) -> None:
    manifest = pack(open_source(folder), tmp_path, PackOptions(codec=Codec(image="png", mask="png")), workers=1)
    assert manifest.options["psnr"] is None
    for entry in webdataset.WebDataset(str(tmp_path / "train-000000.tar"), shardshuffle=False):
        original = next(folder.glob(f"leftImg8bit/*/*/{entry['__key__']}_leftImg8bit.png"))
        assert entry["png"] == original.read_bytes()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"samples_per_shard": 0}, "--samples-per-shard is 0"), ({"workers": 0}, "--workers is 0")],
)
def test_numbers_out_of_range_are_refused(folder: Path, tmp_path: Path, options: dict[str, int], sentence: str) -> None:
    workers = options.pop("workers", None)
    with pytest.raises(UserError, match=sentence):
        pack(open_source(folder), tmp_path, PackOptions(**options), workers)  # type: ignore[arg-type]


def test_out_must_be_a_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = {
        tmp_path / "file": "which is a file",
        tmp_path / "file" / "below": "is a file; name",
        Path("/proc/x"): "/proc",
    }
    for out, says in refused.items():
        with pytest.raises(UserError, match=f"--out (is )?{out}.* {says}"):
            pack(open_source(folder), out, SMALL, workers=1)
