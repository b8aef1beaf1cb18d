"""What stays in memory is chosen by what is left of it; and the rehearsal that tells leaves no trace."""

import math
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from changes import with_changes
from fastseg.config import Config
from fastseg.distributed.ranks import Ranks
from fastseg.errors import UserError
from fastseg.memory import free_memory, memory_left, memory_used, peak_of
from fastseg.shards.manifest import Manifest, read_manifest
from fastseg.training import memory
from fastseg.training.memory import (
    CPU_BATCH,
    MAX_BATCH,
    FrameCachePlan,
    crops_that_fit,
    explain_memory_error,
    largest_batch,
    plan_frame_cache,
    smaller_step,
    with_batch,
)
from fastseg.training.run import build_loaders, build_state
from fastseg.training.trainer import Trainer

CPU = torch.device("cpu")
ALONE = Ranks(rank=0, world=1, local_rank=0, local_world=1, device=CPU)
NEED = 11 * 96 * 64 * 4


@pytest.fixture
def manifest(shards: Path) -> Manifest:
    return read_manifest(shards)


def choose(config: Config, manifest: Manifest, wanted: str) -> FrameCachePlan:
    config = with_changes(config, data__cache_frames=wanted)
    return plan_frame_cache(config, manifest, ALONE, build_state(config, manifest, ALONE).train_step)


