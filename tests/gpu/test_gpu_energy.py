"""The GPU's own counter of energy, beside what it says of its power."""

import time
from importlib import import_module

import pytest
import torch
from one_gpu import DEVICE, needs_gpu

from fastseg.driver import joules

pytestmark = needs_gpu
SECONDS = 3.0


def test_energy_grows_with_the_work() -> None:
    """Some watts, and no more than a card may draw, with room for the counter's delay."""
    pytest.importorskip("pynvml")
    before = joules()
    if before is None:
        pytest.skip("this GPU, or a slice of it, has no counter")
    factor = torch.randn(4096, 4096, device=DEVICE)
    began = time.monotonic()
    while time.monotonic() - began < SECONDS:
        factor @ factor
        torch.cuda.synchronize()
    after = joules()
    assert after is not None
    watts = (after - before) / (time.monotonic() - began)
    nvml = import_module("pynvml")
    nvml.nvmlInit()
    limit = nvml.nvmlDeviceGetPowerManagementLimit(nvml.nvmlDeviceGetHandleByIndex(0)) / 1000
    assert 5 < watts < 2 * limit
