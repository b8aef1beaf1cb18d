"""The ground truth of Cityscapes on disk, extracted or in its official zip, by the keys of frames."""

import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from PIL import Image

from fastseg.data.members import MAX_FILE
from fastseg.errors import UserError

LABELS, INSTANCES = "_gtFine_labelIds.png", "_gtFine_instanceIds.png"
ZIP = "gtFine_trainvaltest.zip"


def check_truth(place: Path, keys: Sequence[str], sizes: Collection[tuple[int, int]]) -> None:
    """Raise before minutes of inference what :func:`fastseg.score.official.run_official` would after them.

    That is where a key has no ground truth, or the first one's has none of the ``sizes`` (height, width) of frames.
    """
    archive = _archive(place)
    names = _members(archive) if archive else (path.name for path in _folder(place).glob(f"*/*/*{LABELS}"))
    _check_names({_key(name, LABELS) for name in names}, keys, place)
    with ground_truth(place, keys[:1]) as files:
        size = size_of(files[keys[0]])
        if size not in sizes:
            raise UserError(other_size("frame", next(iter(sizes)), files[keys[0]], size))


@contextmanager
def ground_truth(place: Path, keys: Sequence[str]) -> Iterator[dict[str, Path]]:
    """The labelIds of each key; instanceIds lie beside them. Members of the zip are unpacked for the time being."""
    if archive := _archive(place):
        with TemporaryDirectory(prefix="fastseg-") as temporary:
            _unpack(archive, set(keys), Path(temporary))
            yield _named(Path(temporary).glob(f"*{LABELS}"), keys, place)
    else:
        yield _named(_folder(place).glob(f"*/*/*{LABELS}"), keys, place)


def _folder(place: Path) -> Path:
    return place / "gtFine" if (place / "gtFine").is_dir() else place


def _archive(place: Path) -> Path | None:
    """The zip to read, where no extracted folder is there."""
    archive = place if place.suffix == ".zip" else place / ZIP
    return archive if archive.is_file() and _folder(place) == place else None


def _named(files: Iterator[Path], keys: Sequence[str], place: Path) -> dict[str, Path]:
    found = {_key(path.name, LABELS): path for path in files}
    _check_names(found, keys, place)
    return found


def _check_names(found: Collection[str], keys: Sequence[str], place: Path) -> None:
    if missing := [key for key in keys if key not in found]:
        raise UserError(
            f"{place} lacks {missing[0]}{LABELS}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}; "
            f"--official takes the set's ground truth, a folder with gtFine/SPLIT/CITY/*{LABELS} or with {ZIP}"
        )


def _members(archive: Path) -> list[str]:
    with _opened(archive) as opened:
        return [PurePosixPath(name).name for name in opened.namelist()]


def _unpack(archive: Path, keys: set[str], folder: Path) -> None:
    with _opened(archive) as opened:
        for entry in opened.infolist():
            name = PurePosixPath(entry.filename).name
            if {_key(name, LABELS), _key(name, INSTANCES)} & keys and entry.file_size <= MAX_FILE:
                (folder / name).write_bytes(opened.read(entry))


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise UserError(f"{archive} is not a readable zip ({error}); download it again") from None


def _key(name: str, ending: str) -> str:
    """Keys of records are in lower case; empty for other files."""
    return name.removesuffix(ending).lower() if name.endswith(ending) else ""


def instances_of(labels: Path) -> Path:
    """The instanceIds that belong to a file of labelIds."""
    return labels.with_name(labels.name.removesuffix(LABELS) + INSTANCES)


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image file, from its header; :class:`UserError` for what is none."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise UserError(f"{path} is no readable image ({error}); get it again") from None


def other_size(what: str, ours: tuple[int, int], truth: Path, theirs: tuple[int, int]) -> str:
    """The sentence about ``what`` and its ground truth of two sizes (height, width)."""
    return (
        f"the {what} has {ours[1]}×{ours[0]} pixels, its ground truth {truth} has {theirs[1]}×{theirs[0]}; "
        "pack the set at full size (without --height) for --official"
    )
