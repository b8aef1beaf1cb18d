"""Going on from a checkpoint under other settings, in this process."""

import math
import shutil
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

import runs
from changes import with_changes
from fastseg.config import Config
from fastseg.data.decoder_probe import DecoderChoice
from fastseg.data.loader import EvalLoader, TrainLoader
from fastseg.distributed.ranks import Ranks
from fastseg.errors import UserError
from fastseg.labels import SegmentationClass, cityscapes
from fastseg.model import checkpoint
from fastseg.shards.manifest import read_manifest
from fastseg.training import run
from fastseg.training.run import build_loaders, build_state, nothing_left
from fastseg.training.run_log import RunLog
from fastseg.training.state import RunState, checkpoint_path, constant_fields, find_checkpoint
from fastseg.training.trainer import Trainer

TRAM = SegmentationClass("tram", (1, 2, 3))
ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))


@pytest.fixture
def stopped(tiny: Config) -> Config:
    """A run of two steps, one epoch, of which a checkpoint is left."""
    manifest = read_manifest(tiny.shards)
    state = build_state(tiny, manifest, ALONE)
    trainer = Trainer(tiny, manifest, ALONE, state, build_loaders(tiny, manifest, ALONE, None), None)
    for _ in range(2):
        batch = trainer.loader.next()
        state.train_step(batch.image, batch.label, 0.01)
        state.step += 1
    state.epoch, state.images_seen = 1.0, 8
    with trainer.writer:
        trainer.save(state.statistics())
    return tiny


def resume(config: Config) -> tuple[RunState, list[str]]:
    manifest = read_manifest(config.shards)
    saved = find_checkpoint(config, manifest)
    state = build_state(config, manifest, ALONE, resumed=saved is not None)
    loaders, said = run.resume(config, manifest, ALONE, state, saved)
    loaders[0].next()
    assert loaders[0].state()["epoch"] == 1  # counted from 0: the first is done
    return state, said


def train(config: Config) -> None:
    """Train as the command does."""
    manifest = read_manifest(config.shards)
    run.train(config, manifest, ALONE, run.check(config, manifest, "cpu"))


def test_the_same_settings_go_on_exactly(stopped: Config) -> None:
    state, said = resume(with_changes(stopped, data__prefetch=1, optim__epochs=5.0))
    assert said == [
        f"resuming from {stopped.folder}/checkpoints/last.pt after step 2",
        "settings that changed: --data.prefetch 2 → 1, --optim.epochs 2 → 5",
    ]
    assert state.step == 2


