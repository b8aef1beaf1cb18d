"""``fastseg-train --breakdown``: the real command on small sets; what its figures say in words."""

import json
from pathlib import Path
from typing import Any

import pytest

import commands
from fastseg.commands.train import _main
from fastseg.errors import UserError
from fastseg.training.breakdown import LOADER, REAL, ROUNDS, WAITING, advice, summarize, tables


@pytest.fixture(scope="module")
def measured(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What the command printed as JSON, and the folder of runs."""
    runs = tmp_path_factory.mktemp("breakdown")
    command = ("fastseg-train", *commands.TINY, "--shards", shards, "--runs", runs, "--device", "cpu")
    done = commands.run(*command, "--breakdown", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    assert "measuring for 0.5 s" in done.stderr
    return json.loads(done.stdout), runs


def test_the_parts_add_up(measured: tuple[dict[str, Any], Path]) -> None:
    document, _ = measured
    windows, found = document["windows"], summarize(document)
    assert {len(rates) for rates in windows["images_per_second"].values()} == {ROUNDS}
    for each, rate in zip(windows["step_ms"], windows["images_per_second"][REAL], strict=True):
        assert sum(each.values()) == pytest.approx(1000 * document["settings"]["images"] / rate, rel=0.01)
    assert {WAITING, "forward and loss", "backward", "optimizer", "average", "other"} <= found.step.keys()
    assert found.step_ms == pytest.approx(1000 * document["settings"]["images"] / found.rate, rel=0.01)
    assert len(found.loader) == 4
    assert sum(found.loader.values()) == pytest.approx(2000 / found.loader_rate, rel=1e-6)
    assert all(ms >= 0 for part in (found.step, found.loader) for ms in part.values())


def test_no_run_is_written(measured: tuple[dict[str, Any], Path]) -> None:
    document, runs = measured
    assert not any(path.is_file() for path in runs.rglob("*"))
    assert document["environment"]["commit"]
    assert document["settings"]["device"] == "cpu"


def test_it_is_shown_as_tables_with_one_sentence(measured: tuple[dict[str, Any], Path]) -> None:
    headline, (step, loader), last = tables(measured[0])
    assert "Headspace: with a loader that costs nothing" in headline
    assert step.rows[-1][0] == "the step"
    assert [row[0] for row in loader.rows][:3] == ["reading and cutting", "decoding images", "decoding masks"]
    assert last.endswith(".")
    assert tables(document(13.0, 60.0))[0].endswith("with a loader that costs nothing 13 images/s, 1.30 times as fast.")
    assert "no faster (0.90 times as fast" in tables(document(9.0, 60.0))[0]


@pytest.mark.parametrize("seconds", ["0", "nan", "1e9"])
def test_nonsense_gets_a_sentence(seconds: str, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", *commands.TINY, "--shards", str(shards), "--breakdown", seconds])
    with pytest.raises(UserError, match=r"--breakdown is .*; it must be above 0 and at most 3600 seconds"):
        _main()


def document(free: float, loader: float, codec: str = "jpg", image: float = 20.0) -> dict[str, Any]:
    """Training at 10 images/s in steps of 4, of which the backward pass takes half."""
    rates = {REAL: 10.0, "free": free, LOADER: loader, "read": 100.0, "image": image, "mask": 80.0}
    step = {WAITING: 100.0, "forward and loss": 90.0, "backward": 200.0, "other": 10.0}
    return {
        "settings": {"images": 4, "image_codec": codec, "cached": False},
        "windows": {"images_per_second": {name: [rate] for name, rate in rates.items()}, "step_ms": [step]},
    }


def test_the_advice_follows_from_the_figures() -> None:
    assert advice(document(10.2, 300.0)).startswith("The network limits training")
    assert "backward takes most" in advice(document(10.2, 300.0))
    bound = advice(document(20.0, 12.0))
    assert bound.startswith("The loader limits training, most of all by decoding images: give it more cores")
    assert "pack the images as JPEGs" in advice(document(20.0, 12.0, codec="png"))
    assert "by augmenting" in advice(document(20.0, 12.0, image=90.0))
    assert advice(document(13.0, 60.0)).startswith("Loader and network want the same cores")


def test_parts_that_overlap_add_up_to_the_whole() -> None:
    found = summarize(document(20.0, 25.0, image=20.0))
    assert sum(found.loader.values()) == pytest.approx(4000 / 25)
    assert found.loader["augmenting, resizing and copying"] == 0
    assert found.headspace == 2.0
