"""Batch norm over several ranks is batch norm over all their images; torch's own is the reference."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import get_model

from fastseg.model.batchnorm import BatchNorm, replace_batch_norms, sync_batch_norms
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork

SHARES = (1, 2, 4)
"""Images of each rank."""


def norm_of(channels: int = 3) -> BatchNorm:
    torch.manual_seed(1)
    norm = nn.Sequential(nn.BatchNorm2d(channels))
    nn.init.normal_(norm[0].weight)
    nn.init.normal_(norm[0].bias)
    replace_batch_norms(norm, momentum=0.1)
    return norm[0]


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Images of all ranks and the gradient of what becomes of them; the mean is large beside the deviation."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(sum(SHARES), 3, 5, 4, generator=generator) * torch.tensor([1.0, 0.1, 30.0]).view(1, 3, 1, 1)
    # Each image has a mean of its own: the ranks' differ, and no rank's variance is the whole batch's.
    x += torch.tensor([1000.0, -50.0, 3.0]).view(1, 3, 1, 1) + 2 * torch.randn(len(x), 3, 1, 1, generator=generator)
    return x.to(dtype), torch.randn(x.shape, generator=generator).to(dtype)


def both_passes(norm: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = norm(x)
    y.backward(dy)
    return {"y": y.detach(), "dx": x.grad, "dw": norm.weight.grad, "db": norm.bias.grad, **dict(norm.named_buffers())}


class Operators(TorchDispatchMode):
    """Keeps the names of what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def run_rank(rank: int, folder: Path, port: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    dist.init_process_group("gloo", rank=rank, world_size=len(SHARES))
    end = sum(SHARES[: rank + 1])
    share = slice(end - SHARES[rank], end)
    results = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        norm = norm_of().to(torch.float32 if dtype is torch.bfloat16 else dtype)
        norm.synced = True
        results[str(dtype)] = both_passes(norm, *(part[share] for part in batch(dtype)))
    x, dy = (part[share] for part in batch())
    norm = norm_of()
    norm.synced = True
    norm.compile(backend="aot_eager", fullgraph=True)
    results["compiled"] = both_passes(norm, x, dy)
    norm = norm_of()
    norm.synced = True
    with Operators() as operators:
        both_passes(norm, x, dy)
    results["operators"] = operators.names
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    mp.spawn(run_rank, args=(folder, port), nprocs=len(SHARES))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(len(SHARES))]


# torch keeps the statistics of bfloat16 images in float32 as well, but rounds the result once more on a CPU.
@pytest.mark.parametrize(("dtype", "near"), [("float64", 1e-9), ("float32", 1e-4), ("bfloat16", 2e-2)])
def test_several_ranks_are_one_with_all_their_images(ranks: list[dict], dtype: str, near: float) -> None:
    """Values, gradients and running statistics, of ranks with 1, 2 and 4 images."""
    kind = getattr(torch, dtype)
    reference = nn.BatchNorm2d(3).to(torch.float64)
    reference.load_state_dict(norm_of().state_dict())
    expected = both_passes(reference, *(part.double() for part in batch(kind)))
    found = [rank[f"torch.{dtype}"] for rank in ranks]
    for name in ("y", "dx"):
        whole = torch.cat([rank[name] for rank in found])
        assert whole.dtype == kind
        torch.testing.assert_close(whole.double(), expected[name], rtol=near, atol=near)
    for name in ("dw", "db"):
        summed = torch.stack([rank[name] for rank in found]).sum(0)
        torch.testing.assert_close(summed.double(), expected[name], rtol=near, atol=20 * near)
    for name in ("running_mean", "running_var"):
        for rank in found:
            torch.testing.assert_close(rank[name].double(), expected[name], rtol=min(near, 1e-4), atol=1e-5)
            assert torch.equal(rank[name], found[0][name])


def test_it_is_one_graph_that_computes_the_same(ranks: list[dict]) -> None:
    for rank in ranks:
        for name, value in rank["compiled"].items():
            torch.testing.assert_close(value, rank["torch.float32"][name], rtol=1e-5, atol=1e-5)


def test_the_host_waits_for_no_number(ranks: list[dict]) -> None:
    """One message in each pass, and nothing whose shape or value the host would have to know."""
    for rank in ranks:
        names = rank["operators"]
        assert sum("all_reduce" in name for name in names) == 2
        assert not [name for name in names if any(w in name for w in ("_local_scalar_dense", "nonzero", "aten::index"))]


def test_alone_it_is_torchs_own() -> None:
    norm, reference = norm_of(), nn.BatchNorm2d(3)
    reference.load_state_dict(norm.state_dict())
    found, expected = (both_passes(module, *batch()) for module in (norm, reference))
    for name in ("y", "dx", "dw", "db", "running_mean", "running_var"):
        assert torch.equal(found[name], expected[name]), name
    norm.eval(), reference.eval()
    assert torch.equal(norm(batch()[0]), reference(batch()[0]))


def test_synchronized_norms_evaluate_alone() -> None:
    norm = norm_of()
    norm.synced = True
    norm.eval()(batch()[0])  # there is no process group to ask


def test_state_dicts_are_torchvisions_both_ways() -> None:
    """Batches are not counted, but the key is there, and a file's count comes out as it went in."""
    arch = "deeplabv3_mobilenet_v3_large"
    reference = get_model(arch, weights=None, weights_backbone=None, num_classes=5, aux_loss=True)
    counts = [name for name in reference.state_dict() if name.endswith("num_batches_tracked")]
    for name in counts:
        reference.get_buffer(name).fill_(7)
    model = SegmentationNetwork(arch, 5, IMAGENET_MEAN, IMAGENET_STD, True)
    model.net.load_state_dict(reference.state_dict())
    sync_batch_norms(model)
    assert all(module.synced for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.synced = False
    model.train()(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    state = model.net.state_dict()
    assert {int(state[name]) for name in counts} == {7}
    reference.load_state_dict(state)
    del state[counts[0]]
    with pytest.raises(RuntimeError, match=r"Missing key.*num_batches_tracked"):
        model.net.load_state_dict(state)
