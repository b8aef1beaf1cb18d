"""Run as one rank of the ranks' check, under the launcher: ``-m fastseg.doctor.exchange DEVICE ANSWER``."""

import json
import sys
import time
from pathlib import Path

import torch

from fastseg.distributed.ranks import barrier, joined_ranks, sum_over_ranks
from fastseg.errors import run_command

BYTES = {"cuda": 168_000_000, "cpu": 16_000_000}
"""Bytes that the ranks sum."""
TIMEOUT = 30.0
"""Seconds after which a rank gives up waiting for the others."""


def main() -> None:
    """Sum over the ranks three times; the first rank writes how long the fastest took."""
    device, answer = sys.argv[1:]
    with joined_ranks(device, TIMEOUT) as ranks:
        size, seconds, right = BYTES[device], [], True
        for _ in range(3):
            tensor = torch.full((size // 4,), float(ranks.rank + 1), device=ranks.device)
            barrier()
            began = time.perf_counter()
            total = sum_over_ranks(tensor)[-1].item()  # waits for the sum
            seconds.append(time.perf_counter() - began)
            right = right and total == ranks.world * (ranks.world + 1) / 2
        if ranks.first:
            document = {"bytes": size, "seconds": min(seconds), "right": right}
            Path(answer).write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