def test_a_batch_in_parts_goes_on_exactly(stopped: Config) -> None:
    """And needs no word: order, schedule and, but for batch norm, every step are the same."""
    parts = with_changes(stopped, data__batch=2, optim__accumulate=2)
    run.check(parts, read_manifest(parts.shards), "cpu")
    state, said = resume(parts)
    assert said[0].endswith("last.pt after step 2")
    assert state.step == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data__hue": 0.0, "data__contrast": 0.0}, "--data.contrast 0.4 → 0, --data.hue 25 → 0"),
        ({"data__crop": (48, 64)}, "--data.crop 64 64 → 48 64"),
        ({"data__batch": 2}, "--data.batch 4 → 2"),
        ({"optim__accumulate": 2}, "--optim.accumulate 1 → 2"),
        ({"seed": 5}, "--seed 0 → 5"),
    ],
    ids=["augmentation", "crop", "batch", "accumulated", "seed"],
)
def test_other_batches_start_the_data_anew(stopped: Config, change: dict, says: str) -> None:
    state, said = resume(with_changes(stopped, **change))
    path = stopped.folder / "checkpoints" / "last.pt"
    anew = "the data's order starts anew with that of epoch 2"
    assert said == [
        f"resuming from {path} after epoch 1.0 with other settings: {anew}",
        f"settings that changed: {says}",
    ]
    assert (state.step, state.epoch, state.images_seen) == (2, 1.0, 8)  # whatever the steps of an epoch from here on


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optim__lr": 0.5, "optim__epochs": 3.0}, "--optim.epochs 2 → 3, --optim.lr 0.01 → 0.5"),
        ({"data__batch": 2}, "--data.batch 4 → 2"),
        ({"data__hue": 0.0}, "--data.hue 25 → 0"),
        ({"seed": 1}, "--seed 0 → 1"),
        ({"optim__clip": 1.0}, "--optim.clip None → 1"),
        ({"train_split": "val"}, "--train-split train → val"),
    ],
)
def test_what_changes_a_run_has_to_be_confirmed(stopped: Config, change: dict[str, Any], says: str) -> None:
    """By --resume changed; a new name that takes the checkpoint confirms it too. Nothing is lost by the question."""
    changed, manifest = with_changes(stopped, **change, log_every=7), read_manifest(stopped.shards)
    before = {path: path.stat().st_mtime_ns for path in stopped.folder.rglob("*")}
    with pytest.raises(UserError) as caught:
        run.check(changed, manifest, "cpu")
    assert str(caught.value) == (
        f"{stopped.folder} was trained with other settings: {says}; confirm them with --resume changed, or choose "
        "another --name"
    )
    assert {path: path.stat().st_mtime_ns for path in stopped.folder.rglob("*")} == before
    last = str(stopped.folder / "checkpoints" / "last.pt")
    for confirmed in (with_changes(changed, resume="changed"), with_changes(changed, name="new", resume=last)):
        saved = run.check(confirmed, manifest, "cpu")
        assert saved
        assert saved["step"] == 2


def test_what_changes_no_step_is_only_listed(stopped: Config) -> None:
    more = {"data__threads": 2, "data__prefetch": 3, "eval_every": 3.0, "model__precision": "bf16", "timeout": 60.0}
    changed, manifest = with_changes(stopped, log_every=7, **more), read_manifest(stopped.shards)
    saved = run.check(changed, manifest, "cpu")
    assert saved
    assert run.list_changes(changed, ALONE, saved) == [
        "settings that changed: --eval-every 100 → 3, --log-every 1 → 7, --data.threads 1 → 2, --data.prefetch 2 → 3, "
        "--model.precision auto → bf16"
    ]
    two = Ranks(0, 2, 0, 2, torch.device("cpu"))
    assert run.list_changes(stopped, two, saved) == ["settings that changed: ranks 1 → 2"]
    assert run.list_changes(with_changes(stopped, data__batch="auto"), ALONE, saved) == []


def test_settings_changed_of_a_run_that_is_not_there_begin_it(tiny: Config) -> None:
    assert run.check(with_changes(tiny, resume="changed"), read_manifest(tiny.shards), "cpu") is None


def test_the_optimisers_settings_are_the_configurations(stopped: Config) -> None:
    state, _ = resume(with_changes(stopped, optim__momentum=0.5, optim__weight_decay=0.05))
    assert {group["momentum"] for group in state.train_step.optimizer.param_groups} == {0.5}
    assert {group["weight_decay"] for group in state.train_step.optimizer.param_groups} == {0.0, 0.05}


def test_the_average_may_be_switched_off_and_on(stopped: Config) -> None:
    state, said = resume(with_changes(stopped, optim__ema=None))
    assert state.average is None
    assert said[0] == f"resuming from {stopped.folder}/checkpoints/last.pt after step 2"
    manifest, without = read_manifest(stopped.shards), with_changes(stopped, optim__ema=None)
    loaders = build_loaders(without, manifest, ALONE, None)
    Trainer(without, manifest, ALONE, state, loaders, None).save(state.statistics())
    again = build_state(stopped, manifest, ALONE, resumed=True)
    saved = find_checkpoint(stopped, manifest)
    assert saved
    again.restore(saved, stopped)
    again.restore_rank(saved, ALONE)
    assert again.average
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, state.model.state_dict()[name])


