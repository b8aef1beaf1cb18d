"""Predicting, evaluating and exporting that are asked to stop: results are whole or absent."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from trainings import wait, world

import layouts
import zygote
from checkpoints import write_checkpoint
from fastseg.commands import evaluate, export, predict

Tally = Callable[[str, int, int], None]


def slow_writes() -> None:
    """Every file takes long from its first byte to its name."""
    write = Path.write_bytes

    def slowly(self: Path, data: bytes) -> int:
        write(self, data[: len(data) // 2])
        time.sleep(0.2)
        return write(self, data)

    Path.write_bytes = slowly  # type: ignore[method-assign,assignment]


def slow_export() -> None:
    """The weights take long to write."""
    from fastseg.deploy.export_formats import FORMATS

    format = FORMATS["safetensors"]
    written = format.write

    def slowly(network: object, path: Path, *more: object) -> None:
        path.write_bytes(bytes(1000))
        time.sleep(5)
        written(network, path, *more)  # type: ignore[arg-type]

    FORMATS["safetensors"] = format._replace(write=slowly)  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_predicting(number: signal.Signals, tmp_path: Path, tally: Tally) -> None:
    checkpoint, album, out = write_checkpoint(tmp_path / "ckpt.pt"), tmp_path / "album", tmp_path / "out"
    album.mkdir()
    for i in range(60):
        layouts.noise(i, (64, 48)).save(album / f"{i}.png")
    given = ("fastseg-predict", checkpoint, album, "--out", out, "--device", "cpu", "--threads", 2, "--masks")
    command = zygote.start(predict.main, *given, output=tmp_path / "said", before=slow_writes)
    assert wait(command, lambda: len(list(out.glob("masks/*.png"))) > 3), command.output
    command.send_signal(number)
    assert command.finish(30) == 128 + number, command.output
    assert "Traceback" not in command.output
    files = [path for path in out.rglob("*") if path.is_file()]
    assert 3 < len(files) < 120
    for path in files:
        Image.open(path).load()
    tally(f"{number.name} during prediction", 1, 1)


@pytest.mark.parametrize(
    ("number", "ranks"),
    [
        (signal.SIGTERM, 1),
        (signal.SIGHUP, 1),
        (signal.SIGINT, 1),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow),
    ],
)
def test_saving_predictions(number: signal.Signals, ranks: int, shards: Path, tmp_path: Path, tally: Tally) -> None:
    checkpoint, out = write_checkpoint(tmp_path / "ckpt.pt", shards), tmp_path / "out"
    given = (
        "fastseg-eval",
        checkpoint,
        "--save-predictions",
        out,
        "--split",
        "train",
        "--gpus",
        ranks,
        "--device",
        "cpu",
    )
    jobs = [
        zygote.start(evaluate.main, *given, output=tmp_path / f"said{i}", before=slow_writes, **place)
        for i, place in enumerate(world(ranks) if ranks > 1 else [{}])
    ]
    assert wait(jobs[0], lambda: any(out.glob(".*.tmp"))), jobs[0].output
    for job in jobs:
        job.send_signal(number)
    for job in jobs:
        assert job.finish(60) == 128 + number, job.output
        assert "Traceback" not in job.output
    files = list(out.iterdir())
    assert files
    for path in files:
        assert path.suffix == ".png"
        Image.open(path).load()
    tally(f"{number.name} while predictions are saved", 1, 1)


def test_exporting(tmp_path: Path, tally: Tally) -> None:
    checkpoint, out = write_checkpoint(tmp_path / "ckpt.pt"), tmp_path / "out"
    given = ("fastseg-export", checkpoint, "--to", "safetensors", "--out", out / "weights.safetensors")
    command = zygote.start(export.main, *given, output=tmp_path / "said", before=slow_export)
    assert wait(command, lambda: out.exists() and any(out.iterdir())), command.output
    command.send_signal(signal.SIGTERM)
    assert command.finish(30) == 128 + signal.SIGTERM, command.output
    assert "Traceback" not in command.output
    assert not list(out.iterdir())
    tally("SIGTERM during an export", 1, 1)
