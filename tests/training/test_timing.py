"""The clock's shares and the mailbox's order, on the CPU."""

import time

import pytest
import torch

from fastseg.device import Mailbox
from fastseg.training.timing import StepClock

CPU = torch.device("cpu")


def test_waiting_is_the_time_between_asking_and_getting() -> None:
    clock = StepClock(CPU)
    for _ in range(2):
        clock.ask()
        time.sleep(0.05)
        clock.got()
        time.sleep(0.05)
        clock.stepped()
    window = clock.take()
    assert window.steps == 2
    assert window.seconds >= 0.2
    assert 0.1 / window.seconds <= window.waiting < 1
    assert clock.take() == window  # no step since


def test_a_restart_forgets() -> None:
    clock = StepClock(CPU)
    clock.ask()
    time.sleep(0.05)
    clock.got()
    clock.stepped()
    clock.restart()
    again = time.perf_counter()
    clock.ask()
    clock.got()
    clock.stepped()
    window = clock.take()
    assert window.steps == 1
    assert window.seconds <= time.perf_counter() - again + 1e-3


def test_on_the_cpu_numbers_arrive_at_once() -> None:
    mailbox = Mailbox(CPU)
    assert mailbox.exchange(1, torch.tensor([1.0])) == (1, [1.0])
    assert mailbox.collect() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: there numbers come one step late")
def test_on_a_gpu_numbers_come_one_step_late() -> None:
    mailbox = Mailbox(torch.device("cuda", 0))
    assert mailbox.exchange(1, torch.tensor([1.0], device="cuda")) is None
    assert mailbox.exchange(2, torch.tensor([2.0], device="cuda")) == (1, [1.0])
    assert mailbox.collect() == (2, [2.0])
    assert mailbox.collect() is None
