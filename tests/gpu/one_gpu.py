"""Where the tests of this folder run: on the first GPU; rehearsed on the CPU where FASTSEG_DEVICE=cpu says so."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from fastseg.distributed.ranks import Ranks

REHEARSED = os.environ.get("FASTSEG_DEVICE") == "cpu"
CUDA = not REHEARSED and torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
CPU = torch.device("cpu")
ALONE = Ranks(0, 1, 0, 1, DEVICE)
BUSY = 200_000_000
"""Clock cycles, a tenth of a second."""

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (CUDA or REHEARSED), reason="torch sees no GPU here; FASTSEG_DEVICE=cpu rehearses"),
]
"""The ``pytestmark`` of every file here."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Products and convolutions of float32 without TF32, whose ten bits of fraction would hide what is compared.

    The only place of these tests that turns TF32 off, by the switches that fastseg itself turns: after
    ``set_float32_matmul_precision`` torch refuses to read what ``backends.cuda.matmul.allow_tf32`` or a
    ``fp32_precision`` has changed.
    """
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def no_waiting() -> Iterator[None]:
    """torch raises where it would wait for the GPU. It does not see what other libraries wait for."""
    forbid_waiting(True)
    try:
        yield
    finally:
        forbid_waiting(False)


def forbid_waiting(forbidden: bool) -> None:
    """For tests that cannot wrap what must not wait."""
    if CUDA:
        torch.cuda.set_sync_debug_mode("error" if forbidden else "default")


def keep_busy(times: float = 1) -> None:
    """Give torch's stream nothing to do for a tenth of a second and longer: what it is asked for now starts late."""
    if CUDA:
        torch.cuda._sleep(int(times * BUSY))


def without_dropout(network: nn.Module) -> None:
    """Two computations draw different random numbers from one seed."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
