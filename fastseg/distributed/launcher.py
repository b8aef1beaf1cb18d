"""Run torchrun for our ranks: no traceback if a rank has said why it failed, and no restart that cannot help."""

import signal
import sys

import torch.distributed.launcher.api as launching
from torch.distributed.elastic.agent.server import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousError,
    RendezvousTimeoutError,
)
from torch.distributed.run import main

from fastseg.errors import USER_ERROR, keep_writing, stop_signals


class Agent(LocalElasticAgent):
    """Do as torchrun's agent, but restart nothing after a user error, which would only recur."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if any(failure.exitcode == USER_ERROR for failure in result.failures.values()):
            self._remaining_restarts = 0
        return result


def cause(error: ChildFailedError) -> tuple[int, ProcessFailure]:
    """Return the rank and the failure that caused the others.

    A rank with a user error has printed it. A rank ended by a signal failed on its own, unless the signal is SIGTERM,
    which the launcher sends to the remaining ranks.
    """
    codes = [(rank, failure, failure.exitcode) for rank, failure in error.failures.items()]
    refused = [(rank, failure) for rank, failure, code in codes if code == USER_ERROR]
    killed = [(rank, failure) for rank, failure, code in codes if code < 0 and code != -signal.SIGTERM]
    others = [(rank, failure) for rank, failure, code in codes if code > 0 and code != 128 + signal.SIGTERM]
    return [*refused, *killed, *others, error.get_first_failure()][0]


def explain(error: RendezvousError) -> str:
    """Return why the launchers of several machines did not meet, in a sentence."""
    if isinstance(error, RendezvousTimeoutError):
        return (
            "fewer machines than --nnodes asks for came in time; start the same command on the others, and check that "
            "each of them reaches --rdzv-endpoint"
        )
    if isinstance(error, RendezvousConnectionError):
        return (
            "the machine that --rdzv-endpoint names cannot be reached, or is gone; run the same command again on all "
            "machines, this one first if it is the one"
        )
    return "the launcher of another machine has ended the job; see its output"


def kept_signals() -> list[str]:
    """Return torchrun's flag to handle no SIGHUP where it is ignored, as under nohup."""
    if len(stop_signals()) > 1:
        return []
    return ["--signals-to-handle", "SIGTERM,SIGINT,SIGQUIT"]


if __name__ == "__main__":
    keep_writing()
    launching.LocalElasticAgent = Agent  # type: ignore[misc]  # torchrun has no option for the agent
    try:
        main([*kept_signals(), *sys.argv[1:]])
    except RendezvousError as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(1)
    except ChildFailedError as error:
        rank, failure = cause(error)
        if failure.exitcode < 0:  # it could not print anything itself
            name = signal.Signals(-failure.exitcode).name
            print(f"error: rank {rank} was ended by {name}; run the same command again to resume", file=sys.stderr)
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
    except SignalException as error:
        sys.exit(128 + error.sigval)
