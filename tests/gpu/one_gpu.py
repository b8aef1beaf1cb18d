"""Where the tests of this folder run: on the first GPU; rehearsed on the CPU where FASTSEG_DEVICE=cpu says so."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from fastseg.loop.distributed import Ranks

REHEARSED = os.environ.get("FASTSEG_DEVICE") == "cpu"
CUDA = not REHEARSED and torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
ALONE = Ranks(0, 1, 0, 1, DEVICE)

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (CUDA or REHEARSED), reason="torch sees no GPU here; FASTSEG_DEVICE=cpu rehearses"),
]
"""The ``pytestmark`` of every file here."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Products and convolutions of float32 without TF32, whose ten bits of fraction would hide what is compared."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def without_dropout(network: nn.Module) -> None:
    """Two computations draw different random numbers from one seed."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
