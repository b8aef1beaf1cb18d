"""torchrun for our own ranks: no traceback after a rank that has said why it fails, and no restart where none helps."""

import signal
import sys

import torch.distributed.launcher.api as launching
from torch.distributed.elastic.agent.server import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import main

from fastseg.errors import USER_ERROR


class Agent(LocalElasticAgent):
    """torchrun's own, but it starts nothing again after a user's error, which would only come again."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if any(failure.exitcode == USER_ERROR for failure in result.failures.values()):
            self._remaining_restarts = 0
        return result


def cause(error: ChildFailedError) -> tuple[int, ProcessFailure]:
    """Rank and failure from which the others came.

    A rank with a user's error has said it. One that a signal ended has not failed for another's sake, unless by the
    SIGTERM that the launcher sends to all that are left.
    """
    codes = [(rank, failure, failure.exitcode) for rank, failure in error.failures.items()]
    refused = [(rank, failure) for rank, failure, code in codes if code == USER_ERROR]
    killed = [(rank, failure) for rank, failure, code in codes if code < 0 and code != -signal.SIGTERM]
    others = [(rank, failure) for rank, failure, code in codes if code > 0]
    return [*refused, *killed, *others, error.get_first_failure()][0]


if __name__ == "__main__":
    launching.LocalElasticAgent = Agent  # type: ignore[misc]  # torchrun asks nobody which agent to take
    try:
        main()
    except RendezvousError:
        print("error: the launcher of another machine has ended the job; see what was said there", file=sys.stderr)
        sys.exit(1)
    except ChildFailedError as error:
        rank, failure = cause(error)
        if failure.exitcode < 0:  # it could say nothing itself
            name = signal.Signals(-failure.exitcode).name
            print(f"error: rank {rank} was ended by {name}; run the same command again, a run goes on", file=sys.stderr)
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
    except SignalException as error:
        sys.exit(128 + error.sigval)
