"""Find the file of a trained network, and check it as far as possible without torch, which takes seconds to import."""

import os
from collections.abc import Iterable
from pathlib import Path

from fastseg import hub
from fastseg.errors import UserError
from fastseg.files import describe_missing

ZIP = b"PK\x03\x04"
"""First bytes of a file of ``torch.save``; files from before 2020 are plain pickles."""
PICKLE = b"\x80"
RUN = "name a run's folder, such as runs/NAME"
SAFETENSORS = ".safetensors"
EXPORTS = {".onnx": "ONNX", ".pt2": "torch.export"}
"""Formats of programs that fastseg-eval scores, and nothing else takes, by their suffix."""
SHIPPED = Path(__file__).parents[1] / "weights"
"""Folder of weights that come with the package: ``NAME.safetensors`` is loaded by its name."""


def resolve_checkpoint(source: str | os.PathLike[str], others: Iterable[str | Path] = ()) -> Path:
    """Return the file of a trained network: a checkpoint (.pt) or exported weights (.safetensors).

    ``source``: such a file; a run's folder, for its best checkpoint, or else its last one; a folder of one export;
    ``hf://USER/NAME[@REVISION]``; the name of weights that come with fastseg. ``others``: the arguments after it, for
    the message. Raises :class:`UserError` for anything else.
    """
    source = os.fspath(source)
    if source.startswith(hub.SCHEME):
        return hub.download(source)
    path = Path(source)
    if not path.exists() and (shipped := SHIPPED / f"{source}{SAFETENSORS}").is_file():
        return shipped
    if path.is_dir():
        path = _inside(path) or path
    _check(path, list(map(Path, others)))
    return path


def resolve_network(source: str | os.PathLike[str], others: Iterable[str | Path] = ()) -> Path:
    """Do as :func:`resolve_checkpoint`, and also accept exported programs (:data:`EXPORTS`)."""
    path = Path(source)
    return path if path.suffix in EXPORTS and path.is_file() else resolve_checkpoint(source, others)


def _inside(folder: Path) -> Path | None:
    """Return the network in a run's folder, in its folder of checkpoints, or in that of an export; None if in none."""
    names = [f"{inner}{name}" for inner in ("", "checkpoints/") for name in ("best.pt", "last.pt")]
    found = [folder / name for name in names if (folder / name).is_file()]
    exports = list(folder.glob(f"*{SAFETENSORS}"))
    return found[0] if found else exports[0] if len(exports) == 1 else None


def is_zip(path: Path, what: str) -> bool:
    """Return whether a file of ``torch.save`` has today's format, not the old one.

    Raises :class:`UserError` if it is no ``what`` at all, :class:`FileNotFoundError` and :class:`IsADirectoryError`.
    """
    start = _first_bytes(path, what)
    if start != ZIP and not start.startswith(PICKLE):
        cure = RUN if what == "checkpoint" else "name one that torch.save wrote"
        raise UserError(f"{path} is not a {what} (no zip archive, {path.stat().st_size:,} bytes); {cure}")
    return start == ZIP


def _first_bytes(path: Path, what: str) -> bytes:
    """Read the first bytes of a plain file; raise as :func:`is_zip`."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is not a {what} that can be loaded safely: it is no plain file")
        with path.open("rb") as file:
            return file.read(len(ZIP))
    except NotADirectoryError:
        raise FileNotFoundError(path) from None
    except (FileNotFoundError, IsADirectoryError):
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name another {what}") from None


def _check(path: Path, others: list[Path]) -> None:
    """Refuse a file that cannot be a checkpoint. Raises :class:`UserError`."""
    try:
        if path.suffix == SAFETENSORS:
            _first_bytes(path, "checkpoint")
        elif path.suffix in EXPORTS and path.is_file():
            raise UserError(
                f"{path} is a program for {EXPORTS[path.suffix]}, whose weights cannot be taken out; fastseg-eval "
                "scores it; name a checkpoint or a .safetensors file"
            )
        else:
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
    if path.is_dir():
        return f"{path} is a folder without a checkpoint; {RUN}"
    return describe_missing(path, f"{RUN}, whose checkpoints lie in runs/NAME/checkpoints")
