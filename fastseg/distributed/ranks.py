"""Start one process per GPU (or CPU rank), and exchange values between them."""

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist

from fastseg.device import count_gpus, device_of, require_gpus
from fastseg.distributed.watchdog import Watchdog, abort, failure_to_report, is_agreed_exit
from fastseg.errors import USER_ERROR, UserError, shown, whole_variable
from fastseg.parallel import usable_cores
from fastseg.run_module import child_environment, module_command

TIMEOUT = 600.0
"""Seconds after which ranks that wait for another one give up."""
PATIENCE = 20.0
"""Seconds that the name of the first rank's machine may take to be known."""
_MARGIN = 60.0
"""Seconds that the libraries wait longer than our watchdog, which can name the rank."""


class Launched(NamedTuple):
    """This process among all ranks, as its launcher has set the environment."""

    rank: int
    world: int
    local_rank: int
    local_world: int


def read_launched() -> Launched:
    """Read the launcher's variables; 0 of 1 without them. Raises :class:`UserError` for any that do not fit."""
    world, local_world = whole_variable("WORLD_SIZE", 1, 1), whole_variable("LOCAL_WORLD_SIZE", 1, 1)
    launched = Launched(whole_variable("RANK", 0), world, whole_variable("LOCAL_RANK", 0), local_world)
    whole_variable("MASTER_PORT", 1, 1, 65535)
    cure = "start ranks by torchrun, or unset the variable"
    if launched.rank >= world:
        raise UserError(f"the environment variable RANK is {launched.rank}, but WORLD_SIZE is {world}; {cure}")
    if local_world > 1 and launched.local_rank >= local_world:
        raise UserError(
            f"the environment variable LOCAL_RANK is {launched.local_rank}, but LOCAL_WORLD_SIZE is {local_world}; "
            f"{cure}"
        )
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    if world > 1 and (missing := [name for name in needed if not os.environ.get(name)]):
        raise UserError(
            f"the environment variable WORLD_SIZE is {world}, but {' and '.join(missing)} are not set; start ranks by "
            "torchrun, or unset WORLD_SIZE"
        )
    return launched


@dataclass(frozen=True)
class Ranks:
    """Describe this process among all ranks."""

    rank: int
    world: int
    local_rank: int
    """Index on this machine."""
    local_world: int
    """Processes on this machine."""
    device: torch.device

    @property
    def first(self) -> bool:
        """Return whether this is the rank that writes files and talks to the user."""
        return self.rank == 0


def available_gpus(device: str) -> int:
    """Count the GPUs that ranks may use; raise :class:`UserError` if ``device`` asks for some and there are none."""
    return 0 if device == "cpu" else require_gpus() if device == "cuda" else count_gpus()


def check_ranks(ranks: int, device: str) -> None:
    """Refuse more ranks on this machine than it has GPUs, or cores without any. Raises :class:`UserError`."""
    _check_count(ranks, available_gpus(device))


def become_ranks(gpus: int | None, device: str, restarts: int = 0) -> None:
    """Replace this process by ``gpus`` ranks of the same command, unless it is one of them or one is enough.

    If a rank dies, all are restarted, at most ``restarts`` times.

    ``torchrun SCRIPT --gpus 8`` starts one process, because torchrun's own count stands before the script. So the
    script becomes the launcher of its ranks, by exec and not as a child, so that signals reach it. Under
    ``torchrun --nproc-per-node 8`` the ranks exist already. Raises :class:`UserError` if the machine lacks what was
    asked for.
    """
    launched = read_launched()
    local_world = launched.local_world
    available = available_gpus(device)
    if local_world > 1 or launched.world > 1:
        if gpus is not None and gpus != local_world:
            raise UserError(
                f"--gpus is {gpus}, but torchrun started {local_world} processes here; leave --gpus out, and give the "
                "number to torchrun, before the script: --nproc-per-node"
            )
        if restarts not in (0, restarts_of_launcher()):
            raise UserError(
                f"--max-restarts is {restarts}, but torchrun has started the ranks already; give it to torchrun, "
                "before the script"
            )
        gpus = local_world
    wanted = gpus if gpus is not None else max(available, 1)
    _check_count(wanted, available)
    if wanted == local_world and restarts in (0, restarts_of_launcher()):
        return
    command, environment = rank_launcher(wanted, restarts)
    sys.stdout.flush()
    os.execve(sys.executable, [*command, *sys.argv], environment)


