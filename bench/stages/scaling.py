"""Scaling: the same step on 1, 2, 4 … ranks, each with its own batch, their gradients exchanged by DDP."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist

from bench.runner.results import Row
from bench.runner.runner import Entry
from bench.runner.worker import Benchmark
from bench.stages import Request
from bench.stages.compute import Ours, set_backends
from bench.stages.steps import recipe, release_memory, settings_of
from fastseg.config import Config
from fastseg.distributed.ranks import joined_ranks
from fastseg.memory import peak_memory

END, STEP, RELEASE = range(3)
"""Messages from rank 0 to the others."""


def entries(request: Request) -> list[Entry]:
    """Return fastseg's entries on one rank, two, four, up to all."""
    most = largest(request)
    counts = sorted({most, *(2**i for i in range(most.bit_length()) if 2**i <= most)})
    return [entry(request, ranks, f"fastseg, {ranks} {'rank' if ranks == 1 else 'ranks'}") for ranks in counts]


def largest(request: Request) -> int:
    """Return the maximum number of ranks: as requested on the CPU, else one per GPU."""
    return request.ranks or (torch.cuda.device_count() if request.device == "cuda" else 1)


def entry(request: Request, ranks: int, name: str, factory: str = f"{__name__}:open_ranks") -> Entry:
    """Return the step on ``ranks`` ranks, started by torchrun if there are several."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    settings = settings_of(request) | {
        "device": "cpu" if request.ranks else request.device,
        "ranks": ranks,
        # A single rank gets no more of the CPU than each of many, or the comparison would be unfair.
        "threads": max(request.cores // largest(request), 1),
    }
    return Entry("scaling", name, "images/s", factory, settings, prefix=launcher if ranks > 1 else ())


class RankedSteps(Benchmark):
    """A benchmark on every rank: the worker drives rank 0, and the others follow its announcements."""

    warmup_steps = 3  # DDP rebuilds its buckets after the first

    def __init__(self, config: Config, device: str, ranks: int) -> None:
        self._stack = ExitStack()
        self.ranks = self._stack.enter_context(joined_ranks(device))
        if self.ranks.world != ranks:
            raise ValueError(f"{self.ranks.world} ranks were started, not {ranks}")
        self.ours = Ours(config, self.ranks)

    def step(self) -> int:
        """Do one step on all ranks; return the images of all."""
        self._announce(STEP)
        self.ours.train()
        return self.ours.config.data.micro_batch * self.ranks.world

    def follow(self) -> None:
        """Do what rank 0 announces, until it closes."""
        while (word := self._announce()) != END:
            if word == STEP:
                self.ours.train()
            else:
                release_memory(self.ranks.device)
        self._stack.close()

    def figures(self) -> dict[str, float]:
        """Return the peak memory of rank 0."""
        memory = peak_memory(self.ranks.device)
        self._announce(RELEASE)
        release_memory(self.ranks.device)
        return {"peak_memory_bytes": memory}

    def close(self) -> None:
        """Let the other ranks end."""
        self._announce(END)
        self._stack.close()

    def _announce(self, word: int = END) -> int:
        """Broadcast rank 0's message by gloo on the CPU, without waiting for a GPU."""
        said = torch.tensor([word])
        if self.ranks.world > 1:
            dist.broadcast(said, src=0)
        return int(said.item())


def open_ranks(
    device: str, arch: str, crop: list[int], batch: int, precision: str, ranks: int, threads: int
) -> RankedSteps:
    """Build the step of the Cityscapes recipe on this rank of ``ranks``."""
    set_backends()
    torch.set_num_threads(threads)
    return RankedSteps(recipe(arch, crop, batch, precision), device, ranks)


def derived(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return efficiencies: the speed of N ranks over N times that of one."""
    rates = {
        row.settings["ranks"]: row.spread.median for row in rows if row.stage == "scaling" and row.ours and row.windows
    }
    if 1 not in rates:
        return []
    found = {ranks: rate / (ranks * rates[1]) for ranks, rate in rates.items() if ranks > 1}
    return [
        {
            "name": f"scaling/efficiency_per_rank/{ranks}",
            "value": share,
            "sentence": f"{ranks} ranks compute {100 * share:.0f} % of {ranks} times what one does",
        }
        for ranks, share in found.items()
    ]
