"""Train by several processes from one call: send the request to ranks, forward signals, and raise what ended them."""

import io
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType
from typing import Any, NamedTuple

from fastseg.config import Config
from fastseg.distributed.ranks import check_ranks, joined_ranks, rank_launcher
from fastseg.errors import UserError, run_command, stop_signals
from fastseg.shards.manifest import Manifest, read_manifest
from fastseg.training.own_parts import OwnParts
from fastseg.training.run import check, train

REQUEST, ERROR = "request.pkl", "error.txt"


class Request(NamedTuple):
    """What a rank is to do."""

    config: Config
    device: str
    profile: bool
    own: OwnParts


def train_by_ranks(
    config: Config, manifest: Manifest, gpus: int, device: str, restarts: int, profile: bool, own: OwnParts
) -> None:
    """Train by ``gpus`` processes and wait for them. Raises :class:`UserError` as one of them does."""
    check_ranks(gpus, device)
    request = _pickled(Request(config, device, profile, own))
    with own.registered(config):
        check(config, manifest, device)
    if config.resume == "never" and restarts:
        raise UserError("--resume is never, but each of the max_restarts would start anew; leave one of the two out")
    with TemporaryDirectory(prefix="fastseg-") as folder:
        (Path(folder) / REQUEST).write_bytes(request)
        command, environment = rank_launcher(gpus, restarts)
        words = [*command, "-m", __name__, folder]
        # Signals of a terminal reach the ranks once, from here.
        with subprocess.Popen(words, env=environment, start_new_session=True) as process, _forwarding(process) as sent:
            code = process.wait()
        refused = Path(folder) / ERROR
        sentence = refused.read_text(encoding="utf-8") if refused.exists() else ""
    if sent:
        signal.raise_signal(sent[0])
    if sentence:
        raise UserError(sentence)
    if code:
        raise RuntimeError(f"the ranks ended with exit code {code}; what they printed says why")


@contextmanager
def _forwarding(process: "subprocess.Popen[bytes]") -> Iterator[list[int]]:
    """Send SIGINT, SIGTERM and SIGHUP on to a process while the block runs; yield the list of those that came."""
    came: list[int] = []

    def forward(number: int, _frame: object) -> None:
        came.append(number)
        process.send_signal(number)

    numbers = (signal.SIGINT, *stop_signals()) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Pickler(pickle.Pickler):
    """Refuse what only this process can find: functions and classes of the script or notebook that it runs."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type | FunctionType) and obj.__module__ == "__main__":
            raise UserError(
                f"{obj.__qualname__} is defined in the script or notebook itself, where the processes of gpus=N cannot "
                "find it; move it into a module (a .py file) and import it, or train with gpus=1"
            )
        return NotImplemented


def _pickled(request: Request) -> bytes:
    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump(request)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"what was given cannot be sent to other processes ({error}); define it in a module, without lambdas, open "
            "files and the like, or train with gpus=1"
        ) from None
    return buffer.getvalue()


def main() -> None:
    """Train as one rank; the first argument is the folder of the request."""
    folder = Path(sys.argv[1])
    # Written by the process that started this one, into a folder that only its user can write to.
    request: Request = pickle.loads((folder / REQUEST).read_bytes())
    run_command(partial(_train, request, folder / ERROR))


def _train(request: Request, error: Path) -> None:
    config = request.config
    manifest = read_manifest(config.shards)
    with request.own.registered(config):
        saved = check(config, manifest, request.device)
        with joined_ranks(request.device, config.timeout) as ranks, _noting(error):
            train(config, manifest, ranks, saved, request.profile, request.own)


@contextmanager
def _noting(path: Path) -> Iterator[None]:
    """Write the sentence of a :class:`UserError` to ``path``, for the process that waits for the ranks."""
    try:
        yield
    except UserError as error:
        path.write_text(str(error), encoding="utf-8")
        raise


if __name__ == "__main__":
    main()