def test_frames_stay_where_they_fit(tiny: Config, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(tiny, manifest, "auto") == choose(tiny, manifest, "off") == FrameCachePlan(None, False)
    monkeypatch.setattr(memory, "memory_left", lambda *_: NEED)
    for wanted in ("full", "sharded"):
        arena, rank_local = choose(tiny, manifest, wanted)
        assert not rank_local
        assert arena is not None
        assert arena.nbytes == NEED
    monkeypatch.setattr(memory, "memory_left", lambda *_: NEED - 1)
    with pytest.raises(UserError, match=r"--data.cache-frames is full, but the decoded frames take 0\.0 GB, and"):
        choose(tiny, manifest, "full")


def test_frames_that_get_no_memory_after_all_are_streamed(
    tiny: Config, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another process takes it between the look and the taking."""

    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(memory, "allocate_arena", full)
    monkeypatch.setattr(memory, "memory_left", lambda *_: NEED)
    config = with_changes(tiny, data__cache_frames="auto")
    step = build_state(config, manifest, ALONE).train_step
    gpu = replace(ALONE, device=torch.device("meta"))  # auto streams on a CPU without a look
    monkeypatch.setattr(step, "dry_run", lambda *_: None)
    assert plan_frame_cache(config, manifest, gpu, step) == FrameCachePlan(None, False)
    with pytest.raises(UserError, match=r"--data.cache-frames is full, but"):
        choose(tiny, manifest, "full")


def test_a_rehearsal_leaves_no_trace(tiny: Config, manifest: Manifest) -> None:
    state = build_state(tiny, manifest, ALONE)
    rng = torch.get_rng_state()
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    momentum = [v.clone() for s in state.train_step.optimizer.state.values() for v in s.values()]
    state.train_step.dry_run(tiny.data.batch, tiny.data.crop)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())
    after = [v for s in state.train_step.optimizer.state.values() for v in s.values()]
    assert all(torch.equal(a, b) for a, b in zip(after, momentum, strict=True))
    assert all(p.grad is None for p in state.model.parameters())


def test_a_batch_is_chosen(tiny: Config, manifest: Manifest) -> None:
    """On a CPU a stated one; never one that leaves an epoch without a step; a resumed run keeps its own."""
    auto = with_changes(tiny, data__batch="auto")
    assert with_batch(tiny, manifest, ALONE) is tiny
    assert with_batch(auto, manifest, ALONE).data.batch == CPU_BATCH
    assert with_batch(with_changes(auto, optim__accumulate=4), manifest, ALONE).rank_batch == 8  # of 11 frames
    saved = {"config": {"data": {"batch": 3}}}
    assert with_batch(auto, manifest, ALONE, saved).data.batch == 3
    with pytest.raises(ValueError, match="auto"):
        auto.rank_batch  # noqa: B018


def test_the_largest_batch_is_that_of_a_line() -> None:
    gib = 2.0**30
    assert largest_batch(3 * gib, 5 * gib, 2.9 * gib) == 0  # 1 GiB an image, and 1 for the network
    assert largest_batch(3 * gib, 5 * gib, 4.9 * gib) == 3
    assert largest_batch(3 * gib, 5 * gib, 8.1 * gib) == 7
    assert largest_batch(3 * gib, 5 * gib, 24.1 * gib) == 16
    assert largest_batch(3 * gib, math.inf, 4 * gib) == 2
    assert largest_batch(3 * gib, 3 * gib, 4 * gib) >= MAX_BATCH


def test_a_machines_memory_is_shared_by_its_ranks() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = Ranks(rank=0, world=4, local_rank=0, local_world=4, device=torch.device("cpu"))
    assert 0 < memory_left(shared.device, shared.local_world) <= total / 4
    assert memory_left(shared.device, shared.local_world) < memory_left(ALONE.device) <= total


def test_resident_and_streamed_runs_are_one_curve(tiny: Config, manifest: Manifest) -> None:
    """Through the real loop, into the third epoch."""
    ends = []
    for way in ("off", "full"):
        config = with_changes(tiny, data__cache_frames=way, optim__epochs=9.0)
        state = build_state(config, manifest, ALONE)
        held = plan_frame_cache(config, manifest, ALONE, state.train_step)
        trainer = Trainer(config, manifest, ALONE, state, build_loaders(config, manifest, ALONE, None, held), None)
        for _ in range(5):
            trainer.advance()
        ends.append(state.model.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert any(value.is_floating_point() and value.abs().sum() > 0 for value in ends[0].values())


def test_a_smaller_step_keeps_its_images_if_it_can(tiny: Config) -> None:
    crop = {"data__crop": (320, 640)}
    for batch, accumulate, crops, says in (
        (16, 1, 6.5, "--data.batch 4 --optim.accumulate 4 fits, with as many images per step"),
        (8, 3, 7.9, "--data.batch 6 --optim.accumulate 4 fits, with as many images per step"),
        (7, 1, 5.5, "--data.batch 5 fits"),
        (2, 1, 0.5, "--data.batch 2 --data.crop 160 320 fits"),
        (2, 1, 0.01, ""),
        (4, 1, 9.0, ""),  # what was too much was not the step
    ):
        config = with_changes(tiny, data__batch=batch, optim__accumulate=accumulate, **crop)
        assert smaller_step(config, crops) == says


def measured_fit(config: Config, manifest: Manifest) -> float:
    """Return the crops that fit into as many bytes as a step of six takes."""
    free_memory(CPU)
    base, step = memory_used(CPU), build_state(config, manifest, ALONE).train_step
    need = peak_of(partial(step.dry_run, 6, (256, 256)), CPU) - base
    del step
    memory.memory_left = lambda *_: int(need)
    return crops_that_fit(config, manifest, ALONE)


def test_what_fits_is_measured(tiny: Config, manifest: Manifest) -> None:
    """If there is as much memory as a step takes, that step fits, and one of far more images does not."""
    config = with_changes(tiny, data__batch=6, data__crop=(256, 256), optim__ema=None)
    # In a process of its own: what earlier tests have freed would be taken again, and not be counted.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        fits = processes.submit(measured_fit, config, manifest).result()
    assert 3 < fits < 12


def test_too_little_memory_is_one_sentence(tiny: Config, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "crops_that_fit", lambda *_: 2.5)
    with pytest.raises(UserError) as said, explain_memory_error(tiny, manifest, ALONE):
        torch.empty(1 << 46)
    assert str(said.value).endswith(
        "GiB of memory are too little to train with --data.batch 4 and --data.crop 64 64; --data.batch 2 "
        "--optim.accumulate 2 fits, with as many images per step"
    )
    with pytest.raises(RuntimeError, match="other"), explain_memory_error(tiny, manifest, ALONE):
        raise RuntimeError("other")
