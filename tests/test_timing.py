"""The clock's shares and the mailbox's order, on the CPU."""

import time

import torch

from fastseg.loop.timing import Mailbox, StepClock

CPU = torch.device("cpu")


def test_waiting_is_the_time_between_asking_and_getting() -> None:
    clock = StepClock(CPU)
    for _ in range(2):
        clock.ask()
        time.sleep(0.05)
        clock.got()
        time.sleep(0.05)
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
    clock.restart()
    again = time.perf_counter()
    clock.ask()
    clock.got()
    window = clock.take()
    assert window.steps == 1
    assert window.seconds <= time.perf_counter() - again + 1e-3


def test_numbers_come_one_exchange_late() -> None:
    mailbox = Mailbox(CPU)
    assert mailbox.exchange(torch.tensor([1.0])) is None
    assert mailbox.exchange(torch.tensor([2.0])) == [1.0]
    assert mailbox.collect() == [2.0]
    assert mailbox.collect() is None
    assert mailbox.exchange(torch.tensor([3.0])) is None