def restarts_of_launcher() -> int:
    """Return how often the torchrun around this process restarts its ranks."""
    return whole_variable("TORCHELASTIC_MAX_RESTARTS", 0)


def rank_launcher(ranks: int, restarts: int) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts ``ranks`` processes of the script that follows it, and its environment."""
    environment = {key: value for key, value in child_environment().items() if not _of_launcher(key)}
    # torchrun sets one thread per rank, which starves ranks that compute on the CPU.
    environment.setdefault("OMP_NUM_THREADS", str(max(usable_cores() // ranks, 1)))
    launcher = module_command("fastseg.distributed.launcher", "--standalone", "--nproc-per-node", str(ranks))
    return [*launcher, "--max-restarts", str(restarts)], environment


def _of_launcher(variable: str) -> bool:
    """Return whether torchrun set this environment variable for the one process that it started."""
    return variable.startswith(("TORCHELASTIC_", "MASTER_", "ROLE_", "GROUP_")) or variable in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
    )


def _check_count(wanted: int, available: int) -> None:
    cores = usable_cores()
    if wanted < 1:
        raise UserError(f"--gpus is {wanted}; it must be 1 or more")
    if available and wanted > available:
        raise UserError(f"--gpus is {wanted}, but there are {available} GPUs here; use --gpus {available}")
    if not available and wanted > cores:
        raise UserError(
            f"--gpus is {wanted}, but there is no GPU to use and only {cores} CPU cores; use --gpus {cores} or fewer"
        )


@contextmanager
def joined_ranks(device: str, timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """Join the other ranks (NCCL on GPUs, gloo on CPUs) and leave them in order at the end.

    With several ranks an exception ends the process here. The first rank that fails prints it, as
    :func:`fastseg.errors.run_command` does; ranks that only lose their connection to it stay silent. If a rank hangs,
    all others end after ``timeout`` seconds (:class:`fastseg.distributed.watchdog.Watchdog`). Raises
    :class:`UserError` before joining if this rank's GPU cannot be used.
    """
    launched = read_launched()
    ranks = Ranks(*launched, device=_own_device(device, launched.local_rank))
    if ranks.world == 1:
        yield ranks
        return
    watch, stopped = _join(ranks, timeout), None
    try:
        yield ranks
    except BaseException as error:
        stopped = error
        if not is_agreed_exit(error):
            abort(failure_to_report(error, ranks.local_rank, watch))
    watch.leave()
    dist.destroy_process_group()
    if stopped:
        raise stopped


def _own_device(device: str, local_rank: int) -> torch.device:
    """Return this rank's GPU, proven to compute and made torch's current one, or the CPU."""
    gpus = device == "cuda" or (device == "auto" and count_gpus() > 0)
    own = device_of(f"cuda:{local_rank}" if gpus else device)
    if gpus:
        torch.cuda.set_device(own)
    return own


def _join(ranks: Ranks, timeout: float) -> Watchdog:
    patience = timedelta(seconds=timeout + _MARGIN)
    _resolve(min(timeout, PATIENCE))
    store = _meet(patience)
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps one store for all restarts, with the addresses of dead ranks. On several machines its counts
        # differ, so the store has to be a new one: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    cuda = ranks.device.type == "cuda"
    dist.init_process_group(
        # gloo beside NCCL carries what is on the CPU: counts, states, decisions.
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=dist.PrefixStore("ranks", store),
        rank=ranks.rank,
        world_size=ranks.world,
        timeout=patience,
        device_id=ranks.device if cuda else None,
    )
    global _untimed_group
    _untimed_group = dist.new_group(backend="gloo", timeout=timedelta(days=7))
    # A clone, because a thread that waits in a store blocks the others.
    return Watchdog(dist.PrefixStore("watch", store.clone()), ranks.rank, ranks.world, timeout, lambda: _progress)


def _resolve(seconds: float) -> None:
    """Wait until MASTER_ADDR can be resolved; the name of a machine that is just starting may not be known yet."""
    host, until = os.environ["MASTER_ADDR"], time.monotonic() + seconds
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except (OSError, UnicodeError) as error:  # UnicodeError: it is no name at all
            if time.monotonic() > until:
                reason = getattr(error, "strerror", None) or "no name of a machine"
                raise UserError(
                    f"the environment variable MASTER_ADDR is {shown(host)}, which cannot be resolved ({reason}); set "
                    "it to the name or address of the first rank's machine"
                ) from None
        time.sleep(0.5)


def _meet(patience: timedelta) -> dist.Store:
    """Return the store that all ranks share, at MASTER_ADDR and MASTER_PORT."""
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=patience))
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        port = os.environ["MASTER_PORT"]
        raise UserError(
            f"the port {port}, which the environment variable MASTER_PORT names, is in use here; name another"
        ) from None
    return store


_untimed_group: Any = None
"""All ranks, for collectives that only the watchdog may end."""
_progress = 0
"""Collectives that this process has begun, and its heartbeats since the last of them."""
_EXCHANGE = 1 << 32
"""Weight of a collective over a :func:`heartbeat`, so that ranks in the same collective count as equally far."""


def _begin_collective() -> bool:
    """Count a collective that is about to begin; return whether there are other ranks."""
    global _progress
    _progress = (_progress // _EXCHANGE + 1) * _EXCHANGE
    return dist.is_initialized()


def heartbeat() -> None:
    """Report progress in long work between two collectives, so that this rank does not count as hanging."""
    global _progress
    _progress += 1


def barrier_no_timeout() -> None:
    """Wait for all ranks without a timeout, as long as those that still work call :func:`heartbeat`."""
    if _begin_collective():
        dist.barrier(group=_untimed_group)


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Add up ``tensor`` over all ranks, in place; every rank gets the sum."""
    if _begin_collective():
        dist.all_reduce(tensor)
    return tensor


