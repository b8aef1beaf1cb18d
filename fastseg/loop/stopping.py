"""A wish to stop, from outside: the step that runs is finished first."""

import signal


class Stopping:
    """Whether SIGTERM or Ctrl-C has asked this process to stop. A second Ctrl-C stops it at once."""

    def __init__(self) -> None:
        self._signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    @property
    def asked(self) -> bool:
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells have it; SIGTERM's where another rank was asked."""
        return 128 + (self._signal or signal.SIGTERM)

    def _ask(self, number: int, _frame: object) -> None:
        self._signal = number
        # Batch systems send SIGTERM to a job's every process, and torchrun passes it on: it comes twice.
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
