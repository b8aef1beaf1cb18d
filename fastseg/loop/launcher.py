"""torchrun for our own ranks, without its traceback: a rank that fails has said why already."""

import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import main


def cause(error: ChildFailedError) -> tuple[int, ProcessFailure]:
    """Rank and failure from which the others came: one that a signal ended has not failed for another's sake."""
    killed = [(rank, failure) for rank, failure in error.failures.items() if failure.exitcode < 0]
    return killed[0] if killed else error.get_first_failure()


if __name__ == "__main__":
    try:
        main()
    except ChildFailedError as error:
        rank, failure = cause(error)
        if failure.exitcode < 0:  # it could say nothing itself
            name = signal.Signals(-failure.exitcode).name
            print(f"error: rank {rank} was ended by {name}; run the same command again, a run goes on", file=sys.stderr)
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
    except SignalException as error:
        sys.exit(128 + error.sigval)
