"""Which of several ranks' ends is the reason of the others."""

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousTimeoutError,
)

from fastseg.distributed.launcher import cause, explain


@pytest.mark.parametrize(
    ("codes", "rank"),
    [
        ([1, 2], 1),  # a lost connection, and the user's error that closed it
        ([-15, 2], 1),  # the launcher sends SIGTERM to those that are left
        ([-15, 1], 1),
        ([1, -9], 1),  # killed: that was the connection
        ([-15, -15], 0),
        ([143, 1], 1),  # those that are left unwind before they end
        ([143, -9], 1),
        ([143, 143], 0),
    ],
)
def test_the_cause(codes: list[int], rank: int) -> None:
    failures = {i: ProcessFailure(i, 100 + i, code, "") for i, code in enumerate(codes)}
    found, failure = cause(ChildFailedError("train", failures))
    assert (found, failure.exitcode) == (rank, codes[rank])


def test_machines_that_do_not_meet() -> None:
    assert "fewer machines than --nnodes asks for" in explain(RendezvousTimeoutError())
    assert "the machine that --rdzv-endpoint names cannot be reached" in explain(RendezvousConnectionError())
    assert "has ended the job" in explain(RendezvousClosedError())
