"""Processes: one per GPU (or CPU rank), how they come to be, and the few words they exchange."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from fastseg.errors import UserError

TIMEOUT = timedelta(minutes=10)
"""After this long without a word from a rank the others give up."""


@dataclass(frozen=True)
class Ranks:
    """This process among all of them."""

    rank: int
    world: int
    local_rank: int
    """Place on this machine."""
    local_world: int
    """Processes on this machine."""
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and speaks to the user."""
        return self.rank == 0


def become_ranks(gpus: int | None, device: str) -> None:
    """Replace this process by ``gpus`` ranks of the same command, unless it is one of them or one is enough.

    ``torchrun SCRIPT --gpus 8`` starts one process, since torchrun's own count stands before the script: so the
    script becomes the launcher of its ranks. By exec, not as a child: signals go where they should. Under
    ``torchrun --nproc-per-node 8`` the ranks are there already. Raises :class:`UserError` where the machine has
    not what was asked for.
    """
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    available = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" and not available:
        raise UserError("--device is cuda, but torch sees no GPU here; use --device cpu or look at nvidia-smi")
    if local_world > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if gpus is not None and gpus != local_world:
            raise UserError(
                f"--gpus is {gpus}, but torchrun started {local_world} processes here; leave one of the two out"
            )
        gpus = local_world
    wanted = gpus if gpus is not None else max(available, 1)
    _check_count(wanted, available)
    if wanted == local_world:
        return
    environment = {key: value for key, value in os.environ.items() if not _of_launcher(key)}
    # torchrun sets one thread per rank, which starves ranks that compute on the CPU.
    environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // wanted, 1)))
    # The ranks find the package where this process found it, installed or not.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    launcher = [sys.executable, "-m", "fastseg.loop.launcher", "--standalone", "--nproc-per-node", str(wanted)]
    sys.stdout.flush()
    os.execve(sys.executable, [*launcher, *sys.argv], environment)


def _of_launcher(variable: str) -> bool:
    """Whether torchrun set this environment variable for the one process that it started."""
    return variable.startswith(("TORCHELASTIC_", "MASTER_", "ROLE_", "GROUP_")) or variable in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
    )


def _check_count(wanted: int, available: int) -> None:
    cores = os.cpu_count() or 1
    if wanted < 1:
        raise UserError(f"--gpus is {wanted}; it must be 1 or more")
    if available and wanted > available:
        raise UserError(f"--gpus is {wanted}, but there are {available} GPUs here; use --gpus {available}")
    if not available and wanted > cores:
        raise UserError(
            f"--gpus is {wanted}, but there is no GPU to use and only {cores} CPU cores; use --gpus {cores} or fewer"
        )


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the other ranks (NCCL on GPUs, gloo on CPUs) and leave them in order at the end."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = device != "cpu" and torch.cuda.is_available()
    place = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    ranks = Ranks(
        rank=int(os.environ.get("RANK", "0")),
        world=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=local_rank,
        local_world=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        device=place,
    )
    if ranks.world > 1:
        # gloo beside NCCL carries what lies on the CPU: counts, states, agreements.
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=place if cuda else None)
    try:
        yield ranks
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Add up ``tensor`` over all ranks, in place; every rank gets the sum."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def mean_over_ranks(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The mean of each tensor over all ranks, in new tensors of one type and device; one message for all."""
    if not dist.is_initialized() or not tensors:
        return [tensor.clone() for tensor in tensors]
    flat = sum_over_ranks(torch.cat([tensor.flatten() for tensor in tensors])) / dist.get_world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def gather_states(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Every rank's ``state``, in rank order, on every rank."""
    if not dist.is_initialized():
        return [state]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states


def gather_on_first(value: Any) -> list[Any]:
    """Every rank's ``value``, in rank order, on the first rank; nothing on the others."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()
