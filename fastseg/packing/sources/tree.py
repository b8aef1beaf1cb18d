"""The files of a data set by their names, wherever they lie: in a folder, or in a zip or tar that is not extracted."""

import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fastseg.errors import UserError
from fastseg.packing.masks import DecodedMask, decode_mask
from fastseg.shards.tar import MAX_FILE, SPLITS

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
ARCHIVE_SUFFIXES = (".zip", ".tar")


@dataclass(frozen=True)
class Member:
    """One input file: a plain file, or a member of a zip or tar."""

    path: Path
    """The file, or the archive."""
    size: int
    """Bytes, unpacked."""
    stamp: int
    """Changes with the content: a zip member's CRC, or else the time at which ``path`` was modified, in ns."""
    name: str = ""
    """Name inside the archive; empty for a plain file."""
    offset: int | None = None
    """Where a tar's member begins, in bytes."""

    def __str__(self) -> str:
        return f"{self.path}:{self.name}" if self.name else str(self.path)

    @property
    def filename(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.name or self.path).name

    def read(self) -> bytes:
        """Return all bytes; raise :class:`UserError` where they cannot be had (a zip's check sums are checked)."""
        if self.size > MAX_FILE:
            raise UserError(f"{self} has {self.size:,} bytes; no image needs more than {MAX_FILE:,}")
        try:
            return self._read()
        except Exception as error:  # zipfile and its decompressors raise all kinds for damaged members
            raise UserError(f"{self} cannot be read ({error}); get the file again") from None

    def head(self, count: int) -> bytes:
        """Return at most its first ``count`` bytes; raise :class:`UserError` where they cannot be had."""
        try:
            if self.name and self.offset is None:
                with _zip(self.path).open(self.name) as member:
                    return member.read(count)
            with self.path.open("rb") as file:
                file.seek(self.offset or 0)
                return file.read(min(count, self.size))
        except Exception as error:  # see read
            raise UserError(f"{self} cannot be read ({error}); get the file again") from None

    def _read(self) -> bytes:
        if not self.name:
            return self.path.read_bytes()
        if self.offset is None:
            return _zip(self.path).read(self.name)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            if len(data := file.read(self.size)) < self.size:
                raise EOFError("the tar ends early")
        return data

    def decode(self, lossy: bool = False) -> DecodedMask:
        """Return the values or colors of a mask; raise :class:`UserError` as :func:`decode_mask` does."""
        return decode_mask(self.read(), str(self), lossy)


class Found(NamedTuple):
    """A file of a split."""

    split: str
    stem: str
    member: Member


class Tree:
    """The files of a folder, or of an archive; names are relative and have slashes: ``train/images/a.png``."""

    def __init__(self, root: Path, archives: tuple[str, ...] = ()) -> None:
        """Look into the folder or archive ``root``.

        ``archives`` are glob patterns of zips and tars in the folder, which are opened for what it has not itself.
        """
        self.root, self._archives = root, archives

    def has(self, name: str) -> bool:
        """Return whether there is such a file or folder."""
        below = f"{name}/"
        return (self.root / name).exists() or any(n == name or n.startswith(below) for n in self._archived)

    def names(self, pattern: str) -> list[str]:
        """Return the names of the images that fit a pattern such as ``{split}/images/{stem}.*``, in order.

        ``{split}`` is train, val or test, ``*`` and ``{stem}`` are any part of a name without slashes, ``**/`` is any
        number of folders. Hidden files are left out. All are of the folder, or else of its archives.
        Raises :class:`UserError` for a folder or archive that cannot be read.
        """
        shape = _compile(pattern)
        files = {name: None for folder in _folders(pattern) for name in _walk(self.root, folder)}
        for candidates in (files, self._archived):
            if found := [name for name in candidates if shape.fullmatch(name) and _is_image(name)]:
                return sorted(found)
        return []

    def find(self, pattern: str) -> list[Found]:
        """Return the files whose :meth:`names` fit a pattern; raise :class:`UserError` for what is no plain file."""
        matches = ((name, _compile(pattern).fullmatch(name)) for name in self.names(pattern))
        return [Found(match["split"], match["stem"], self[name]) for name, match in matches if match]

    def __getitem__(self, name: str) -> Member:
        """Return a file of the folder, or else of its archives; raise :class:`KeyError` where there is none."""
        path = self.root / name
        return file_member(path) if os.path.lexists(path) else self._archived[name]

    @cached_property
    def _archived(self) -> dict[str, Member]:
        """Map names to the archives' members."""
        if not self.root.is_dir():
            paths = [self.root]
        else:
            paths = [path for pattern in self._archives for path in sorted(self.root.glob(pattern))]
        members = (archive_members(path, path.stat().st_mtime_ns) for path in paths if is_archive(path))
        return {member.name: member for member in chain.from_iterable(members)}


