"""The clock's shares and the async_metrics's order, on the CPU."""

import time

import pytest
import torch

from fastseg.device import AsyncMetrics
from fastseg.training.timing import StepClock

CPU = torch.device("cpu")


def test_waiting_is_the_time_between_asking_and_getting() -> None:
    clock = StepClock(CPU)
    for _ in range(2):
        clock.wait_begin()
        time.sleep(0.05)
        clock.wait_end()
        time.sleep(0.05)
        clock.stepped()
    window = clock.snapshot()
    assert window.steps == 2
    assert window.seconds >= 0.2
    assert 0.1 / window.seconds <= window.waiting < 1
    assert clock.snapshot() == window  # no step since


def test_a_restart_forgets() -> None:
    clock = StepClock(CPU)
    clock.wait_begin()
    time.sleep(0.05)
    clock.wait_end()
    clock.stepped()
    clock.restart()
    again = time.perf_counter()
    clock.wait_begin()
    clock.wait_end()
    clock.stepped()
    window = clock.snapshot()
    assert window.steps == 1
    assert window.seconds <= time.perf_counter() - again + 1e-3


def test_on_the_cpu_numbers_arrive_at_once() -> None:
    async_metrics = AsyncMetrics(CPU)
    assert async_metrics.exchange(1, torch.tensor([1.0])) == (1, [1.0])
    assert async_metrics.collect() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: there numbers come one step late")
def test_on_a_gpu_numbers_come_one_step_late() -> None:
    async_metrics = AsyncMetrics(torch.device("cuda", 0))
    assert async_metrics.exchange(1, torch.tensor([1.0], device="cuda")) is None
    assert async_metrics.exchange(2, torch.tensor([2.0], device="cuda")) == (1, [1.0])
    assert async_metrics.collect() == (2, [2.0])
    assert async_metrics.collect() is None
