"""Any bytes give our parsers a value or one sentence: never another error, never much memory or time.

``FASTSEG_SOAK=1`` tries a hundred times as many. What was found once lies in ``cases/`` and is tried first.
"""

import copy
import io
import json
import resource
import string
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from soak import SOAK

import layouts
from fastseg.errors import UserError
from fastseg.labels import cityscapes
from fastseg.model import checkpoint
from fastseg.model.weights import read_tensors
from fastseg.packing.classes_json import read_classes
from fastseg.shards.images import encode_jpeg, encode_png, encode_tiff, image_size, read_labels, read_rgb
from fastseg.shards.jpeg_tiles import MAX_PIXELS, cut, find_tiles
from fastseg.shards.manifest import NAME, Manifest, parse_manifest, read_manifest
from fastseg.shards.tar import KEY, add_crc32, find_corrupt, index_text, read_index
from fastseg.shards.verify import _check_description

Tally = Callable[[str, int, int], None]
CASES = Path(__file__).parent / "cases"
EXAMPLES = 20_000 if SOAK else 200
MEMORY = 1 << 30
"""Bytes by which a parser's process may grow over all examples."""

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=5000,  # ms for one example
    derandomize=not SOAK,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
Parser = Callable[[bytes, Path], object]


def classes(data: bytes, folder: Path) -> object:
    (folder / "classes.json").write_bytes(data)
    table = read_classes(folder / "classes.json")
    return table.lookup()


def manifest(data: bytes, folder: Path) -> object:
    (folder / NAME).write_bytes(data)
    found = read_manifest(folder)
    return parse_manifest(json.loads(found.to_json()), NAME) == found


def index(data: bytes, _folder: Path) -> object:
    entries = read_index(data.decode("utf-8", "replace"))
    assert all(KEY.fullmatch(entry.key) for entry in entries)
    assert all(part.offset >= 0 and part.size >= 0 for entry in entries for part in entry.components)
    return entries


def tar(data: bytes, folder: Path) -> object:
    (folder / "x.tar").write_bytes(data)
    try:
        return read_index(index_text(folder / "x.tar"))
    except tarfile.TarError as error:  # which verification puts into its sentence
        raise UserError(f"no whole tar: {error}") from None


def description(data: bytes, _folder: Path) -> object:
    assert find_corrupt("k", data, {}) in (None, "json")
    _check_description(data, "k", (3, 4))
    return None


def tiles(data: bytes, _folder: Path) -> object:
    array = np.frombuffer(data, np.uint8)
    found = find_tiles(array)
    if found is None:
        height, width = image_size(array, "x")
    else:
        height, width = found.height, found.width
        for window in ((0, height, 0, width), (height - 1, height, width - 1, width)):
            assert len(cut(array, found, *window)[0]) <= 2 * len(array)
    assert 0 < height * width <= MAX_PIXELS
    return height, width


def image(data: bytes, _folder: Path) -> object:
    return read_rgb(data, "x")


def mask(data: bytes, _folder: Path) -> object:
    return read_labels(data, "x")


def weights(data: bytes, folder: Path) -> object:
    (folder / "x.pt").write_bytes(data)
    return read_tensors(folder / "x.pt", "checkpoint")


def whole_index() -> bytes:
    lines = [f"jpg {n}512 300 city_{n}.jpg mask.tif {n}1536 7 city_{n}.mask.tif" for n in range(4)]
    return ("v1.2 4\n" + "\n".join(lines) + "\n").encode()


def whole_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("a.jpg", "a.json", "b.jpg", "b.json"):
            member = tarfile.TarInfo(name)
            member.size = 700
            archive.addfile(member, io.BytesIO(bytes(700)))
    return buffer.getvalue()


def whole_weights() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.arange(40.0), "v": torch.ones(2, 3)}, "step": 3}, buffer)
    return buffer.getvalue()


PICTURE = layouts.noise(1, (300, 40))
SEEDS: dict[str, tuple[Parser, Callable[[], list[bytes]]]] = {
    "classes.json": (classes, lambda: [json.dumps(layouts.CLASSES).encode()]),
    "manifest.json": (manifest, lambda: []),  # those of the fixture
    "index": (index, lambda: [whole_index()]),
    "tar": (tar, lambda: [whole_tar()]),
    "description": (description, lambda: [add_crc32({"key": "k", "size": [3, 4]}, {})]),
    "tiles": (tiles, lambda: [encode_jpeg(PICTURE, 50, chroma) for chroma in ("444", "420")]),
    "image": (image, lambda: [encode_jpeg(PICTURE, 50, "444"), encode_png(PICTURE)]),
    "mask": (mask, lambda: [encode_tiff(PICTURE.convert("L")), encode_png(PICTURE.convert("L"))]),
    "weights": (weights, lambda: [whole_weights()]),
}


def survives(parse: Callable[[], object]) -> object:
    """The value, or None after one sentence."""
    try:
        return parse()
    except UserError as error:
        sentence = str(error)
    assert 0 < len(sentence) < 2000
    return None


