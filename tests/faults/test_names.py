"""Whatever the files of a data set are called: their records' keys are plain and unique, or one sentence refuses."""

import os
import re
import shutil
import string
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from test_fuzz import fuzz, survives

import layouts
from fastseg.packing.sources import DataSet, open_source
from fastseg.shards.tar import SPLITS

Tally = Callable[[str, int, int], None]
ENDINGS = {"leftImg8bit": "_leftImg8bit.png", "gtFine": "_gtFine_labelIds.png"}
PLAIN = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=100)
# Letters whose lower case is ASCII or longer, parts of paths, ends of lines, what looks like a digit.
ODD = st.text("aA/\\.\n\0 \u212a\u0130\u0661\u200b~$'", max_size=5) | st.text(max_size=12)
MEMBERS = ODD.filter(lambda name: not name.startswith("\0") and name)  # zipfile writes no name without a letter
NAMES = st.lists(PLAIN | ODD, min_size=1, max_size=4)


def well_named(place: Path) -> bool:
    """Whether the set was taken; its keys are checked."""
    source = survives(lambda: open_source(place))
    if not isinstance(source, DataSet):
        return False
    keys = [(sample.split, sample.key) for sample in source.samples]
    assert len(set(keys)) == len(keys)
    assert all(split in SPLITS and re.fullmatch(r"[a-z0-9_-]{1,90}", key, re.ASCII) for split, key in keys)
    return True


def test_any_names_in_zips(tmp_path: Path, tally: Tally) -> None:
    tried = taken = 0

    @fuzz
    @given(NAMES, st.sampled_from(SPLITS), st.lists(MEMBERS, max_size=2))
    def run(stems: list[str], split: str, others: list[str]) -> None:
        nonlocal tried, taken
        for package, ending in ENDINGS.items():
            with zipfile.ZipFile(tmp_path / f"{package}_trainvaltest.zip", "w") as archive, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that are there twice
                for name in [f"{package}/{split}/city/{stem}{ending}" for stem in stems] + others:
                    archive.writestr(name, b"")
        tried += 1
        taken += well_named(tmp_path)

    run()
    tally("files of a data set with any names", tried, tried)
    assert 0 < taken < tried


def test_any_names_in_folders(tmp_path: Path, tally: Tally) -> None:
    """Names are bytes there."""
    tried = taken = 0
    any_bytes = st.lists(PLAIN.map(str.encode) | st.binary(min_size=1, max_size=12), min_size=1, max_size=4)

    @fuzz
    @given(any_bytes)
    def run(stems: list[bytes]) -> None:
        nonlocal tried, taken
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        layouts.write_folder_dataset(tmp_path / "set", train=0, val=0)
        for kind in ("images", "masks"):
            folder = tmp_path / "set" / "train" / kind
            folder.mkdir(parents=True)
            for stem in stems:
                (folder / os.fsdecode(stem.translate(None, b"/\0") + b".png")).touch()
        tried += 1
        taken += well_named(tmp_path / "set")

    run()
    tally("files of a data set with any names", tried, tried)
    assert 0 < taken < tried
