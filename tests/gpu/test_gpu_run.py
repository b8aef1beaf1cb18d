"""Whole runs on the GPU, without a command line: the loop never waits, resumes where it was, and scores as the CPU."""

import signal
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_sets import pack_kind
from one_gpu import ALONE, CUDA, DEVICE, full_precision, needs_gpu, no_waiting

from changes import with_changes
from fastseg.config import Config
from fastseg.data.loader import EvalLoader, open_files
from fastseg.evaluation.evaluator import EvaluatedModel, evaluate
from fastseg.evaluation.metrics import ConfusionMatrix
from fastseg.model.inference import predict
from fastseg.shards.manifest import read_manifest
from fastseg.training import run
from fastseg.training.memory import _batch_that_fits, plan_frame_cache, with_batch
from fastseg.training.run import build_loaders, build_state
from fastseg.training.state import find_checkpoint
from fastseg.training.trainer import Trainer

pytestmark = needs_gpu


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Of a CPU, where it rehearses: threads of networks this small wait longer for each other than they save."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A trainer takes SIGTERM and Ctrl-C for a wish to stop after the step: those of the test run end it."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture
def endless(tiny: Config) -> Config:
    """A run without an evaluation, a checkpoint or an end."""
    return with_changes(tiny, optim__epochs=1e6, eval_every=1e6, save_every=1e6, optim__lr=1e-3)


def trainer_of(config: Config) -> Trainer:
    """As a run builds it: on a GPU frames stay resident unless ``config`` says no."""
    manifest = read_manifest(config.shards)
    state = build_state(config, manifest, ALONE)
    held = plan_frame_cache(config, manifest, ALONE, state.train_step)
    return Trainer(config, manifest, ALONE, state, build_loaders(config, manifest, ALONE, None, held), None)


@pytest.mark.skipif(not CUDA, reason="a CPU is never waited for")
def test_waiting_is_caught() -> None:
    number = torch.ones(3, device=DEVICE).sum()
    with no_waiting(), pytest.raises(RuntimeError, match="synchroniz"):
        number.item()
    with no_waiting(), pytest.raises(RuntimeError, match="synchroniz"):
        number.new_tensor([1.0, 2.0])
    assert number.item() == 3


@pytest.mark.parametrize(
    "change",
    [
        {"model__compile": False},
        {"model__compile": True},
        {"model__compile": False, "model__precision": "fp16"},
        {
            "model__compile": False,
            "optim__name": "adamw",
            "optim__clip": 1.0,
            "optim__class_weights": 0.5,
            "optim__dice": 0.5,
        },
        {"model__compile": False, "data__cache_frames": "off"},
        {"model__compile": True, "data__batch": 2, "optim__accumulate": 2},
    ],
    ids=["eager", "compiled", "fp16", "adamw, clip, class weights, dice", "streamed", "accumulated"],
)
def test_the_loop_does_not_wait_for_the_gpu(endless: Config, change: dict[str, Any]) -> None:
    """Five steps to warm up (compile, allocate, decode what stays resident), then five in which torch must not wait:
    loader, step, average, numbers to the host and their log."""
    trainer = trainer_of(with_changes(endless, **change))
    for _ in range(5):
        trainer.advance()
    with no_waiting():
        for _ in range(5):
            trainer.advance()
            assert not trainer.stop
    assert trainer.state.step == 10
    trainer.check_step(trainer.async_metrics.collect())
    assert all(parameter.isfinite().all() for parameter in trainer.state.model.parameters())


def losses(trainer: Trainer, steps: int) -> list[float]:
    """Of the next steps."""
    found = []
    for _ in range(steps):
        batch = trainer.loader.next()
        main, *_ = trainer.state.train_step(batch.image, batch.label, 1e-3).tolist()
        trainer.state.step += 1
        found.append(main)
    return found


@full_precision()
def test_resident_and_stream_train_alike(endless: Config) -> None:
    """The same order of crops: losses to a hundredth over three epochs, in float32."""
    config = with_changes(endless, model__precision="fp32", model__compile=False)
    found = []
    for way in ("off", "full"):
        trainer = trainer_of(with_changes(config, data__cache_frames=way))
        assert trainer.loader.cached == (way == "full")
        found.append(losses(trainer, 6))
    assert found[1] == pytest.approx(found[0], rel=0.01)


