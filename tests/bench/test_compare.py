"""What bench/compare.py calls slower, faster or noise, on made-up windows, and the command as a user types it."""

import subprocess
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import commands
from bench.compare import compare
from bench.runner.results import Results, Row

STEADY = (100.0, 101.0, 99.0, 100.5, 99.5)


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (STEADY, "within noise"),
        (tuple(0.9 * rate for rate in STEADY), "slower"),
        (tuple(1.1 * rate for rate in STEADY), "faster"),
        (tuple(0.975 * rate for rate in STEADY), "within noise"),  # Apart, but by less than runs differ anyway.
        ((90.0, 70.0, 120.0, 80.0, 101.2), "within noise"),  # The median is far lower, the windows wild.
    ],
)
def test_verdicts(after: tuple[float, ...], verdict: str) -> None:
    change = compare(STEADY, after)
    assert change.verdict == verdict
    assert change.ratio == pytest.approx(np.median(after) / 100)
    assert change.low <= change.ratio <= change.high


def test_three_windows_prove_nothing() -> None:
    """Of the 20 ways to deal six windows out, two are as extreme as the clearest: p = 0.1."""
    change = compare((100.0, 100.5, 101.0), (50.0, 50.5, 51.0))
    assert change.p == pytest.approx(0.1)
    assert change.verdict == "within noise"


def test_the_same_runs_give_the_same_verdict() -> None:
    assert compare(STEADY, (97.0, 96.0, 99.2, 95.0, 98.0)) == compare(STEADY, (97.0, 96.0, 99.2, 95.0, 98.0))


def test_the_rank_test_counts_pairs() -> None:
    """Against Mann–Whitney's U counted pair by pair over all ways to deal out the values."""
    values = [1.0, 2.0, 2.5, 3.0, 5.0, 5.5, 8.0, 9.0]

    def u(hand: tuple[int, ...]) -> float:
        others = [i for i in range(len(values)) if i not in hand]
        return sum(values[i] > values[j] for i in hand for j in others)

    for hand in ((0, 1, 2, 4), (0, 2, 5, 7), (4, 5, 6, 7)):
        distances = [abs(u(other) - 8) for other in combinations(range(8), 4)]
        expected = np.mean([distance >= abs(u(hand) - 8) for distance in distances])
        rest = [i for i in range(8) if i not in hand]
        a, b = (tuple(values[i] for i in part) for part in (hand, rest))
        assert compare(a, b).p == pytest.approx(expected)


def _row(name: str, windows: tuple[float, ...], **settings: object) -> Row:
    return Row("loader", name, "images/s", settings, windows)


def _compare(folder: Path, before: Results, after: Results) -> subprocess.CompletedProcess[str]:
    before.write(folder / "before.json")
    after.write(folder / "after.json")
    return commands.run(commands.BIN / "python", "bench/compare.py", folder / "before.json", folder / "after.json")


BEFORE = Results(
    {"processor": "A", "torch": "2.11"},
    {},
    (_row("fastseg", STEADY, threads=2), _row("notebook", STEADY), _row("x", STEADY)),
)


def test_slower_is_exit_code_1(tmp_path: Path) -> None:
    slow = tuple(0.8 * rate for rate in STEADY)
    after = Results(
        {"processor": "B", "torch": "2.12"}, {}, (_row("fastseg", slow, threads=4), _row("notebook", STEADY))
    )
    done = _compare(tmp_path, BEFORE, after)
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stdout.split())
    assert "slower beyond noise: fastseg" in said
    assert "-20.0 %" in said
    assert "note: processor was A and is B" in said
    assert "note: torch was 2.11 and is 2.12" in said
    assert "note: loader, fastseg had other settings: threads 2 → 4" in said
    assert "note: loader, x was measured only before" in said


def test_a_slower_peer_is_none_of_our_business(tmp_path: Path) -> None:
    rows = (_row("fastseg", STEADY), _row("notebook", tuple(0.5 * rate for rate in STEADY)))
    done = _compare(tmp_path, BEFORE, replace(BEFORE, results=rows))
    assert done.returncode == 0, done.stderr
    assert "no entry of fastseg got slower beyond noise" in done.stdout
    assert done.stdout.count("slower") == 2  # The notebook project's row, and the last line.


def test_parts_and_fastseg_without_a_part_do_not_count(tmp_path: Path) -> None:
    names = ("fastseg: reading", "fastseg without compile", "fastseg with ASPP as one product")
    before = replace(BEFORE, results=tuple(_row(name, STEADY) for name in names))
    after = replace(BEFORE, results=tuple(_row(name, tuple(0.5 * rate for rate in STEADY)) for name in names))
    done = _compare(tmp_path, before, after)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("-50.0 %") == len(names) + done.stdout.count("-50.0 % to")
    assert "no entry of fastseg got slower beyond noise" in done.stdout
    assert "note: " not in done.stdout


def test_other_settings_do_not_count(tmp_path: Path) -> None:
    """Of a run with --settings, what stands beside them does."""
    swept = replace(BEFORE, settings={"options": {"settings": True}})
    slow = tuple(0.5 * rate for rate in STEADY)
    before = replace(swept, results=tuple(_row(name, STEADY) for name in ("fastseg", "fastseg, 1 threads")))
    done = _compare(
        tmp_path, before, replace(swept, results=(_row("fastseg", STEADY), _row("fastseg, 1 threads", slow)))
    )
    assert done.returncode == 0, done.stderr
    assert "-50.0 %" in done.stdout
    done = _compare(tmp_path, before, replace(swept, results=(_row("fastseg", slow),)))
    assert done.returncode == 1, done.stderr
    assert "slower beyond noise: fastseg\n" in done.stdout


def test_too_few_windows_are_said(tmp_path: Path) -> None:
    done = _compare(tmp_path, BEFORE, replace(BEFORE, results=(_row("fastseg", STEADY[:3], threads=2),)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("with fewer than 4 nothing can be called slower") == 1


def test_a_file_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    BEFORE.write(tmp_path / "before.json")
    done = commands.run(commands.BIN / "python", "bench/compare.py", tmp_path / "before.json", tmp_path / "no.json")
    commands.refused(done, "no.json cannot be read: No such file or directory; name a file that holds results of")
