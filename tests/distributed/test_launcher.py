"""Which of several ranks' ends is the reason of the others."""

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from fastseg.distributed.launcher import cause


@pytest.mark.parametrize(
    ("codes", "rank"),
    [
        ([1, 2], 1),  # a lost connection, and the user's error that closed it
        ([-15, 2], 1),  # the launcher sends SIGTERM to those that are left
        ([-15, 1], 1),
        ([1, -9], 1),  # killed: that was the connection
        ([-15, -15], 0),
    ],
)
def test_the_cause(codes: list[int], rank: int) -> None:
    failures = {i: ProcessFailure(i, 100 + i, code, "") for i, code in enumerate(codes)}
    found, failure = cause(ChildFailedError("train", failures))
    assert (found, failure.exitcode) == (rank, codes[rank])
