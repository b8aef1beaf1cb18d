"""Runs gone on with in mid-epoch by other ranks or batches, which is proven number by number; or refused as others'."""

import os
import re
import signal
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trainings import EPOCHS, finish, ranks, start

import layouts
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.sources import open_source
from runs import lines, weights

Tally = Callable[[str, int, int], None]
STEP, OLD, NEW = 13, 5, 2
"""Where the run is stopped, and the steps of its epochs before and after: of batches of 2, and of 4."""
BEGUN = STEP * NEW // OLD
"""The step of the new schedule at which the run goes on."""
MOMENTUM_ALONE = ("--optim.clip", 1e-9)
"""Nothing is left of a gradient: every step is that of the momentum and the decay, the same whatever the batch."""
OTHERWISE = {"number of ranks": (), "batch": ("--data.batch", 4)}


def stopped_in_mid_epoch() -> None:
    """The process is asked to stop as its step STEP begins."""
    from fastseg.data.loader import Batch, TrainLoader

    following, batches = TrainLoader.next, [0]

    def next_of(self: TrainLoader) -> Batch:
        batches[0] += 1
        if batches[0] == STEP:
            os.kill(os.getpid(), signal.SIGTERM)
        return following(self)

    TrainLoader.next = next_of  # type: ignore[method-assign]


def noted_batches() -> None:
    """A file named by BATCHES and the rank gets a line for each batch: a number for each of its crops with its mask."""
    from fastseg.data.loader import Batch, TrainLoader

    following, path = TrainLoader.next, os.environ["BATCHES"] + os.environ.get("RANK", "0")

    def next_of(self: TrainLoader) -> Batch:
        batch = following(self)
        pairs = zip(batch.image.numpy(), batch.label.numpy(), strict=True)
        with Path(path).open("a") as file:
            print(*(zlib.crc32(image.tobytes() + label.tobytes()) for image, label in pairs), file=file)
        return batch

    TrainLoader.next = next_of  # type: ignore[method-assign]


def crops(noted: Path) -> list[set[str]]:
    """What the ranks saw in each step, together."""
    files = [path.read_text().splitlines() for path in sorted(noted.parent.glob(f"{noted.name}?"))]
    return [set(" ".join(step).split()) for step in zip(*files, strict=True)]


