"""A decoder that fails says so at once, with the names of the records that it was given."""

from pathlib import Path

import pytest
import torch

from augments import augment_config
from fastseg.data import decoding
from fastseg.data.loader import TrainLoader, open_files
from fastseg.data.reader import Encoded, Reader
from fastseg.errors import UserError
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.sources import open_source
from fastseg.shards.manifest import read_manifest
from layouts import write_folder_dataset

BATCH, PREFETCH = 2, 2
BROKEN = 7


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainLoader:
    """Of 40 records, all read once before one of them breaks: from then on DALI does not decode it."""
    pack(open_source(write_folder_dataset(tmp_path / "source", train=40)), tmp_path / "set", PackOptions(), workers=1)
    manifest = read_manifest(tmp_path / "set")
    files, split = open_files(tmp_path / "set", manifest, "train"), manifest.split("train")
    read = Reader.read

    def read_broken(self: Reader, place: int) -> Encoded:
        record = read(self, place)
        if place == BROKEN:
            image = record.image.copy()
            image[216:366] = 255  # Huffman tables
            return record._replace(image=image)
        return record

    options = {"batch": BATCH, "device": torch.device("cpu"), "threads": 1, "prefetch": PREFETCH, "seed": 0}
    loader = TrainLoader(files, split, augment_config((32, 32)), **options)
    for _ in range(loader.steps_per_epoch):
        loader.next()
    monkeypatch.setattr(Reader, "read", read_broken)
    return loader


def run_into_it(loader: TrainLoader) -> str:
    with pytest.raises(UserError) as caught:
        [loader.next() for _ in range(2 * loader.steps_per_epoch)]
    return str(caught.value)


def test_only_the_batches_on_their_way_are_searched(loader: TrainLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    look = decoding.undecodable

    def counted(reader: Reader, place: int) -> str | None:
        searched.append(place)
        return look(reader, place)

    monkeypatch.setattr(decoding, "undecodable", counted)
    said = run_into_it(loader)
    assert f"record {loader._reader.key(BROKEN)} at byte" in said
    assert searched[-1] == BROKEN
    assert len(searched) <= (PREFETCH + 1) * BATCH


def test_what_pillow_decodes_and_dali_does_not_is_named_too(
    loader: TrainLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "undecodable", lambda *_: None)
    said = run_into_it(loader)
    assert said.startswith("DALI does not decode one of the records ")
    assert loader._reader.key(BROKEN) in said
    assert "which Pillow does (" in said
    assert "Failed to decode sample #" in said
    assert "pack the set again, the images as PNGs (--image png)" in said
    assert "--data.decoder" not in said  # it was the CPU's decoder