def test_memory_order_may_change(stopped: Config) -> None:
    """The fused optimizers read weights, gradients and momentum side by side, whatever their strides say."""
    one, other = resume(stopped)[0], resume(with_changes(stopped, model__channels_last=False))[0]
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    for a, b in pairs:
        momentum_a, momentum_b = (
            state.train_step.optimizer.state[p]["momentum_buffer"] for state, p in ((one, a), (other, b))
        )
        assert torch.equal(momentum_a, momentum_b)
        assert momentum_a.stride() == a.stride()
        assert momentum_b.stride() == b.stride()


def test_precision_may_change(stopped: Config) -> None:
    state, _ = resume(with_changes(stopped, model__precision="fp16"))
    assert state.train_step.scaler.is_enabled()


def test_pretrained_weights_are_not_needed_again(stopped: Config) -> None:
    state, _ = resume(with_changes(stopped, model__weights="gone.pt"))
    assert state.step == 2
    assert state.model.mean.tolist() == pytest.approx(read_manifest(stopped.shards).mean)


def test_padding_is_what_the_network_takes_away(tiny: Config) -> None:
    """Also where it has that from the checkpoint that it starts from, not from the settings."""
    config, manifest = with_changes(tiny, data__scale=(0.5, 0.5)), read_manifest(tiny.shards)
    state = build_state(config, manifest, ALONE)
    state.model.mean.copy_(torch.tensor([10.2, 19.9, 30.0]))
    (loader, _), _ = run.resume(config, manifest, ALONE, state, None)
    padding = (loader.next().image == torch.tensor([10, 20, 30])).all(-1).sum((1, 2))
    assert all(padding >= 64 * 64 - 32 * 48)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model__arch": "deeplabv3_resnet50"}, "its network is deeplabv3_mobilenet_v3_large"),
        ({"optim__name": "adamw"}, "its optimizer is sgd, the run's is adamw"),
        ({"optim__aux": 0.0}, "its auxiliary head is True"),
        ({"model__weights": "imagenet", "model__freeze": "norms"}, "its frozen part is none, the run's is norms"),
    ],
)
def test_another_run_is_refused(stopped: Config, change: dict, says: str) -> None:
    config = with_changes(stopped, **change)
    with pytest.raises(UserError, match=says):
        find_checkpoint(config, read_manifest(config.shards))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": cityscapes().classes[:-1]}, "its number of classes is 19, the run's is 18; use another --name"),
        ({"classes": (*cityscapes().classes[:-1], TRAM)}, "its class 18 is 'bicycle', the run's is 'tram'; use"),
        ({"name": "mine"}, r"its data set is 'cityscapes' \(digest \w{16}\), the run's is 'mine' \(digest \w{16}\)"),
    ],
)
def test_the_difference_of_two_sets_is_named(stopped: Config, change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        find_checkpoint(stopped, replace(read_manifest(stopped.shards), **change))


def test_a_checkpoint_knows_the_white_of_16_bit_images(stopped: Config) -> None:
    manifest = read_manifest(stopped.shards)
    deep = replace(manifest, options={**manifest.options, "white": 4000})
    assert constant_fields(stopped, deep)["dataset"]["white"] == 4000
    assert "white" not in constant_fields(stopped, manifest)["dataset"]


def test_the_best_score_is_of_one_split_and_one_run(stopped: Config) -> None:
    """Of another split or run none is known: its first evaluation is the best so far, also without a score."""
    last = stopped.folder / "checkpoints" / "last.pt"
    checkpoint.save(last, {**runs.weights(last), "best": 0.75, "best_split": "val"})
    state, _ = resume(with_changes(stopped, eval_split="train"))
    assert [state.count_score(0.5, "val"), state.count_score(0.8, "val"), state.best] == [False, True, 0.8]
    assert [state.count_score(math.nan, "train"), state.count_score(math.nan, "train")] == [True, False]
    assert [state.count_score(0.0, "train"), state.best, state.since_best] == [True, 0.0, 0]
    other, _ = resume(with_changes(stopped, name="other", resume=str(last)))
    assert (other.best, other.origin) == (-math.inf, str(last.resolve()))


def test_a_file_does_not_replace_what_a_run_has_done(stopped: Config, tmp_path: Path) -> None:
    """Only the file that it began with may be named again."""
    last, manifest = stopped.folder / "checkpoints" / "last.pt", read_manifest(stopped.shards)
    file = shutil.copy(last, tmp_path / "best.pt")
    named = with_changes(stopped, resume=str(file))
    with pytest.raises(UserError, match=r"tiny has a checkpoint of its own and did not begin with a file, so that"):
        find_checkpoint(named, manifest)
    checkpoint.save(last, {**runs.weights(last), "origin": str(tmp_path / "other.pt")})
    with pytest.raises(UserError, match=r"of its own and began with '.*other\.pt', so that --resume .*best\.pt would"):
        find_checkpoint(named, manifest)
    checkpoint.save(last, {**runs.weights(last), "origin": str(tmp_path / "best.pt")})
    for resumed in (named, with_changes(stopped, resume=str(last)), stopped):
        assert find_checkpoint(resumed, manifest)


def test_a_best_checkpoint_of_a_killed_run_is_kept_when_it_goes_on(tiny: Config) -> None:
    """The last one says that it is the best; also if nothing is left to train."""
    train(tiny)
    best = tiny.folder / "checkpoints" / "best.pt"
    best.unlink()  # the name, not the last checkpoint's bytes
    best.write_bytes(b"that of an earlier evaluation")
    train(tiny)
    assert best.samefile(tiny.folder / "checkpoints" / "last.pt")
    best.unlink()
    train(with_changes(tiny, resume="changed", optim__epochs=2.5))
    assert best.exists()


def test_a_best_checkpoint_without_a_last_one_is_set_aside(tiny: Config) -> None:
    train(tiny)
    (tiny.folder / "checkpoints" / "last.pt").unlink()
    with open_log(tiny):
        assert not (tiny.folder / "checkpoints").exists()
    assert len(list(tiny.runs.glob("tiny.*/checkpoints/best.pt"))) == 1


def test_an_optimiser_that_is_damaged_is_refused(stopped: Config) -> None:
    """Its numbers would make weights that no command takes."""
    last, manifest = stopped.folder / "checkpoints" / "last.pt", read_manifest(stopped.shards)
    saved = runs.weights(last)
    saved["optimizer"]["state"][3]["momentum_buffer"].view(-1)[0] = torch.inf
    checkpoint.save(last, saved)
    with pytest.raises(UserError, match=r"last\.pt has values in optimizer\.state\.3\.momentum_buffer that are not"):
        find_checkpoint(stopped, manifest)


@pytest.mark.parametrize("part", ["model", "ema", "optimizer"])
def test_nothing_is_saved_of_values_that_are_not_finite(stopped: Config, part: str) -> None:
    """Nor are they evaluated: the files are those of before."""
    state, _ = resume(stopped)
    assert state.average
    values = {
        "model": state.model.net.classifier[-1].weight,
        "ema": next(buffer for name, buffer in state.average.model.net.named_buffers() if "running_var" in name),
        "optimizer": next(iter(state.train_step.optimizer.state.values()))["momentum_buffer"],
    }
    with torch.no_grad():
        values[part][(0,) * values[part].dim()] = torch.nan
    manifest = read_manifest(stopped.shards)
    trainer = Trainer(stopped, manifest, ALONE, state, build_loaders(stopped, manifest, ALONE, None), None)
    state.eval_pending = True
    before = (stopped.folder / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(UserError, match=rf"at step 2 values in {part}\.\S+ are not finite, and nothing is saved"):
        trainer.checkpoint_and_eval()
    assert [path.name for path in (stopped.folder / "checkpoints").iterdir()] == ["last.pt"]
    assert (stopped.folder / "checkpoints" / "last.pt").read_bytes() == before


def test_a_file_is_gone_on_from_until_the_run_has_its_own(stopped: Config) -> None:
    file = stopped.folder / "checkpoints" / "last.pt"
    other = with_changes(stopped, name="other", resume=str(file))
    manifest = read_manifest(stopped.shards)
    assert find_checkpoint(other, manifest)["step"] == 2
    state = build_state(other, manifest, ALONE)
    state.step, state.origin = 7, str(file.resolve())
    trainer = Trainer(other, manifest, ALONE, state, build_loaders(other, manifest, ALONE, None), None)
    with trainer.writer:
        trainer.save(state.statistics())
    assert find_checkpoint(other, manifest)["step"] == 7
    assert checkpoint_path(other) == other.folder / "checkpoints" / "last.pt"
    assert find_checkpoint(with_changes(other, resume="never"), manifest) is None


def test_a_finished_run_is_left_as_it_is(stopped: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """Its settings and records are those of the training, whatever is asked of it later."""
    last = stopped.folder / "checkpoints" / "last.pt"
    shorter = with_changes(stopped, optim__epochs=1.0, resume="changed")
    with pytest.raises(UserError, match="tiny is at epoch 1 of 2; these settings ask for 1; choose another --name"):
        train(shorter)
    train(stopped)
    records = {path: path.read_bytes() for path in stopped.folder.glob("*.json*")}
    assert {"config.json", "environment.json", "metrics.jsonl"} <= {path.name for path in records}
    capsys.readouterr()
    with pytest.raises(UserError, match=r"other settings: --optim\.lr 0\.01 → 0\.5; confirm them"):
        train(with_changes(stopped, optim__lr=0.5))
    train(with_changes(stopped, optim__lr=0.5, resume="changed"))
    report = stopped.folder / "report.html"
    assert capsys.readouterr().err.splitlines() == [
        f"{stopped.folder} is finished at epoch 2 of 2; the report is {report}",
        "settings that changed: --optim.lr 0.01 → 0.5",
    ]
    with pytest.raises(UserError, match="tiny is finished at epoch 2 of 2; these settings ask for 1; choose another"):
        train(shorter)
    with pytest.raises(UserError, match=r"last\.pt is finished at epoch 2 of 2; these settings ask for 2; choose"):
        train(with_changes(stopped, name="other", resume=str(last)))
    assert records == {path: path.read_bytes() for path in stopped.folder.glob("*.json*")}
    assert [path.name for path in stopped.runs.iterdir()] == ["tiny"]


def test_an_evaluation_that_is_owed_is_left_to_do(stopped: Config) -> None:
    ended, manifest = with_changes(stopped, optim__epochs=1.0), read_manifest(stopped.shards)
    saved = find_checkpoint(ended, manifest)
    assert saved
    for owed, done, says in ((True, 1.0, False), (False, 1.0, True), (True, 1.5, True), (False, 0.5, False)):
        changed = {**saved, "eval_pending": owed, "epoch": done}
        assert nothing_left(ended, manifest, ALONE, changed) == says


@pytest.mark.parametrize("broken", [TrainLoader, EvalLoader])
def test_an_outage_loses_no_step(tiny: Config, broken: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before a checkpoint is due, or in an evaluation, the storage fails; what is done is kept, exactly."""
    tiny = with_changes(tiny, eval_every=1.0)
    method = "next" if broken is TrainLoader else "__iter__"
    working, calls = getattr(broken, method), count()

    def fail(self: object) -> object:
        if next(calls) == (3 if broken is TrainLoader else 0):
            raise UserError("the storage does not answer")
        return working(self)

    train(with_changes(tiny, name="whole"))
    monkeypatch.setattr(broken, method, fail)
    with pytest.raises(UserError, match="the storage does not answer"):
        train(tiny)
    saved = runs.weights(tiny.folder / "checkpoints" / "last.pt")
    assert (saved["step"], saved["eval_pending"]) == ((3, False) if broken is TrainLoader else (2, True))
    train(tiny)
    runs.assert_same_run(tiny.runs / "whole", tiny.folder)


def test_what_fails_at_once_saves_nothing(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise UserError("the storage does not answer")

    monkeypatch.setattr(TrainLoader, "next", fail)
    with pytest.raises(UserError, match="the storage does not answer"):
        train(tiny)
    assert not (tiny.folder / "checkpoints").exists()


def test_ranks_must_see_the_same(stopped: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(stopped.shards)
    for other, says in (([None, manifest.digest()], "of step None"), ([2, "x"], "different data sets")):
        states = [{"seen": [2, manifest.digest()]}, {"seen": other}]
        monkeypatch.setattr(run, "gather_states", lambda _state, states=states: states)
        with pytest.raises(UserError, match=says):
            run.agree({"step": 2}, manifest)


CPU = DecoderChoice("cpu", "the CPU")


def open_log(config: Config) -> AbstractContextManager[RunLog]:
    manifest = read_manifest(config.shards)
    return run.open_log(config, manifest, build_state(config, manifest, ALONE), 2, ALONE, CPU)


@pytest.mark.parametrize(("every", "due"), [(0.55, [55, 100]), (0.29, [29, 58, 87, 100]), (1e-9, [*range(1, 101)])])
def test_periods_of_epochs_are_whole_steps(tiny: Config, every: float, due: list[int]) -> None:
    """0.55 × 100 is 55.00000000000001 in floating point, 0.29 × 100 is 28.999999999999996."""
    manifest = read_manifest(tiny.shards)
    state = build_state(tiny, manifest, ALONE)
    trainer = Trainer(tiny, manifest, ALONE, state, build_loaders(tiny, manifest, ALONE, None), None)
    trainer.steps_per_epoch = trainer.total = 100
    found = []
    for state.step in range(1, 101):
        found += [state.step] * trainer.is_due(every)
    assert found == due


def test_shards_are_verified_before_the_network_is_built(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network takes a minute to compile, and a damaged tar is better known before."""
    monkeypatch.setattr(run, "verify_shards", lambda *_: (_ for _ in ()).throw(UserError("a tar is damaged")))
    monkeypatch.setattr(run, "build_state", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(UserError, match="a tar is damaged"):
        train(with_changes(tiny, verify_shards=True))


def test_an_earlier_run_is_set_aside(stopped: Config) -> None:
    with open_log(with_changes(stopped, resume="never")):
        assert not (stopped.folder / "checkpoints").exists()
        assert len(list(stopped.runs.glob("tiny.*/checkpoints/last.pt"))) == 1


@pytest.mark.parametrize("how", ["auto", "never"])
def test_a_second_run_in_the_folder_is_refused(stopped: Config, how: str) -> None:
    """It removes nothing of the first, nor its records, nor the folder from below it."""
    saving = stopped.folder / "checkpoints" / ".last.pt.0123456789abcdef.tmp"
    with open_log(stopped) as log:
        saving.touch()
        log.say("training")
        records = {path: path.read_bytes() for path in stopped.folder.glob("*.json*")}
        manifest = read_manifest(stopped.shards)
        for begin in (lambda config: open_log(config).__enter__(), lambda config: run.check(config, manifest)):
            with pytest.raises(UserError, match=r"another process is training in .*tiny; wait until it"):
                begin(with_changes(stopped, resume=how))
        assert saving.exists()
        assert records == {path: path.read_bytes() for path in stopped.folder.glob("*.json*")}
