"""The training command as users type it: alone, as two ranks, and asked for nonsense.

How it is stopped, killed and resumed: tests/faults/test_training.py.
"""

import json
from pathlib import Path

import pytest

import commands
from changes import with_changes
from fastseg.commands.train import _main, parse
from fastseg.config import Config
from fastseg.errors import UserError
from fastseg.recipe_table import RECIPES
from runs import lines, weights


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
        (["--optim.warmup", "-1"], "--optim.warmup is -1"),
        (["--optim.accumulate", "0"], "--optim.accumulate is 0"),
        (["--model.weights", "none", "--model.freeze", "backbone"], "--model.freeze is backbone; it must be none with"),
        (["--seed", "-1"], "--seed is -1"),
        (["--timeout", "1"], "--timeout is 1.0"),
    ],
)
def test_nonsense_gets_a_sentence(flags: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(flags)
    assert says in str(caught.value)


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for flags, says in (
        (["--runs", str(tmp_path / "file")], "--runs is .*/file, which is a file; name a folder"),
        (["--runs", "/proc"], "--runs /proc cannot be written"),
        (["--runs", str(tmp_path), "--name", "file"], "--name is .*/file, which is a file"),
    ):
        monkeypatch.setattr("sys.argv", ["train.py", "--recipe", "demo", "--shards", "nowhere", *flags])
        with pytest.raises(UserError, match=says):
            _main()


@pytest.fixture(scope="module")
def two_ranks(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run folder and the output of the command on two CPU ranks, for 2 epochs of 2 steps."""
    runs = tmp_path_factory.mktemp("runs")
    result = commands.typed(
        *("torchrun", "fastseg/train.py", "--gpus", 2, *commands.TINY, "--shards", shards),
        *("--runs", runs, "--name", "two", "--optim.epochs", 2, "--eval-every", 1),
    )
    assert result.returncode == 0, result.stderr
    return runs / "two", result.stderr


def test_torchrun_with_two_gpus_without_a_gpu(two_ranks: tuple[Path, str]) -> None:
    folder, output = two_ranks
    assert "2 ranks on the CPU, joined by gloo: there is no GPU here" in output
    assert "global batch 4 = 2 × 2, peak learning rate 0.05 = 0.05 × 4 / 4" in output
    steps = lines(folder, "train")
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    assert all(0 <= record["waiting"] <= 1 and record["images_per_second_per_gpu"] > 0 for record in steps)
    evaluations = lines(folder, "eval")
    assert [record["step"] for record in evaluations] == [2, 4]
    assert all(record["images"] == 5 and 0 <= record["miou"] <= 1 for record in evaluations)
    shown = json.loads((folder / "overlays" / "gallery.json").read_text())
    assert [frame["iou"] for frame in shown] == sorted(frame["iou"] for frame in shown)
    assert len(list((folder / "overlays").iterdir())) == 5 * 4 + 1
    assert "<svg" in (folder / "report.html").read_text()
    assert list((folder / "tensorboard").iterdir())
    for name in ("config", "environment", "classes", "confusion"):
        json.loads((folder / f"{name}.json").read_text())
    saved = weights(folder / "checkpoints" / "last.pt")
    assert (saved["step"], len(saved["ranks"]), len(saved["classes"])) == (4, 2, 19)
    assert saved["best"] == max(record["miou"] for record in evaluations)


def test_torchvision_takes_the_checkpoint(two_ranks: tuple[Path, str]) -> None:
    from torchvision.models import get_model

    saved = weights(two_ranks[0] / "checkpoints" / "best.pt")
    network = get_model(saved["arch"], weights=None, weights_backbone=None, num_classes=19, aux_loss=True)
    network.load_state_dict(saved["model"])
    network.load_state_dict(saved["ema"])


def test_a_finished_run_is_not_trained_again(two_ranks: tuple[Path, str], shards: Path) -> None:
    folder, _ = two_ranks
    before = (folder / "metrics.jsonl").read_bytes()
    result = commands.run(
        *("torchrun", "fastseg/train.py", "--gpus", 2, *commands.TINY, "--shards", shards),
        *("--runs", folder.parent, "--name", "two", "--optim.epochs", 2, "--eval-every", 1),
    )
    assert result.returncode == 0, result.stderr
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_other_ranks_go_on_at_the_same_epoch(two_ranks: tuple[Path, str], shards: Path) -> None:
    folder, _ = two_ranks
    result = commands.run(
        *("python", "fastseg/train.py", "--gpus", 1, *commands.TINY, "--shards", shards, "--runs", folder.parent),
        *("--name", "resumed", "--resume", folder / "checkpoints" / "last.pt", "--optim.epochs", "2.5"),
    )
    assert result.returncode == 0, result.stderr
    from_file = f"resuming from {folder / 'checkpoints' / 'last.pt'} after epoch 2.0 with other settings: "
    assert f"{from_file}the data's order starts anew with that of" in result.stderr
    records = [(record["step"], record["epoch"]) for record in lines(folder.parent / "resumed", "train")]
    assert records == [(5, 2.2), (6, 2.4)]  # of 5 steps an epoch, after 2 epochs of 2


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


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--shards", "nowhere"], ["nowhere", "fastseg-pack"]),
        (["--gpus", "4096"], ["--gpus is 4096", "no GPU to use"]),
        (["--device", "cuda"], ["the device is cuda", "no GPU here"]),
        (["--eval-split", "dev"], ["'dev'", "train, val"]),
        (["--eval-split", "test"], ["'test'", "no masks"]),
        (["--resume", "none.pt"], ["none.pt does not exist"]),
        (["--resume", "never", "--max-restarts", "1"], ["--resume is never", "leave one of the two out"]),
        (["--model.weights", "none.pt", "--optim.epochs", "1"], ["none.pt", "no file"]),
        (["--data.batch", "64"], ["11 samples", "--data.batch"]),
    ],
)
def test_what_cannot_be_done_gets_one_sentence(flags: list[str], says: list[str], shards: Path, tmp_path: Path) -> None:
    tiny = (*commands.TINY, "--shards", shards, "--runs", tmp_path)
    commands.refused(commands.run("python", "fastseg/train.py", *tiny, *flags), *says)
    assert not (tmp_path / "demo" / "checkpoints").exists()


def test_help_groups_and_explains() -> None:
    result = commands.run("python", "fastseg/train.py", "--recipe", "camvid", "--help-verbose")
    assert result.returncode == 0
    for words in ("--gpus", "--data.batch", "--model.arch", "--optim.lr", "Example: torchrun", "Recipe camvid"):
        assert words in result.stdout
    assert "Expect: " in result.stdout
    assert "--optim.epochs 600" in commands.run("python", "fastseg/train.py", "--recipe", "camvid", "--help").stdout
