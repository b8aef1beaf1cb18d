"""What an inspection says is what the loader feeds: crops, their records and windows, shares to the pixel, findings."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from augments import augment_config
from fastseg.config import AugmentConfig
from fastseg.data.augment import Window
from fastseg.data.loader import open_files
from fastseg.data.reader import Reader
from fastseg.inspection.measure import Crop, Inspection, _Tally, findings, inspect, percent, train_crops
from fastseg.inspection.page import caption
from fastseg.labels import IGNORE, SegmentationClass
from fastseg.shards.images import read_labels, read_rgb
from fastseg.shards.manifest import Split, read_manifest
from layouts import reference_crop

FRAME = (64, 96)


def measured(shards: Path, augmentation: AugmentConfig, **options: Any) -> Inspection:
    split = read_manifest(shards).split("train")
    files = open_files(shards, read_manifest(shards), "train")
    return inspect(files, split, augmentation, 19, **{"batch": 11, "crops": 11, **options})


def test_crops_come_from_the_records_and_windows_that_are_named(shards: Path) -> None:
    manifest = read_manifest(shards)
    files = open_files(shards, manifest, "train")
    reader, augmentation = Reader(files), augment_config((48, 48), (0.5, 1.5))
    index_of = {reader.key(index): index for index in range(len(reader))}
    crops = list(islice(train_crops(files, manifest.split("train"), augmentation, 3, 4, 1), 16))
    assert len({crop.key for crop in crops[:8]}) == 8  # an epoch's two steps repeat nothing
    assert len({crop.window.flip for crop in crops}) == 2
    for crop in crops:
        mask = np.asarray(read_labels(reader.read(index_of[crop.key]).mask.tobytes(), "x"))
        np.testing.assert_array_equal(crop.label, reference_crop(mask, crop.window, (48, 48), IGNORE))
        assert crop.frame == FRAME
        assert 0.48 < crop.ratio < 1.53


def test_stretched_frames_are_those_that_pillow_stretches(shards: Path) -> None:
    manifest, size = read_manifest(shards), (50, 91)  # of 64×96; in few places rounding decides between two neighbors
    files, augmentation = open_files(shards, manifest, "train"), augment_config(size, resize="stretch")
    reader, seen = Reader(files), set()
    index_of = {reader.key(index): index for index in range(len(reader))}
    for crop in islice(train_crops(files, manifest.split("train"), augmentation, 3, 4, 1), 12):
        image, mask = (bytes(part) for part in reader.read(index_of[crop.key]))
        pixels = read_rgb(image, "x")[0].resize(size[::-1], Image.Resampling.BILINEAR)
        labels = read_labels(mask, "x").resize(size[::-1], Image.Resampling.NEAREST)
        step = -1 if crop.window.flip else 1
        assert np.abs(crop.image.astype(int)[:, ::step] - np.asarray(pixels)).mean() < 1
        assert (crop.label[:, ::step] == np.asarray(labels)).mean() > 0.93
        seen.add(crop.window.flip)
        assert caption(crop).startswith(f"{crop.key} ×0.78 down, ×0.95 across")
    assert seen == {False, True}
    found = measured(shards, augmentation)
    assert (found.padding, found.seen) == (0, 1)


def test_whole_frames_have_the_shares_of_the_manifest(shards: Path) -> None:
    split = read_manifest(shards).split("train")
    found = measured(shards, augment_config(FRAME, (1.0, 1.0)), show=4, entries=3)
    assert found.pixels == split.pixels
    assert (found.padding, found.seen, found.unlabeled) == (0, 1, 0)
    assert len(found.shown) == 4
    assert [entry.size for entry in found.entries] == [FRAME] * 3
    assert all(entry.image_bytes > 500 and IGNORE in entry.train_ids for entry in found.entries)
    present = np.array(split.pixels) > 0
    assert ((np.array(found.showing) > 0) == present).all()


def test_padding_is_told_from_ignored_pixels(shards: Path) -> None:
    found = measured(shards, augment_config(FRAME, (0.5, 0.5)))
    assert found.padding == 0.75
    assert sum(found.pixels) == 11 * FRAME[0] * FRAME[1] // 4
    whole = read_manifest(shards).split("train").pixels
    assert found.pixels[-1] / sum(found.pixels) == pytest.approx(whole[-1] / sum(whole), abs=0.03)


def test_padding_is_no_ignored_pixel() -> None:
    """Of a padded crop whose frame is labeled throughout."""
    label = np.full((8, 8), IGNORE, np.uint8)
    label[:4, :4] = 3
    tally = _Tally()
    tally.add(Crop("a", (8, 8), Window(0, 8, 0, 8, 4, 4, 0, 0, False), np.zeros((8, 8, 3), np.uint8), label))
    assert (tally.padding, tally.pixels[IGNORE], tally.showing[IGNORE]) == (48, 0, 0)
    assert (tally.pixels[3], tally.showing[3]) == (16, 1)


CLASSES = (SegmentationClass("road", (1, 2, 3)), SegmentationClass("train", (4, 5, 6)))
GOOD = Inspection(
    crops=64,
    pixels=(900, 50, 50),
    showing=(64, 9, 30),
    unlabeled=0,
    padding=0.1,
    seen=0.3,
    shown=(),
    entries=(),
    shift=None,
)
SPLIT = Split((), sizes=((4, 4, 1),), pixels=(99_960, 20, 20))


def test_nothing_stands_out_where_all_is_well() -> None:
    assert findings(GOOD, SPLIT, CLASSES) == []


@pytest.mark.parametrize(
    ("changes", "split", "sentence"),
    [
        ({"showing": (64, 0, 30)}, {}, "class 'train' never appeared in 64 crops; its share in the set is 0.020 %"),
        ({"unlabeled": 16}, {}, "16 of 64 crops show no labeled pixel"),
        ({"pixels": (300, 50, 650)}, {}, "65 % of what the crops show is ignored"),
        ({"padding": 0.4}, {}, "40 % of the crops' pixels are padding"),
        ({"seen": 0.013}, {}, "a crop shows 1.3 % of its frame on average; choose a larger --data.crop"),
        (
            {"shift": (0.02, -0.11)},
            {},
            "shifted against their images by 2.0 % of the height down and 11 % of the width",
        ),
        ({"shift": (-0.05, 0.004)}, {}, "shifted against their images by 5.0 % of the height up; look"),
        ({}, {"sizes": ((4, 4, 1), (5, 4, 1))}, "frames have 2 sizes"),
    ],
)
def test_findings_are_named_in_words(changes: dict, split: dict, sentence: str) -> None:
    found = findings(replace(GOOD, **changes), replace(SPLIT, **split), CLASSES)
    assert len(found) == 1
    assert sentence in found[0]


def test_many_classes_share_a_sentence() -> None:
    classes = (*CLASSES, SegmentationClass("bus", (7, 8, 9)))
    found = replace(GOOD, pixels=(900, 0, 0, 100), showing=(64, 0, 0, 30))
    split = replace(SPLIT, pixels=(99_900, 40, 60, 0))
    words = ["2 classes never appeared in 64 crops, with their shares in the set: 'train' (0.040 %), 'bus' (0.060 %)"]
    assert findings(found, split, classes) == words
    assert findings(found, replace(split, pixels=(9, 0, 0, 0)), classes) == []  # the set's own warnings name them


def test_shares_have_two_digits_that_tell_something() -> None:
    shares = (0, 0.5, 0.104, 0.0314, 0.0002, 1e-9)
    assert [percent(share) for share in shares] == ["0 %", "50 %", "10 %", "3.1 %", "0.020 %", "< 0.0001 %"]
