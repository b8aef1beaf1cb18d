"""Copy a run's checkpoints to object storage in the background, and bring them back where the run's folder is lost."""

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fastseg.config import Config
from fastseg.distributed.ranks import heartbeat
from fastseg.errors import UserError
from fastseg.files import atomic_path, lock_run_folder, set_aside
from fastseg.model import checkpoint
from fastseg.model.weights import read_tensors
from fastseg.storage import StorageError, download, join, list_names, remove, upload, write
from fastseg.training.run_log import METRICS

SAME_EPOCH = 1e-6
"""Largest difference of two epochs that are the same, whose names have six decimals."""
_NAME = re.compile(r"epoch-([0-9]{6}\.[0-9]{6})(-best)?\.pt")


class Remote(NamedTuple):
    """A checkpoint in object storage; a later one is greater."""

    epoch: float
    """Epochs done, with which the images seen grow whatever the batch."""
    best: bool
    """Whether its score was the best so far. Of two of one epoch it is the one that was evaluated."""
    name: str
    """Name of the object."""


def remote_of(epoch: float, best: bool) -> Remote:
    """Return the checkpoint of an epoch, which its name has to a millionth."""
    number = f"{epoch:013.6f}"
    return Remote(float(number), best, f"epoch-{number}{'-best' if best else ''}.pt")


def find_remote(address: str) -> list[Remote]:
    """Return the checkpoints in a run's folder of object storage, the latest last."""
    found = map(_NAME.fullmatch, list_names(address))
    return sorted(Remote(float(name[1]), bool(name[2]), name[0]) for name in found if name)


def remote_folder(config: Config) -> str:
    """Return the address of the folder with the run's checkpoints; there is one by the settings."""
    return join(config.checkpoints or "", config.name)


def last_of(config: Config) -> Path:
    """Return the path of the run's last checkpoint."""
    return config.folder / "checkpoints" / "last.pt"


def fetch_newer(config: Config, saved: dict[str, Any] | None) -> bool:
    """Bring the run's last checkpoint from object storage if it has done more epochs than the one in its folder.

    An older run in the folder is set aside as a whole: two histories are never mixed. ``saved``: the checkpoint to
    resume from without this. Returns whether a checkpoint was brought, to be loaded from the run's folder. Raises
    :class:`UserError` if the storage refuses, if what it has is damaged, and for a run to be started anew over it.
    """
    address = remote_folder(config)
    found, there = find_remote(address), last_of(config).exists()
    if not found:
        return False
    if config.resume == "never":
        raise UserError(
            f"--resume is never, but {address} holds checkpoints of such a run, up to epoch {found[-1].epoch:.4g}; "
            "choose another --name or --checkpoints, or remove them there"
        )
    if there and saved and found[-1].epoch <= saved["epoch"] + SAME_EPOCH:
        return False
    said = f"resuming from {join(address, found[-1].name)}"
    if there:
        with lock_run_folder(config.folder):
            said += f", which is newer than {config.folder}: that is {set_aside(config.folder)} now"
    with lock_run_folder(config.folder):
        _fetch(address, found, config.folder)
    print(said, file=sys.stderr)
    return True


def _fetch(address: str, found: list[Remote], folder: Path) -> None:
    """Copy the records, the best and the last checkpoint into a run's folder; the last comes last, as when saving."""
    with suppress(FileNotFoundError), atomic_path(folder / METRICS) as temporary:
        download(join(address, METRICS), temporary)
    last, best = folder / "checkpoints" / "last.pt", folder / "checkpoints" / "best.pt"
    best_found = [remote for remote in found if remote.best]
    if best_found:
        _fetch_checkpoint(join(address, best_found[-1].name), best)
    if best_found[-1:] == found[-1:]:
        checkpoint.keep(best, last)
    else:
        _fetch_checkpoint(join(address, found[-1].name), last)


def _fetch_checkpoint(source: str, path: Path) -> None:
    """Copy a checkpoint to ``path`` and check it, or raise :class:`UserError` and leave ``path`` as it was."""
    with atomic_path(path) as temporary:
        try:
            download(source, temporary, heartbeat)
            checkpoint.check(read_tensors(temporary, "checkpoint", sums=True), temporary)
        except FileNotFoundError:
            raise UserError(f"{source} was removed while it was being read; run the same command again") from None
        except StorageError:
            raise
        except UserError as error:
            said = str(error).replace(str(temporary), source)
            raise UserError(f"{said}; without that object the one before it is resumed from") from None


class _Waiting(NamedTuple):
    """A checkpoint to be uploaded."""

    file: BinaryIO
    """Open, so that it stays what it is when a later checkpoint replaces it."""
    remote: Remote


