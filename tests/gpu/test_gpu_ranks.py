"""Two ranks with synchronized batch norm compute what one computes on twice the batch."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from one_gpu import ALONE, CUDA, REHEARSED, full_precision, needs_gpu, without_dropout

from bench.stages.steps import synthetic_manifest
from fastseg.config import Config, DataConfig, ModelConfig, OptimConfig
from fastseg.distributed.ranks import Ranks, joined_ranks
from fastseg.training.run import build_state

pytestmark = [
    *needs_gpu,
    pytest.mark.skipif(not REHEARSED and torch.cuda.device_count() < 2, reason="needs two GPUs"),
]

CONFIG = Config(
    data=DataConfig(batch=2),
    model=ModelConfig(
        arch="deeplabv3_mobilenet_v3_large", weights="none", precision="fp32", compile=False, sync_bn=True
    ),
    optim=OptimConfig(clip=None, ema=None),
)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    image = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 19, (4, 64, 64), dtype=torch.uint8, generator=generator)
    label[:2, :40] = 255  # the ranks' shares of labeled pixels differ
    return image, label


@full_precision()
def train(config: Config, ranks: Ranks, share: slice) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """Three steps on a share of the batch: their numbers, and the weights after them."""
    state = build_state(config, synthetic_manifest(), ranks)
    without_dropout(state.model)
    image, label = (part[share].to(ranks.device) for part in batch())
    numbers = [state.train_step(image, label, 0.01).tolist() for _ in range(3)]
    return numbers, {name: value.detach().cpu() for name, value in state.model.named_parameters()}


def run_rank(rank: int, folder: Path, port: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with joined_ranks("cuda" if CUDA else "cpu") as ranks:
        torch.save(train(CONFIG, ranks, slice(2 * rank, 2 * rank + 2)), folder / f"{rank}.pt")


def test_two_ranks_compute_what_one_does_on_twice_the_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    mp.spawn(run_rank, args=(tmp_path, port), nprocs=2)
    (first, weights), (second, others) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(torch.tensor(first), torch.tensor(second))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    numbers, expected = train(replace(CONFIG, data=DataConfig(batch=4)), ALONE, slice(None))
    torch.testing.assert_close(torch.tensor(first)[:, :3], torch.tensor(numbers)[:, :3], rtol=1e-3, atol=1e-4)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0.01, atol=1e-3, msg=name)
