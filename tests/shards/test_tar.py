"""Shards against the tools that others read them with: tarfile, wds2idx, webdataset, DALI."""

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import nvidia.dali.fn as fn
import pytest
import webdataset
from nvidia.dali import pipeline_def

from fastseg.errors import UserError
from fastseg.files import sha256
from fastseg.packing.pack import plan
from fastseg.packing.sources.samples import Sample
from fastseg.packing.sources.tree import Member
from fastseg.shards.tar import index_text, read_index, write_shard

RECORDS = [
    (f"city_{number:02d}", {"jpg": bytes(range(number + 1)) * 300, "mask.tif": b"mask" * number + b"!", "json": b"{}"})
    for number in range(5)
]


def _samples(split: str, count: int) -> list[Sample]:
    return [Sample(f"s{number:03d}", split, Member(Path("x"), 0, 0), None) for number in range(count)]


def test_plan_shuffles_train_only_and_drops_nothing() -> None:
    train, val = _samples("train", 23), _samples("val", 7)
    shards = plan([*val[::-1], *train], seed=0, samples_per_shard=5)
    assert [(shard.file, len(shard.samples)) for shard in shards] == [
        *((f"train-{number:06d}.tar", 5) for number in range(4)),
        ("train-000004.tar", 3),
        ("val-000000.tar", 5),
        ("val-000001.tar", 2),
    ]
    order = [sample.key for shard in shards[:5] for sample in shard.samples]
    assert sorted(order) == [sample.key for sample in train]
    # Written down once: the order must never change for a seed.
    assert order[:6] == ["s000", "s019", "s010", "s013", "s020", "s022"]
    assert [sample.key for shard in shards[5:] for sample in shard.samples] == [sample.key for sample in val]
    assert plan([*train[::-1], *val], 0, 5) == shards
    assert plan([*train, *val], 1, 5) != shards


def test_members_are_plain_ustar_files_side_by_side(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "train-000000.tar", RECORDS)
    assert (shard.file, shard.index, shard.samples) == ("train-000000.tar", "train-000000.idx", 5)
    assert shard.bytes == (tmp_path / shard.file).stat().st_size
    assert shard.sha256 == sha256(tmp_path / shard.file)
    assert shard.index_sha256 == sha256(tmp_path / shard.index)
    with tarfile.open(tmp_path / shard.file) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [
        f"{key}.{extension}" for key, files in RECORDS for extension in sorted(files)
    ]
    assert {(m.type, m.mtime, m.uid, m.gid, m.mode) for m in members} == {(tarfile.REGTYPE, 0, 0, 0, 0o444)}
    assert not any(member.pax_headers for member in members)
    assert (tmp_path / shard.file).read_bytes()[257:265] == b"ustar\x0000"


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a" / "val-000000.tar", RECORDS)
    assert write_shard(tmp_path / "b" / "val-000000.tar", iter(RECORDS)) == first


def test_index_equals_wds2idx(tmp_path: Path) -> None:
    write_shard(tmp_path / "val-000000.tar", RECORDS)
    command = [sys.executable, "-m", "wds2idx", str(tmp_path / "val-000000.tar"), str(tmp_path / "reference.idx")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "val-000000.idx").read_text() == (tmp_path / "reference.idx").read_text()


def test_read_index_finds_every_file(tmp_path: Path) -> None:
    write_shard(tmp_path / "val-000000.tar", RECORDS)
    data = (tmp_path / "val-000000.tar").read_bytes()
    entries = read_index((tmp_path / "val-000000.idx").read_text())
    found = [
        (entry.key, {part.extension: data[part.offset : part.offset + part.size] for part in entry.components})
        for entry in entries
    ]
    assert found == RECORDS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1.1 0\n",
        "v1.2 2\njpg 512 3 a.jpg\n",
        "v1.2 1\njpg 512 a.jpg\n",
        "v1.2 1\njpg 512 3 a.jpg json 9 3 b.json\n",
    ],
)
def test_damaged_indexes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"val\.idx is not a whole DALI index of format v1\.2"):
        read_index(text, "val.idx")


def test_webdataset_reads_shards(tmp_path: Path) -> None:
    write_shard(tmp_path / "val-000000.tar", RECORDS)
    dataset = webdataset.WebDataset(str(tmp_path / "val-000000.tar"), shardshuffle=False)
    read = [(entry["__key__"], {k: v for k, v in entry.items() if not k.startswith("__")}) for entry in dataset]
    assert read == RECORDS


def test_dali_reads_shards(tmp_path: Path) -> None:
    write_shard(tmp_path / "val-000000.tar", RECORDS)

    @pipeline_def(batch_size=5, num_threads=1, device_id=None)
    def graph() -> tuple:
        files = fn.readers.webdataset(
            paths=str(tmp_path / "val-000000.tar"),
            index_paths=str(tmp_path / "val-000000.idx"),
            ext=["jpg", "mask.tif", "json"],
            missing_component_behavior="error",
        )
        return tuple(files)

    pipeline = graph()
    pipeline.build()
    outputs = pipeline.run()
    for number, (_, files) in enumerate(RECORDS):
        for output, extension in zip(outputs, ("jpg", "mask.tif", "json"), strict=True):
            assert np.asarray(output.at(number)).tobytes() == files[extension]


def test_a_failure_leaves_neither_tar_nor_temporary_file(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield RECORDS[0]
        raise UserError("the second image is damaged")

    with pytest.raises(UserError, match="second image"):
        write_shard(tmp_path / "val-000000.tar", broken())
    assert list(tmp_path.iterdir()) == []


def test_a_tar_cut_within_a_file_has_no_index(tmp_path: Path) -> None:
    write_shard(tmp_path / "val-000000.tar", RECORDS)
    last_jpg = read_index((tmp_path / "val-000000.idx").read_text())[-1].components[0]
    whole = (tmp_path / "val-000000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: last_jpg.offset + last_jpg.size - 1])
    with pytest.raises(tarfile.TarError):
        index_text(tmp_path / "cut.tar")