class Uploads:
    """Copy checkpoints of a run to object storage in a thread; of those that wait, only the newest is copied.

    An object appears when it is whole. Whatever fails, training goes on: a sentence says so once until it works again,
    and the next checkpoint is tried again. ``metrics.jsonl`` goes before each.
    """

    def __init__(self, config: Config) -> None:
        """Write the settings there at once. Raises :class:`UserError` if the storage refuses that."""
        self._folder, self._kept, self._address = config.folder, config.checkpoints_kept, remote_folder(config)
        write(join(self._address, "config.json"), json.dumps(config.to_dict(), indent=1).encode())
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._busy = self._closed = False
        self._said: list[str] = []
        self._troubles: set[str] = set()
        """Kinds of failure that were said and last."""
        threading.Thread(target=self._run, name="uploads", daemon=True).start()

    def catch_up(self, config: Config, saved: dict[str, Any] | None) -> None:
        """Submit what earlier processes could not upload; ``saved`` is the checkpoint that the run resumes from."""
        last = last_of(config)
        if not saved or not last.exists():
            return
        with self._telling("earlier", "it is not copied"):
            best, found = last.with_name("best.pt"), find_remote(self._address)
            if best.exists():
                epoch = float(checkpoint.load(best)["epoch"])
                if remote_of(epoch, True) not in found:
                    self.submit(best, epoch)
            ahead = not found or found[-1].epoch + SAME_EPOCH < saved["epoch"]
            if ahead and not (best.exists() and best.samefile(last)):
                self.submit(last, saved["epoch"])

    def submit(self, path: Path, epoch: float) -> None:
        """Upload ``last.pt`` or ``best.pt``, as it is now, in place of what waits; only another best replaces a best.

        ``epoch``: epochs that it has done.
        """
        remote = remote_of(epoch, path.name == "best.pt")
        file = path.open("rb")
        with self._changed:
            replaced = [each for each in self._waiting if remote.best or not each.remote.best]
            self._waiting = [each for each in self._waiting if each not in replaced]
            self._waiting.append(_Waiting(file, remote))
            if replaced and not self._troubles:
                self._say(
                    "slow",
                    f"warning: {self._address} is too slow for every checkpoint: some are left out there, the last is "
                    "not; raise --save-every and --eval-every",
                )
            elif not self._busy:
                self._troubles.discard("slow")
            self._changed.notify_all()
        for each in replaced:
            each.file.close()

    def sentences(self) -> list[str]:
        """Return what is to be said since the last call."""
        with self._changed:
            said, self._said = self._said, []
            return said

    @property
    def pending(self) -> bool:
        """Return whether uploads are under way."""
        with self._changed:
            return self._busy or bool(self._waiting)

    def wait(self) -> None:
        """Wait until all that was submitted has been uploaded, or has failed."""
        with self._changed:
            while self._busy or self._waiting:
                self._changed.wait(1)
                heartbeat()

    def close(self) -> None:
        """Wait as :meth:`wait` does, and end the thread."""
        self.wait()
        with self._changed:
            self._closed = True
            if "upload" in self._troubles:
                self._said.append(
                    f"warning: the last checkpoint is not at {self._address}, but in {self._folder}; run the same "
                    "command again to upload it"
                )
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                waiting, self._busy = self._waiting.pop(0), True
            try:
                self._upload(waiting)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _upload(self, waiting: _Waiting) -> None:
        with waiting.file as file, self._telling("upload", "training goes on, and the next checkpoint is tried again"):
            with suppress(FileNotFoundError):
                if records := (self._folder / METRICS).read_bytes():  # up to this checkpoint, or further
                    write(join(self._address, METRICS), records)
            upload(file, join(self._address, waiting.remote.name))
        with self._telling("remove", "so more than --checkpoints-kept stay there"):
            if "upload" not in self._troubles:
                self._remove_old()

    def _remove_old(self) -> None:
        found = find_remote(self._address)
        kept = {*found[-self._kept :], *[remote for remote in found if remote.best][-1:]}
        for remote in found:
            if remote not in kept:
                remove(join(self._address, remote.name))

    @contextmanager
    def _telling(self, kind: str, result: str) -> Iterator[None]:
        """Keep a failure within, whatever it is, from the training: say it, unless one of its kind was said last."""
        try:
            yield
        except Exception as error:
            advice = f"; {error.advice}" if isinstance(error, StorageError) and not error.passes else ""
            what = error.what if isinstance(error, StorageError) else error
            with self._changed:
                self._say(kind, f"warning: {what}; {result}{advice}")
        else:
            with self._changed:
                if kind in self._troubles and kind == "upload":
                    self._said.append(f"checkpoints are copied to {self._address} again")
                self._troubles.discard(kind)

    def _say(self, kind: str, sentence: str) -> None:
        if kind not in self._troubles:
            self._troubles.add(kind)
            self._said.append(sentence)


@contextmanager
def uploading(config: Config, first: bool, saved: dict[str, Any] | None) -> Iterator[Uploads | None]:
    """Yield what uploads a run's checkpoints on the first rank, None elsewhere and without an address to copy to.

    The end of the block waits for them, also after an error; a second Ctrl-C ends that.
    """
    if not (config.checkpoints and first):
        yield None
        return
    uploads = Uploads(config)
    try:
        uploads.catch_up(config, saved)
        yield uploads
    except KeyboardInterrupt:
        raise
    except BaseException:
        tell(uploads, uploads.close)
        raise
    tell(uploads, uploads.close)


def tell(uploads: Uploads, work: Callable[[], None]) -> None:
    """Do ``work``, and print what there is to be said after it."""
    work()
    for sentence in uploads.sentences():
        print(sentence, file=sys.stderr)
