"""The training command as users type it: alone, as two ranks, stopped and resumed, and asked for nonsense."""

import json
import signal
import subprocess
import time
from pathlib import Path

import commands
import pytest
import torch
from conftest import with_changes

from fastseg.config import Config
from fastseg.errors import UserError
from fastseg.recipes import RECIPES
from fastseg.train import parse


def lines(folder: Path, event: str) -> list[dict]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == event]


def weights(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_equal(one: object, other: object, where: str = "") -> None:
    """Equal bit for bit, however deep."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}[{i}]")
    else:
        assert one == other, where


def test_flags_override_the_recipe() -> None:
    launch, config = parse(["--recipe", "camvid", "--gpus", "2", "--data.batch", "4", "--optim.clip", "None"])
    assert launch.gpus == 2
    assert config == with_changes(RECIPES["camvid"](), data__batch=4, optim__clip=None)
    assert parse([])[1] == RECIPES["cityscapes"]() == Config()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_promise_something(name: str) -> None:
    assert "Expect: " in (RECIPES[name].__doc__ or "")
    assert parse([f"--recipe={name}"])[1] == RECIPES[name]()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--recipe", "nope"], "--recipe is 'nope'; it must be one of: cityscapes"),
        (["--data.batch", "1"], "--data.batch is 1"),
        (["--data.crop", "8", "64"], "--data.crop is (8, 64)"),
        (["--optim.lr", "-1"], "--optim.lr is -1.0"),
        (["--name", "../x"], "--name is '../x'"),
        (["--optim.warmup", "300"], "--optim.warmup is 300"),
        (["--seed", "-1"], "--seed is -1"),
    ],
)
def test_nonsense_gets_a_sentence(flags: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(flags)
    assert says in str(caught.value)


@pytest.fixture(scope="module")
def two_ranks(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run folder and the output of the command on two CPU ranks, for 2 epochs of 2 steps."""
    runs = tmp_path_factory.mktemp("runs")
    result = commands.run(
        *("torchrun", "fastseg/train.py", "--gpus", 2, *commands.TINY, "--shards", shards),
        *("--runs", runs, "--name", "two", "--optim.epochs", 2, "--eval-every", 1),
    )
    assert result.returncode == 0, result.stderr
    return runs / "two", result.stderr


@pytest.mark.slow
def test_torchrun_with_two_gpus_without_a_gpu(two_ranks: tuple[Path, str]) -> None:
    folder, output = two_ranks
    assert "2 ranks on the CPU, joined by gloo: there is no GPU here" in output
    assert "global batch 4 = 2 × 2, peak learning rate 0.05 = 0.05 × 4 / 4" in output
    steps = lines(folder, "train")
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    assert all(0 <= record["waiting"] <= 1 and record["images_per_second"] > 0 for record in steps)
    evaluations = lines(folder, "eval")
    assert [record["step"] for record in evaluations] == [2, 4]
    assert all(record["images"] == 5 and 0 <= record["miou"] <= 1 for record in evaluations)
    assert len(list((folder / "overlays").glob("*.jpg"))) == 5
    assert "<svg" in (folder / "report.html").read_text()
    assert list((folder / "tensorboard").iterdir())
    for name in ("config", "environment", "classes", "confusion"):
        json.loads((folder / f"{name}.json").read_text())
    saved = weights(folder / "checkpoints" / "last.pt")
    assert (saved["step"], len(saved["ranks"]), len(saved["classes"])) == (4, 2, 19)
    assert saved["best"] == max(record["miou"] for record in evaluations)


@pytest.mark.slow
def test_torchvision_takes_the_checkpoint(two_ranks: tuple[Path, str]) -> None:
    from torchvision.models import get_model

    saved = weights(two_ranks[0] / "checkpoints" / "best.pt")
    network = get_model(saved["arch"], weights=None, weights_backbone=None, num_classes=19, aux_loss=True)
    network.load_state_dict(saved["model"])
    network.load_state_dict(saved["ema"])


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(two_ranks: tuple[Path, str], shards: Path) -> None:
    folder, _ = two_ranks
    before = (folder / "metrics.jsonl").read_bytes()
    result = commands.run(
        *("torchrun", "fastseg/train.py", "--gpus", 2, *commands.TINY, "--shards", shards),
        *("--runs", folder.parent, "--name", "two", "--optim.epochs", 2, "--eval-every", 1),
    )
    assert result.returncode == 0, result.stderr
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_other_ranks_go_on_at_the_same_epoch(two_ranks: tuple[Path, str], shards: Path) -> None:
    folder, _ = two_ranks
    result = commands.run(
        *("python", "fastseg/train.py", "--gpus", 1, *commands.TINY, "--shards", shards, "--runs", folder.parent),
        *("--name", "resumed", "--resume", folder / "checkpoints" / "last.pt", "--optim.epochs", "2.5"),
    )
    assert result.returncode == 0, result.stderr
    assert "going on after epoch 2.0 with other settings: the data's order starts anew" in result.stderr
    assert [record["step"] for record in lines(folder.parent / "resumed", "train")] == [11, 12]


def stop_after(process: subprocess.Popen[str], metrics: Path, count: int) -> str:
    """SIGTERM, twice as batch systems send it, once ``count`` lines are written; returns the output."""
    deadline = time.monotonic() + 200
    while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    return process.communicate(timeout=60)[0]


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 2])
def test_a_stopped_run_resumes_bit_for_bit(gpus: int, shards: Path, tmp_path: Path) -> None:
    command = ("python", "fastseg/train.py", "--gpus", gpus, *commands.TINY, "--shards", shards, "--runs", tmp_path)
    command = (*command, "--optim.epochs", 5, "--eval-every", 2)
    unbroken = commands.run(*command, "--name", "unbroken")
    assert unbroken.returncode == 0, unbroken.stderr

    process = commands.start(*command, "--name", "broken")
    output = stop_after(process, tmp_path / "broken" / "metrics.jsonl", 3)
    assert process.returncode == 143, output
    stopped = weights(tmp_path / "broken" / "checkpoints" / "last.pt")["step"]
    total = 5 * (11 // gpus // 2)
    assert 3 <= stopped < total, output
    assert f"stopped at step {stopped} of {total}; the same command goes on from there" in output

    resumed = commands.run(*command, "--name", "broken")
    assert resumed.returncode == 0, resumed.stderr
    assert f"going on after step {stopped}" in resumed.stderr
    one, other = (weights(tmp_path / name / "checkpoints" / "last.pt") for name in ("unbroken", "broken"))
    for part in ("model", "ema", "optimizer", "ranks", "step", "best"):
        assert_equal(one[part], other[part], part)
    for event, values in (("train", ("step", "loss", "lr")), ("eval", ("step", "miou", "classes"))):
        first, second = (lines(tmp_path / name, event) for name in ("unbroken", "broken"))
        assert [[r[v] for v in values] for r in first] == [[r[v] for v in values] for r in second]


@pytest.mark.slow
def test_a_signal_to_torchrun_reaches_the_run(shards: Path, tmp_path: Path) -> None:
    command = ("torchrun", "fastseg/train.py", "--gpus", 1, *commands.TINY, "--shards", shards, "--runs", tmp_path)
    process = commands.start(*command, "--optim.epochs", 20)
    output = stop_after(process, tmp_path / "demo" / "metrics.jsonl", 1)
    assert process.returncode != 0
    assert "stopped at step" in output
    assert (tmp_path / "demo" / "checkpoints" / "last.pt").exists()


@pytest.mark.slow
def test_ranks_of_torchrun_and_a_loss_that_explodes(shards: Path, tmp_path: Path) -> None:
    """Both ranks stop on the same step; what was saved before stays."""
    result = commands.run(
        *("torchrun", "--nproc-per-node", 2, "fastseg/train.py", *commands.TINY, "--shards", shards),
        *("--runs", tmp_path, "--name", "x", "--optim.epochs", 20, "--optim.lr", "1e30", "--optim.clip", "None"),
        *("--save-every", "0.5", "--optim.warmup", "0"),
    )
    assert result.returncode != 0
    sentences = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, result.stderr
    assert "the weights were left as they were" in sentences[0]
    assert "--optim.lr" in sentences[0]
    saved = weights(tmp_path / "x" / "checkpoints" / "last.pt")
    assert f"at step {saved['step']} " not in sentences[0]
    for value in (*saved["model"].values(), *saved["ema"].values()):
        assert value.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--shards", "nowhere"], ["nowhere", "tools/make_shards.py"]),
        (["--gpus", "4096"], ["--gpus is 4096", "no GPU to use"]),
        (["--device", "cuda"], ["--device is cuda", "no GPU"]),
        (["--eval-split", "dev"], ["'dev'", "train, val"]),
        (["--eval-split", "test"], ["'test'", "no masks"]),
        (["--resume", "none.pt"], ["none.pt does not exist"]),
        (["--model.weights", "none.pt", "--optim.epochs", "1"], ["none.pt", "no file"]),
        (["--data.batch", "64"], ["11 samples", "--data.batch"]),
    ],
)
def test_what_cannot_be_done_gets_one_sentence(flags: list[str], says: list[str], shards: Path, tmp_path: Path) -> None:
    tiny = (*commands.TINY, "--shards", shards, "--runs", tmp_path)
    commands.refused(commands.run("python", "fastseg/train.py", *tiny, *flags), *says)
    assert not (tmp_path / "demo" / "checkpoints").exists()


@pytest.mark.slow
def test_help_groups_and_explains() -> None:
    result = commands.run("python", "fastseg/train.py", "--help")
    assert result.returncode == 0
    for words in ("--gpus", "--data.batch", "--model.arch", "--optim.lr", "Example: torchrun", "Recipe cityscapes"):
        assert words in result.stdout
    assert "Expect: " in commands.run("python", "fastseg/train.py", "--recipe", "camvid", "--help").stdout
