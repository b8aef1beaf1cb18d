"""Check files of ``torch.save`` as far as possible without importing torch, which takes seconds."""

from collections.abc import Iterable
from pathlib import Path

from fastseg.errors import UserError
from fastseg.files import describe_missing

ZIP = b"PK\x03\x04"
"""First bytes of a file of ``torch.save``; files from before 2020 are plain pickles."""
PICKLE = b"\x80"
RUN = "name a run's, such as runs/NAME/checkpoints/best.pt"


def is_zip(path: Path, what: str) -> bool:
    """Return whether a file of ``torch.save`` has today's format, not the old one.

    Raises :class:`UserError` if it is no ``what`` at all, :class:`FileNotFoundError` and :class:`IsADirectoryError`.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is not a {what} that can be loaded safely: it is no plain file")
        with path.open("rb") as file:
            start = file.read(len(ZIP))
    except NotADirectoryError:
        raise FileNotFoundError(path) from None
    except (FileNotFoundError, IsADirectoryError):
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name another {what}") from None
    if start != ZIP and not start.startswith(PICKLE):
        cure = RUN if what == "checkpoint" else "name one that torch.save wrote"
        raise UserError(f"{path} is not a {what} (no zip archive, {path.stat().st_size:,} bytes); {cure}")
    return start == ZIP


def check_checkpoint(path: Path, others: Iterable[Path] = ()) -> None:
    """Refuse a file that cannot be a checkpoint. Raises :class:`UserError`; ``others`` are the arguments after it."""
    try:
        is_zip(path, "checkpoint")
    except (FileNotFoundError, IsADirectoryError, UserError) as error:
        if (path / "manifest.json").is_file():
            cure = f"{RUN} (fastseg-eval takes the set as --shards {path})"
            raise UserError(f"{path} is a packed set, not a checkpoint; {cure}") from None
        for other in others:
            if other.suffix == ".pt" and path.suffix != ".pt":
                raise UserError(f"{path} is not a checkpoint, {other} may be one; the checkpoint comes first") from None
        if isinstance(error, UserError):
            raise
        raise UserError(_no_file(path)) from None


def _no_file(path: Path) -> str:
    if not path.is_dir():
        return describe_missing(path, "a run's checkpoints lie in runs/NAME/checkpoints")
    names = [f"{folder}{name}" for folder in ("", "checkpoints/") for name in ("best.pt", "last.pt")]
    found = next((path / name for name in names if (path / name).is_file()), None)
    return f"{path} is a folder; {f'name the checkpoint in it: {found}' if found else RUN}"
