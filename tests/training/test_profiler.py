"""A real profile of a real run, ranges in the code, and what a GPU that is too small says."""

import json
from pathlib import Path

import pytest
import torch
from torch.profiler import profile

import commands
from changes import with_changes
from fastseg.config import Config
from fastseg.data.loader import TrainLoader
from fastseg.distributed.ranks import Ranks
from fastseg.errors import UserError
from fastseg.shards.manifest import read_manifest
from fastseg.training import run
from fastseg.training.profiler import StepProfiler, category_table, span
from fastseg.training.run import build_loaders, build_state
from fastseg.training.step import TrainStep
from fastseg.training.trainer import Trainer

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, 0, 1, CPU)


def trainer_of(config: Config) -> Trainer:
    manifest = read_manifest(config.shards)
    return Trainer(
        config,
        manifest,
        ALONE,
        build_state(config, manifest, ALONE),
        build_loaders(config, manifest, ALONE, None),
        None,
    )


def test_every_millisecond_of_a_real_step_has_a_category(tiny: Config) -> None:
    """The categories add up to the steps' own ranges, which follow each other without a gap worth a name."""
    trainer = trainer_of(with_changes(tiny, optim__epochs=100.0))
    profiler = StepProfiler(tiny.folder / "profile", CPU, 4)
    with_ranges = []
    while not with_ranges or not with_ranges[-1]:
        trainer.advance()
        with_ranges.append(profiler.stepped())
    found = profiler.finish()
    assert len(with_ranges) == 4
    assert (found["steps"], found["plain_step_ms"]) == (2, None)
    total = sum(row["ms"] for row in found["categories"])
    assert total == pytest.approx(found["step_ms"], rel=1e-6)
    categories = {row["category"]: row["share"] for row in found["categories"]}
    assert {"convolution, forward", "convolution, backward", "batch norm", "optimizer", "average"} <= categories.keys()
    assert {"data", "loss", "upsampling"} <= categories.keys()
    assert categories["other"] < 0.5
    ranges = step_ranges(tiny.folder / "profile" / "trace.json.gz")
    assert sum(ranges) / len(ranges) == pytest.approx(total, rel=0.05)


def step_ranges(trace: Path) -> list[float]:
    import gzip

    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    return [e["dur"] / 1000 for e in events if e.get("cat") == "user_annotation" and e["name"] == "step"]


@pytest.mark.parametrize(("left", "profiled"), [(1, 1), (2, 1), (7, 4), (30, 5)])
def test_short_runs_are_profiled_too(left: int, profiled: int, tmp_path: Path) -> None:
    profiler = StepProfiler(tmp_path, CPU, left)
    for _ in range(left):
        with span("step"):
            torch.ones(8).sum()
        if profiler.stepped():
            break
    found = profiler.finish()
    assert found["steps"] == profiled
    assert (found["plain_step_ms"] is not None) == (left == 30)


def test_a_profile_that_is_cut_short_holds_what_was_seen(tmp_path: Path) -> None:
    profiler = StepProfiler(tmp_path, CPU, 20)
    for _ in range(12):
        assert not profiler.recording
        with span("step"):
            torch.ones(8).sum()
        assert not profiler.stepped()
        if profiler.recording:
            break
    assert profiler.finish()["steps"] == 1


def test_a_profile_begins_when_all_frames_are_cached(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or halfway through the run, where that comes first."""
    monkeypatch.setattr("fastseg.training.trainer.StepProfiler", lambda _folder, _device, left: left)
    for cached_at, begins in ((30, 30), (80, 50)):
        trainer = trainer_of(tiny)
        trainer.profile_wanted, trainer.total, trainer.halfway = True, 100, 50
        for trainer.state.step in range(100):
            monkeypatch.setattr(TrainLoader, "filling", trainer.state.step < cached_at)
            trainer.start_profile()
            if trainer.profiler is not None:
                break
        assert trainer.state.step == begins
        assert trainer.profiler == 100 - begins


def test_ranges_are_in_a_trace_and_let_errors_through() -> None:
    @span("outer")
    def wrong() -> None:
        with span("inner"):
            raise ValueError("x")

    with profile() as seen, pytest.raises(ValueError, match="x"):
        wrong()
    assert {"outer", "inner"} <= {event.name for event in seen.events()}


def test_the_table_holds_what_was_measured() -> None:
    categories = [
        {"category": "loss", "ms": 1.5, "share": 0.75, "hidden_ms": 0.0},
        {"category": "data", "ms": 0.5, "share": 0.25, "hidden_ms": 0.125},
    ]
    step = {"step_ms": 2.0, "plain_step_ms": 1.9, "steps": 5, "categories": categories, "device": "gpu"}
    first = category_table(step)
    assert "2 ms" in first.title
    assert "1.9" in first.title
    assert first.columns == ("category", "ms", "share", "hidden ms")
    assert first.rows[1] == ("data", "0.50", "25.0 %", "0.12")
    assert first.rows[-1][1] == "2.00"


@pytest.mark.parametrize(
    ("evaluating", "says"), [(False, "--data.batch 4 and --data.crop 64 64"), (True, "eval-batch")]
)
def test_a_gpu_that_is_too_small_gets_a_sentence(
    evaluating: bool, says: str, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole session, in which torch's own error comes out of a step, or of the network in an evaluation."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    if evaluating:
        monkeypatch.setattr("fastseg.training.trainer.evaluate", lambda *_args, **_more: full())
    else:
        monkeypatch.setattr(TrainStep, "__call__", full)
    with pytest.raises(UserError, match=r"GiB of memory are too little to") as caught:
        run.train(with_changes(tiny, optim__warmup=0.0, optim__epochs=0.5), read_manifest(tiny.shards), ALONE)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gpus", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_train_with_profile(gpus: int, shards: Path, tmp_path: Path) -> None:
    result = commands.run(
        *("torchrun", "fastseg/train.py", "--profile", "--gpus", gpus, *commands.TINY, "--shards", shards),
        *("--runs", tmp_path, "--name", "x", "--optim.epochs", "3.2" if gpus == 1 else "8"),  # 16 steps
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "x" / "profile"
    document = json.loads((folder / "profile.json").read_text())
    assert document["environment"]["torch"] == torch.__version__.split("+")[0]
    assert (document["settings"]["ranks"], document["settings"]["compile"]) == (gpus, False)
    assert document["step"]["steps"] == len(step_ranges(folder / "trace.json.gz")) == 5
    assert sum(row["ms"] for row in document["step"]["categories"]) == pytest.approx(document["step"]["step_ms"])
    table = category_table(document["step"])
    assert table.title in result.stderr
    assert all(row[0] in result.stderr for row in table.rows)
    assert "finished; the report is" in result.stderr
    lines = [json.loads(line) for line in (tmp_path / "x" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["tflops"] > 0 and "mfu" not in line for line in lines if line["event"] == "train")