@pytest.fixture(scope="module")
def stopped(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run on one rank that was stopped in the middle of its third epoch.

    Its best score is put beyond what a later evaluation reaches: it is of another run than those that begin with it.
    """
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    command, path = start(shards, folder, before=stopped_in_mid_epoch), folder / "checkpoints" / "last.pt"
    assert command.finish() == 143, command.output
    saved = weights(path)
    assert (saved["step"], saved["ranks"][0]["loader"]["step"]) == (STEP, STEP % OLD)
    torch.save({**saved, "best": 0.9}, path)
    return path


@pytest.fixture(scope="module")
def third_epoch(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[set[str]]:
    """The crops of each step of the third epoch, as a run sees them that had batches of 4 from the start."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    more = ("--data.batch", 4, "--optim.epochs", 3)
    finish(start(shards, folder, *more, before=noted_batches, BATCHES=str(folder.with_name("noted"))))
    return crops(folder.with_name("noted"))[2 * NEW : 3 * NEW]


def rate(step: int) -> float:
    """The demo recipe's learning rate of a step (from 0) of batches of 4: at its epoch of the schedule."""
    peak, warmup, total = 0.05, round(0.5 * NEW), EPOCHS * NEW
    return peak * (0.01 + 0.99 * (1 - (step - warmup) / (total - warmup)) ** 0.9)


def stepped(saved: dict, rates: list[float]) -> dict[str, dict[str, torch.Tensor]]:
    """Weights, momenta and averaged weights after more steps from a checkpoint in which the gradient is nothing."""
    names = parameters(saved)
    weight, average = ({name: saved[part][name].double() for name in names} for part in ("model", "ema"))
    momentum = momenta(saved)
    decay = {names[i]: group["weight_decay"] for group in saved["optimizer"]["param_groups"] for i in group["params"]}
    for step, lr in enumerate(rates, STEP):
        kept = min(0.9, (1 + step) / (10 + step))
        for name in names:
            momentum[name] = 0.9 * momentum[name] + decay[name] * weight[name]
            weight[name] = weight[name] - lr * momentum[name]
            average[name] = kept * average[name] + (1 - kept) * weight[name]
    return {"model": weight, "momentum": momentum, "ema": average}


def parameters(saved: dict) -> list[str]:
    """The names of the optimizer's parameters by their numbers: those that decay, then norms and biases."""
    names = [name for name in saved["model"] if not re.search("running_|num_batches", name)]
    return sorted(names, key=lambda name: saved["model"][name].ndim <= 1)


def momenta(saved: dict) -> dict[str, torch.Tensor]:
    names, state = parameters(saved), saved["optimizer"]["state"]
    return {names[number]: values["momentum_buffer"].double() for number, values in state.items()}


@pytest.mark.parametrize("change", OTHERWISE)
def test_gone_on_with_otherwise(
    change: str, shards: Path, stopped: Path, third_epoch: list[set[str]], tmp_path: Path, tally: Tally
) -> None:
    """Weights, optimizer and schedule go on; the order of the data is that of the epoch reached, from its start."""
    folder, noted, before = tmp_path / "changed", tmp_path / "noted", weights(stopped)
    more = ("--resume", stopped, *MOMENTUM_ALONE, *OTHERWISE[change])
    how = {"before": noted_batches, "BATCHES": str(noted)}
    two = change == "number of ranks"
    started = ranks(shards, folder, *more, **how) if two else [start(shards, folder, *more, **how)]
    output, *_ = map(finish, started)
    assert f"resuming from {stopped} after epoch 2.6 with other settings: " in output
    assert "the data's order starts anew with that of epoch 3\n" in output

    done = lines(folder, "train")
    assert [line["step"] for line in done] == list(range(STEP + 1, STEP + EPOCHS * NEW - BEGUN + 1))
    assert [line["epoch"] for line in done] == [step / NEW for step in range(BEGUN + 1, EPOCHS * NEW + 1)]
    rates = [rate(step) for step in range(BEGUN, EPOCHS * NEW)]
    assert [line["lr"] for line in done] == pytest.approx(rates)
    assert crops(noted)[:NEW] == third_epoch
    assert len(set.union(*third_epoch)) == 4 * NEW

    saved, expected = weights(folder / "checkpoints" / "last.pt"), stepped(before, rates)
    found = {"model": saved["model"], "momentum": momenta(saved), "ema": saved["ema"]}
    for part, values in expected.items():
        for name, value in values.items():
            assert torch.allclose(found[part][name].double(), value, rtol=1e-4, atol=1e-6), f"{part} {name}"
    best = weights(folder / "checkpoints" / "best.pt")
    assert saved["best"] == best["score"]["miou"] == max(line["miou"] for line in lines(folder, "eval"))
    tally(f"gone on with in mid-epoch by another {change}", 1, 1)


@pytest.mark.parametrize("change", ["data set", "classes", "network"])
def test_another_run_is_refused(change: str, shards: Path, stopped: Path, tmp_path: Path, tally: Tally) -> None:
    other, more = shards, ("--model.arch", "deeplabv3_resnet50") if change == "network" else ()
    if change != "network":
        other = tmp_path / "shards"
        write = layouts.write_cityscapes if change == "data set" else layouts.write_folder_dataset
        pack(open_source(write(tmp_path / "source")), other, PackOptions(samples_per_shard=4), workers=1)
    command = start(other, tmp_path / "refused", "--resume", stopped, *more)
    assert command.finish() == 2, command.output
    what = "number of classes" if change == "classes" else change
    assert re.search(f"last.pt cannot be resumed: its {what} is .*, the run's is ", command.output)
    assert command.output.count("\n") == 1
    assert not (tmp_path / "refused").exists()
    tally(f"--resume asked for with {'other classes' if change == 'classes' else f'another {change}'}: refused", 1, 1)