def mean_over_ranks(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return each tensor's mean over all ranks, as new tensors of one dtype and device, in one message."""
    if not dist.is_initialized() or not tensors:
        return [tensor.clone() for tensor in tensors]
    flat = sum_over_ranks(torch.cat([tensor.flatten() for tensor in tensors])) / dist.get_world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def gather_states(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every rank's ``state``, in rank order, on every rank."""
    if not _begin_collective():
        return [state]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states


def gather_on_first(value: Any) -> list[Any]:
    """Return every rank's ``value``, in rank order, on the first rank, and nothing on the others."""
    if not _begin_collective():
        return [value]
    values: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def barrier() -> None:
    """Wait for all ranks."""
    if _begin_collective():
        dist.barrier()


def count_corrupt(mine: Sequence[int], most: int) -> int:
    """Count the distinct damaged records of one split over all ranks; ``mine`` are this rank's indexes.

    Every rank has to call. If there are more than ``most``, every rank ends, the first with a :class:`UserError`.
    """
    if not most:  # the first one has ended its rank already
        return 0
    bad = len({index for state in gather_states({"bad": mine}) for index in state["bad"]})
    if bad > most:
        found = f"{bad} damaged records were found by all ranks together, --max-corrupt-samples is {most}"
        raise_on_first(UserError(f"{found}; copy or pack the set again, or raise it"))
    return bad


def raise_on_first(error: UserError) -> NoReturn:
    """Raise ``error`` on the first rank, and end the others silently with its exit code; every rank has to call."""
    if dist.is_initialized() and dist.get_rank():
        sys.exit(USER_ERROR)
    raise error
