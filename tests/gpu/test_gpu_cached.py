"""Frames that stay decoded in the GPU's memory: never read before they are there, and as large as was said."""

import gc
from pathlib import Path

import pytest
import torch
from gpu_sets import KINDS, WHOLE_PIXELS, assert_decoded_alike, pack_kind, train_loader
from one_gpu import ALONE, CUDA, DEVICE, keep_busy, needs_gpu

from changes import with_changes
from fastseg.config import Config
from fastseg.data.frame_cache import allocate_arena, cache_bytes
from fastseg.memory import SPARE, memory_left
from fastseg.shards.manifest import read_manifest
from fastseg.training.memory import plan_frame_cache
from fastseg.training.run import build_loaders, build_state
from fastseg.training.trainer import Trainer

pytestmark = needs_gpu

POISON = 171
"""What the memory of frames holds before they are there: no class of the sets is called so."""
ROUNDING = 2 << 20
"""Bytes to which torch's allocator rounds large blocks."""


@pytest.mark.parametrize("kind", KINDS)
def test_cached_frames_are_never_read_before_they_are_there(kind: str, tmp_path: Path) -> None:
    """torch's stream is late before every batch: frames that it copies into their place come after DALI might already
    have read it. Labels would be those of the memory's filling, or another frame's."""
    shards = pack_kind(kind, tmp_path)
    stream = train_loader(shards, DEVICE, WHOLE_PIXELS)
    cached = train_loader(shards, DEVICE, WHOLE_PIXELS, cached=True, poison=POISON)
    batches = []
    for _ in range(6):  # three epochs: decoded in the first
        keep_busy()
        batches.append(cached.next())
    for batch in batches:
        assert_decoded_alike(batch, stream.next())


@pytest.mark.parametrize("batch", [1, 2])
def test_nor_are_batches_whose_frames_lie_side_by_side(batch: int, tmp_path: Path) -> None:
    """Frames that are adjacent in memory, as one frame always is, DALI might share instead of copying them."""
    shards = pack_kind("png", tmp_path)
    stream = train_loader(shards, DEVICE, WHOLE_PIXELS, batch=batch)
    cached = train_loader(shards, DEVICE, WHOLE_PIXELS, cached=True, poison=POISON, batch=batch)
    for _ in range(20):
        keep_busy(0.2)
        ours, expected = cached.next(), stream.next()
        assert torch.equal(ours.image, expected.image)
        assert torch.equal(ours.label, expected.label)


@pytest.mark.skipif(not CUDA, reason="of a GPU's memory")
def test_the_memory_of_frames_is_what_was_said(tmp_path: Path) -> None:
    """Taken at once and in one piece, to the allocator's rounding; frames that arrive take nothing more."""
    shards = pack_kind("444", tmp_path)
    manifest = read_manifest(shards)
    split = manifest.split("train")
    before = free_memory()
    arena = allocate_arena(split, DEVICE)
    taken = before - free_memory()
    assert arena.nbytes == cache_bytes(split) == 8 * 1024 * 512 * 4
    assert arena.nbytes <= taken <= arena.nbytes + ROUNDING


@pytest.mark.skipif(not CUDA, reason="of a GPU's memory")
def test_a_run_with_cached_frames_stays_within_what_was_counted(tiny: Config, tmp_path: Path) -> None:
    """From the choice on, which has tried a step, a run of three epochs takes the frames' memory and no more than half
    of what is spared: DALI's buffers are to fit in there."""
    shards = pack_kind("444", tmp_path)
    config = with_changes(tiny, shards=str(shards), data__cache_frames="full", data__crop=(256, 256), optim__epochs=1e6)
    config = with_changes(config, model__compile=False, eval_every=1e6, save_every=1e6)
    manifest = read_manifest(shards)
    state = build_state(config, manifest, ALONE)
    state.train_step.dry_run(config.data.batch, config.data.crop)
    counted = memory_left(ALONE.device)
    held = plan_frame_cache(config, manifest, ALONE, state.train_step)
    assert held.arena is not None
    trainer = Trainer(config, manifest, ALONE, state, build_loaders(config, manifest, ALONE, None, held), None)
    assert trainer.loader.cached
    for _ in range(6):
        trainer.advance()
    torch.cuda.synchronize()
    spared = SPARE * torch.cuda.mem_get_info(DEVICE)[1]
    assert memory_left(ALONE.device) >= counted - held.arena.nbytes - ROUNDING - spared / 2


def free_memory() -> int:
    """Bytes that the driver has, when torch has given back what it does not need."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(DEVICE)[0]
