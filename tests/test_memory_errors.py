"""Memory that is measured, and errors about too little of it."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch

from fastseg import memory
from fastseg.errors import UserError, out_of_memory
from fastseg.memory import free_memory, memory_left, memory_used, peak_of, pixels_that_fit

CPU = torch.device("cpu")
HUGE = 1 << 46
MIB = 1 << 20


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(HUGE),
        lambda: np.empty(HUGE),
        lambda: bytearray(1 << 62),
        lambda: cv2.resize(np.zeros((9, 9, 3), np.uint8), (1 << 23, 1 << 23)),
    ],
)
def test_errors_about_memory_are_known(allocate: Callable[[], object]) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011  # of a kind of each library's own
        allocate()
    assert out_of_memory(raised.value), raised.value


def test_other_errors_are_not() -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert out_of_memory(OSError(12, "Cannot allocate memory"))
    assert out_of_memory(RuntimeError("could not create a primitive"))  # of oneDNN
    assert out_of_memory(RuntimeError("can't start new thread"))
    for error in (None, RuntimeError("shape"), OSError(28, "No space left"), UserError("cannot allocate memory")):
        assert not out_of_memory(error)


def test_a_peak_is_measured() -> None:
    free_memory(CPU)  # what earlier tests have freed
    used = memory_used(CPU)
    assert peak_of(lambda: torch.ones(256 * MIB, dtype=torch.uint8), CPU) - used == pytest.approx(256 * MIB, rel=0.2)
    assert peak_of(lambda: torch.empty(HUGE), CPU) == float("inf")
    assert peak_of(lambda: None, CPU) < used + 128 * MIB  # the first one is forgotten


def test_pixels_are_counted_by_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_left", lambda *_: 1024 * MIB)
    fits = pixels_that_fit(lambda side: torch.ones(512 * side * side, dtype=torch.uint8), CPU)
    assert fits == pytest.approx(2 * MIB, rel=0.2)
    assert pixels_that_fit(lambda _: torch.empty(HUGE), CPU) == 0


def test_a_limit_of_addresses_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_left(CPU) > 0
    monkeypatch.setattr("resource.getrlimit", lambda _: (int(memory._status("VmSize")) + 100 * MIB, -1))
    assert 80 * MIB < memory_left(CPU, 4) < 100 * MIB