@st.composite
def mutations(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A whole file with some bytes find_corrupt, left out or put in; or no file at all."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        # Headers decide most, and come first.
        at = draw(st.integers(0, len(data)) | st.integers(0, min(len(data), 700)))
        removed = draw(st.sampled_from([0, 1, 1, 1, 2, 4, len(data)]))
        data[at : at + removed] = draw(st.binary(max_size=4) | st.sampled_from([b"\xff" * 4, b"\0" * 4, b"9" * 30]))
    return bytes(data)


@pytest.mark.parametrize("name", SEEDS)
def test_any_bytes(name: str, tmp_path: Path, shards: Path, tally: Tally) -> None:
    parser, seeds = SEEDS[name]
    whole = seeds() or [(shards / NAME).read_bytes()]
    for data in whole:
        parser(data, tmp_path)
    before, tried = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0

    @fuzz
    @given(mutations(whole) | st.binary(max_size=300))
    def run(data: bytes) -> None:
        nonlocal tried
        tried += 1
        survives(lambda: parser(data, tmp_path))

    run()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY, f"{grown >> 20} MB"
    tally("bytes of any kind in a file that we parse", tried, tried)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(string.printable + "é\ud800\0", max_size=5)
    | st.sampled_from(["jpg", "tif", "../x.tar", "0" * 64, 255, 10**400, "a" * 200]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def altered(draw: st.DrawFn, document: Any) -> Any:
    """A document with some values, wherever in it, replaced by anything or removed."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        inner = document
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(inner[key], (dict, list)) and draw(st.integers(0, 4)):
                inner = inner[key]
                continue
            if isinstance(inner, dict) and not draw(st.integers(0, 4)):
                del inner[key]
            else:
                inner[key] = draw(ANYTHING)
            break
    return document


ODD = (b"x", b"g", b"L", b"K", b"S", b"5", b"a.jpg", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-0000001000", b"7" * 11)
"""Kinds of members, a name, and sizes: negative ones and large ones."""


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A tar of which some headers are odd, with check sums that fit: without those nothing else is looked at."""
    data, blocks = bytearray(whole_tar()), [0, 1536, 3072, 4608]
    for start in draw(st.lists(st.sampled_from(blocks), min_size=1, max_size=3)):
        for _ in range(draw(st.integers(1, 3))):
            at, size = draw(st.sampled_from([(0, 100), (124, 12), (156, 1), (157, 100), (345, 155), (386, 109)]))
            odd = draw(st.sampled_from(ODD) | st.binary(max_size=size))
            data[start + at : start + at + size] = odd[:size].ljust(size, b"\0")
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return bytes(data)


def test_tars_with_any_headers(tmp_path: Path, tally: Tally) -> None:
    tried = 0

    @fuzz
    @given(headers())
    def run(data: bytes) -> None:
        nonlocal tried
        tried += 1
        survives(lambda: tar(data, tmp_path))

    run()
    tally("bytes of any kind in a file that we parse", tried, tried)


def test_manifests_with_any_values(shards: Path, tally: Tally) -> None:
    whole, tried = json.loads((shards / NAME).read_text()), 0

    @fuzz
    @given(altered(whole))
    def run(document: Any) -> None:
        nonlocal tried
        tried += 1
        found = survives(lambda: parse_manifest(document, NAME))
        if isinstance(found, Manifest):
            assert parse_manifest(json.loads(found.to_json()), NAME) == found

    run()
    tally("values of any kind in a manifest or checkpoint", tried, tried)


def test_checkpoints_with_any_values(tally: Tally) -> None:
    tried = 0
    whole = {
        **{"format": checkpoint.FORMAT, "version": checkpoint.VERSION, "step": 3, "shards": "s"},
        **{"arch": "deeplabv3_resnet50", "stretch_to": None, "config": {}, "dataset": {}, "versions": {}},
        **{"model": {"w": torch.zeros(4)}, "ema": None, "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]},
        **{"classes": checkpoint.pack_classes(cityscapes().classes[:3]), "steps_per_epoch": 2, "best": 0.5},
        **{"epoch": 1.5, "images_seen": 6, "origin": None, "best_split": None},
        **{"eval_pending": False, "since_best": 0, "ranks": [{"loader": {"epoch": 0, "step": 1, "rank_local": False}}]},
    }
    checkpoint.check(whole, Path("x.pt"))
    checkpoint.check_progress(whole, Path("x.pt"))

    @fuzz
    @given(altered(whole))
    def run(document: Any) -> None:
        nonlocal tried
        tried += 1
        survives(lambda: checkpoint.check(document, Path("x.pt")))
        if isinstance(document, dict):
            survives(lambda: checkpoint.check_progress(document, Path("x.pt")))

    run()
    tally("values of any kind in a manifest or checkpoint", tried, tried)


@pytest.mark.parametrize("case", sorted(CASES.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_before(case: Path, tmp_path: Path) -> None:
    survives(lambda: SEEDS[case.parent.name][0](case.read_bytes(), tmp_path))
