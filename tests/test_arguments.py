"""Settings as arguments: every leaf by its own name, values of the annotated type, errors without flags."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastseg.arguments import in_arguments, leaves, naming_arguments, with_arguments
from fastseg.config import Config
from fastseg.errors import UserError
from fastseg.interface.packing import Settings
from fastseg.interface.training import RENAMED


def test_every_setting_has_a_name_of_its_own() -> None:
    known = leaves(Config(), RENAMED)
    assert known["optimizer"].path == ("optim", "name")
    assert known["name"].path == ("name",)
    assert known["crop"].path == ("data", "crop")
    assert {"quality", "images", "val_fraction", "mask_values"} <= leaves(Settings()).keys()
    with pytest.raises(ValueError, match=r"optim\.name and name are both called name"):
        leaves(Config())


def test_values_become_pythons_own() -> None:
    given = {"epochs": 3, "crop": [np.int64(64), 96], "runs": "there", "lr": np.float32(0.5), "optimizer": "adamw"}
    config = with_arguments(Config(), {**given, "clip": None, "cache": Path("c")}, RENAMED)
    assert (config.optim.epochs, config.data.crop, config.runs) == (3.0, (64, 96), Path("there"))
    assert (type(config.optim.lr), config.optim.name, config.cache) == (float, "adamw", Path("c"))
    assert type(config.data.crop[0]) is int
    assert with_arguments(Settings(), {"split_file": ["val=a.txt"]}).find.split_file == ("val=a.txt",)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"epoch": 3}, "^epoch is no setting; did you mean epochs?"),
        ({"qqq": 3}, "^qqq is no setting; there are: "),
        ({"epochs": "3"}, "^epochs is '3'; it must be float"),
        ({"crop": 64}, r"^crop is 64; it must be tuple\[int, int\]"),
        ({"batch": 4.5}, "^batch is 4.5; it must be "),
        ({"optimizer": "adam"}, "^optimizer is 'adam'; it must be sgd, adamw"),
        ({"batch": 1}, "^batch is 1; it must be at least 2"),
        ({"momentum": 1.5}, "^momentum is 1.5; it must be from 0"),
        ({"patience": 0}, "^patience is 0; it must be at least 1"),
        ({"max_hours": 0}, "^max_hours is 0.0; it must be more than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict, says: str) -> None:
    with pytest.raises(UserError, match=says), naming_arguments(RENAMED):
        with_arguments(Config(), given, RENAMED)


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ("lower --data.batch or --data.crop", "lower batch or crop"),
        ("train with --data.batch 8 and --data.crop 64 96", "train with batch=8 and crop=(64, 96)"),
        ("use another --name, or --resume never", 'use another name, or resume="never"'),
        ("--data.cache-frames is full; use --data.cache-frames auto or off", None),
        ("see what it is: fastseg-inspect shards --data.crop 64 64", None),
        ("--optim.name is sgd", "optimizer is sgd"),
        ("lower --optim.lr or set --optim.clip and resume", "lower lr or set clip and resume"),
    ],
)
def test_sentences_speak_of_arguments(flags: str, arguments: str | None) -> None:
    if flags.startswith("--data.cache"):
        arguments = 'cache_frames is full; use cache_frames="auto" or off'
    assert in_arguments(flags, RENAMED) == (arguments or flags)


def test_a_script_without_a_guard_packs_by_several_processes(tmp_path: Path) -> None:
    """Workers do not run the script again, as those of multiprocessing would."""
    script = tmp_path / "script.py"
    script.write_text(
        "print('ran')\n"
        "from fastseg.parallel import ordered_map\n"
        "import operator\n"
        "print(list(ordered_map(operator.add, [(i, 1) for i in range(4)], 2)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ran\n[1, 2, 3, 4]\n"