def is_archive(path: Path) -> bool:
    """Return whether a file's name says that it is a zip or tar that is read without extracting it."""
    return path.suffix.lower() in ARCHIVE_SUFFIXES and path.is_file()


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.rpartition("/")[2].startswith(".")


_FIELDS = {
    "{split}": rf"(?P<split>{'|'.join(SPLITS)})",
    "{stem}": "(?P<stem>[^/]+)",
    "**/": "(?:.+/)?",
    "*": "[^/]*",
}


@lru_cache
def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\{split\}|\{stem\}|\*\*/|\*)", pattern)
    return re.compile("".join(_FIELDS.get(part, re.escape(part)) for part in parts))


def _folders(pattern: str) -> list[str]:
    """Return the deepest folders below which all that fits a pattern lies."""
    patterns = [pattern.replace("{split}", split) for split in SPLITS]
    return list(dict.fromkeys(re.split(r"[^/]*[*{]", text)[0] for text in patterns))


def _walk(root: Path, below: str) -> Iterator[str]:
    """Yield the names of the files in a folder of ``root``; links are followed, into each real folder once."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None

    seen = set[str]()
    for parent, folders, files in os.walk(root / below, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
        else:
            seen.add(real)
            relative = os.path.relpath(parent, root)
            yield from files if relative == "." else (f"{relative}/{file}" for file in files)


def file_member(path: Path) -> Member:
    """Return the plain file ``path``; raise :class:`UserError` for anything else."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):  # a device has no end, a pipe no beginning
        raise UserError(f"{path} is no plain file; remove it")
    return Member(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def archive_members(path: Path, stamp: int) -> tuple[Member, ...]:
    """Return the files in a zip or tar, which was last modified at ``stamp`` (ns).

    Raises :class:`UserError` where it is damaged or encrypted, a compressed tar, or has members that would do harm.
    """
    kind = path.suffix.lower()[1:]
    try:
        members = _zip_members(path) if kind == "zip" else _tar_members(path, stamp)
    except UserError:
        raise
    except Exception as error:  # zipfile raises NotImplementedError, UnicodeDecodeError, struct.error … too
        raise UserError(f"{path} is not a readable {kind} ({error}); download it again") from None
    for member in members:
        if ".." in PurePosixPath(member.name).parts or "\\" in member.name or member.name.startswith("/"):
            raise UserError(f"{path} has a member that points elsewhere, {member.name!r}; download it again")
    return tuple(members)


def _zip_members(path: Path) -> list[Member]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):  # 0: made on a system without such kinds
            raise _odd_member(path, entry.filename, stat.S_ISLNK(kind))
        if entry.flag_bits & 1:
            raise UserError(f"{path} is encrypted ({entry.filename!r}); give it without a password")
    return [Member(path, entry.file_size, entry.CRC, entry.filename) for entry in entries if not entry.is_dir()]


def _tar_members(path: Path, stamp: int) -> list[Member]:
    members, last = list[Member](), -1
    with tarfile.open(path, "r:") as archive:
        for entry in archive:
            if entry.offset <= last:  # a forged header can lead back to itself
                raise ValueError("its members overlap")
            last = entry.offset
            if not (entry.isdir() or entry.isreg()) or entry.issparse():
                raise _odd_member(path, entry.name, entry.issym() or entry.islnk())
            if entry.isreg():
                members.append(Member(path, entry.size, stamp, entry.name.removeprefix("./"), entry.offset_data))
    return members


def _odd_member(path: Path, name: str, link: bool) -> UserError:
    what = "symbolic link" if link else "device or pipe"
    return UserError(f"{path} has a {what} as a member, {name!r}; download it again")


@lru_cache(maxsize=4)
def _zip(path: Path) -> zipfile.ZipFile:
    """Open a zip once in each process: reading the directory of 20,000 members takes longer than an image."""
    return zipfile.ZipFile(path)