@pytest.mark.skipif(not CUDA, reason="of a GPU's memory")
def test_a_batch_is_chosen_that_fits(tiny: Config) -> None:
    """By measured steps, which leave nothing behind; a larger crop takes fewer."""
    manifest = read_manifest(tiny.shards)
    before, fits = torch.cuda.memory_reserved(DEVICE), []
    for side in (256, 2048):
        config = with_changes(tiny, data__batch="auto", data__crop=(side, side))
        fits.append(_batch_that_fits(config, manifest, ALONE))
        assert torch.cuda.memory_reserved(DEVICE) <= before + 2**25
    assert fits[0] > fits[1] >= 2
    chosen = with_batch(with_changes(tiny, data__batch="auto"), manifest, ALONE)
    assert 4 <= chosen.data.micro_batch <= 11  # frames
    large = with_changes(tiny, data__crop=(2048, 2048), data__batch=fits[1])
    build_state(large, manifest, ALONE).train_step.dry_run(fits[1], large.data.crop)


@pytest.mark.skipif(not CUDA, reason="of a GPU's memory")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_rehearsal_takes_what_training_takes(endless: Config, compiled: bool) -> None:
    """After real steps there is not less free memory than the rehearsal said, but for a twentieth of the GPU's."""
    torch.backends.cudnn.benchmark = True  # as a run has it
    config = with_changes(
        endless, data__cache_frames="off", data__crop=(256, 256), data__batch=8, model__compile=compiled
    )
    trainer = trainer_of(config)
    trainer.state.train_step.dry_run(config.data.batch, config.data.crop)
    free, total = torch.cuda.mem_get_info(DEVICE)
    for _ in range(4):
        trainer.advance()
    torch.cuda.synchronize()
    assert torch.cuda.mem_get_info(DEVICE)[0] >= free - total / 20


@full_precision()
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tiny: Config) -> None:
    """Four steps, or two, a checkpoint, and two: the same losses to two thousandths. The GPU adds up in no fixed order;
    other dropout, another batch or a lost momentum would show in the first digits."""
    config = with_changes(tiny, model__precision="fp32", model__compile=False, data__cache_frames="off")
    whole = losses(trainer_of(config), 4)
    stopped = trainer_of(config)
    losses(stopped, 2)
    stopped.save(stopped.state.statistics())
    manifest = read_manifest(config.shards)
    saved = find_checkpoint(config, manifest)
    state = build_state(config, manifest, ALONE, resumed=True)
    loaders, said = run.resume(config, manifest, ALONE, state, saved)
    assert said == [f"resuming from {config.folder}/checkpoints/last.pt after step 2"]
    again = losses(Trainer(config, manifest, ALONE, state, loaders, None), 2)
    assert again == pytest.approx(whole[2:], rel=2e-3)
    assert whole[2] != pytest.approx(whole[0], rel=2e-3)


@pytest.mark.parametrize("kind", ["444", "420 as it came", "sizes"])
@full_precision()
def test_scores_are_the_cpus(tiny: Config, kind: str, tmp_path: Path) -> None:
    """The same weights on the same frames, JPEGs with restart markers and without: of the pixels, at most one in a
    hundred gets another class."""
    config = with_changes(tiny, shards=str(pack_kind(kind, tmp_path)), model__precision="fp32", model__compile=False)
    trainer = trainer_of(config)
    losses(trainer, 6)  # until classes differ
    manifest, matrices = trainer.manifest, []
    for device in (DEVICE, torch.device("cpu")):
        model = deepcopy(trainer.state.model).to(device).eval()
        files, split = open_files(config.shards, manifest, "val"), manifest.split("val")
        loader = EvalLoader(files, split, batch=2, device=device, threads=1)
        matrix = ConfusionMatrix(len(manifest.classes), device)
        result = evaluate([EvaluatedModel(partial(predict, model), [matrix])], loader, len(manifest.classes))
        assert result
        assert result.images == 3
        matrices.append(torch.from_numpy(matrix.compute()))
    ours, expected = matrices
    assert (ours.sum(1) == expected.sum(1)).all()  # the truth is the same
    assert (expected.sum(0) > 0).sum() > 1
    assert (ours - expected).abs().sum() / 2 <= 0.01 * expected.sum()
