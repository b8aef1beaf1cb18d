"""The input files of a data set: plain files, and members of zips, which are not extracted."""

import stat
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from fastseg.errors import UserError

MAX_FILE = 1 << 29
"""Bytes; the largest image that is packed takes as many uncompressed at 16 bits. So does what a hostile zip holds."""


@dataclass(frozen=True)
class Member:
    """One input file: a plain file, or a member of a zip."""

    path: Path
    """The file, or the zip."""
    size: int
    """Bytes, unpacked."""
    stamp: int
    """Changes with the content: the time of modification in ns, or the zip member's CRC."""
    name: str = ""
    """Name inside the zip; empty for a plain file."""

    def __str__(self) -> str:
        return f"{self.path}:{self.name}" if self.name else str(self.path)

    @property
    def filename(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.name or self.path).name

    def read(self) -> bytes:
        """All bytes; :class:`UserError` where they cannot be had (a zip's check sums are checked)."""
        if self.size > MAX_FILE:
            raise UserError(f"{self} has {self.size:,} bytes; no image needs more than {MAX_FILE:,}")
        try:
            return _zip(self.path).read(self.name) if self.name else self.path.read_bytes()
        except Exception as error:  # zipfile and its decompressors raise all kinds for damaged members
            raise UserError(f"{self} cannot be read ({error}); get the file again") from None


def file_member(path: Path) -> Member:
    """The plain file ``path``; :class:`UserError` for anything else."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):  # a device has no end, a pipe no beginning
        raise UserError(f"{path} is no plain file; remove it")
    return Member(path, status.st_size, status.st_mtime_ns)


def zip_members(path: Path) -> list[Member]:
    """The files in a zip; :class:`UserError` where it is damaged, encrypted, or has members that would do harm."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises NotImplementedError, UnicodeDecodeError, struct.error … too
        raise UserError(f"{path} is not a readable zip ({error}); download it again") from None
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if ".." in parts or "\\" in entry.filename or entry.filename.startswith("/"):
            raise UserError(f"{path} has a member that points elsewhere, {entry.filename!r}; download it again")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):  # 0: made on a system without such kinds
            what = "symbolic link" if stat.S_ISLNK(kind) else "device or pipe"
            raise UserError(f"{path} has a {what} as a member, {entry.filename!r}; download it again")
        if entry.flag_bits & 1:
            raise UserError(f"{path} is encrypted ({entry.filename!r}); give it without a password")
    return [Member(path, entry.file_size, entry.CRC, entry.filename) for entry in entries if not entry.is_dir()]


@lru_cache(maxsize=4)
def _zip(path: Path) -> zipfile.ZipFile:
    """One open handle in each process: reading the directory of 20,000 members takes longer than an image."""
    return zipfile.ZipFile(path)
