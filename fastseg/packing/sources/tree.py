"""Files of a data set by name, in a folder or in a zip or tar that is read without extracting it."""

import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fastseg.errors import UserError
from fastseg.packing.masks import DecodedMask, decode_mask
from fastseg.packing.sources.words import SPLIT_WORDS
from fastseg.shards.tar import MAX_FILE
from fastseg.storage import read_bytes

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
ARCHIVE_SUFFIXES = (".zip", ".tar")


@dataclass(frozen=True)
class Member:
    """An input file: a plain file, or a member of a zip or tar."""

    path: Path
    """Path of the file or of the archive."""
    size: int
    """Uncompressed size in bytes."""
    stamp: int
    """Stamp that changes with the content: CRC of a zip member, else modification time of ``path`` in ns."""
    name: str = ""
    """Name inside the archive, without ``./`` and ``//``; empty for a plain file."""
    offset: int | None = None
    """Byte offset of a tar member's data; None for other files."""

    def __str__(self) -> str:
        return f"{self.path}:{self.name}" if self.name else str(self.path)

    @property
    def filename(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.name or self.path).name

    def read(self) -> bytes:
        """Return all bytes; raise :class:`UserError` if they cannot be read. Checksums of zips are checked."""
        if self.size > MAX_FILE:
            raise UserError(f"{self} has {self.size:,} bytes; no image needs more than {MAX_FILE:,}")
        try:
            return self._read()
        except Exception as error:  # zipfile and its decompressors raise many types for damaged members
            raise self._unreadable(error) from None

    def head(self, count: int) -> bytes:
        """Return at most the first ``count`` bytes; raise :class:`UserError` if they cannot be read."""
        try:
            if self.name and self.offset is None:
                archive, entries = _zip(self.path)
                with archive.open(entries[self.name]) as member:
                    return member.read(count)
            with self.path.open("rb") as file:
                file.seek(self.offset or 0)
                return file.read(min(count, self.size))
        except Exception as error:  # see read
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> UserError:
        if isinstance(error, PermissionError):
            return UserError(f"{self} cannot be read ({error.strerror}); check the permissions of the file")
        return UserError(f"{self} cannot be read ({error}); get the file again")

    def _read(self) -> bytes:
        if not self.name:
            return read_bytes(self.path, MAX_FILE)
        if self.offset is None:
            archive, entries = _zip(self.path)
            return archive.read(entries[self.name])
        with self.path.open("rb") as file:
            file.seek(self.offset)
            if len(data := file.read(self.size)) < self.size:
                raise EOFError("the tar ends early")
        return data

    def decode(self, lossy: bool = False) -> DecodedMask:
        """Return the values or colors of a mask; raise :class:`UserError` as :func:`decode_mask`."""
        return decode_mask(self.read(), str(self), lossy)


class Found(NamedTuple):
    """A file with its split and stem."""

    split: str
    """train, val or test; empty if unknown."""
    stem: str
    """Common part of the names of an image and its mask: folders and file name without its ending."""
    member: Member
    name: str = ""
    """Name relative to the data set, with slashes."""


class Tree:
    """Files of a folder or archive; names are relative and use slashes: ``train/images/a.png``.

    Hidden files and folders are left out. Links are followed, into each real folder once.
    """

    def __init__(self, path: Path, archives: tuple[str, ...] = (), archives_only: bool = False) -> None:
        """Open the folder or archive ``path``.

        ``archives`` are glob patterns of zips and tars in the folder, which supply files that the folder lacks.
        ``archives_only`` leaves out all other files of the folder.
        """
        self._files, self._archives, self._prefix = _Listing(path, archives_only), archives, ""

    @property
    def root(self) -> Path:
        """Folder to which names are relative; it may lie inside an archive."""
        return self._files.root / self._prefix

    def with_archives(self, archives: tuple[str, ...]) -> "Tree":
        """Return the same files with other archives; the folder is listed only once."""
        return self._like(archives, self._prefix)

    def below(self, folder: str) -> "Tree":
        """Return the files of one of its folders."""
        return self._like(self._archives, f"{self._prefix}{folder}/")

    def _like(self, archives: tuple[str, ...], prefix: str) -> "Tree":
        other = copy(self)
        other.__dict__ = {"_files": self._files, "_archives": archives, "_prefix": prefix}  # without cached properties
        return other

    def has(self, name: str) -> bool:
        """Return whether a file or folder exists."""
        exists = not self._files.archives_only and (self.root / name).exists()
        return exists or any(n == name or n.startswith(f"{name}/") for n in self._archived)

    @cached_property
    def files(self) -> list[str]:
        """Names of all files in order: those of the folder, or those of its archives if it has no image.

        Raises :class:`UserError` for a folder or archive that cannot be read.
        """
        return self._own if self._own_images() else sorted({*self._own, *self._archived})

    @cached_property
    def images(self) -> list[str]:
        """Names of all files that may be images or masks, in order."""
        return [name for name in self.files if is_image(name)]

    def ending(self, *suffixes: str) -> list[str]:
        """Return the names of the files with these endings, in order: of the folder, or else of its archives."""
        for candidates in (self._own, self._archived):
            if found := [name for name in candidates if name.lower().endswith(suffixes)]:
                return sorted(found)
        return []

    def names(self, pattern: str) -> list[str]:
        """Return the names of the images that match a pattern such as ``{split}/images/{stem}.*``, in order.

        ``{split}`` is train, val, test or a synonym; ``*`` and ``{stem}`` match any part of a name without slashes;
        ``**/`` matches any number of folders; case is ignored. All names are of the folder, or else of its archives.
        Raises :class:`UserError` for a folder or archive that cannot be read.
        """
        shape = _compile(pattern)
        for candidates in (self._own_images, self._archived_images):
            if found := [name for name in candidates() if shape.fullmatch(name)]:
                return found
        return []

    def stems(self, pattern: str) -> list[str]:
        """Return the stems of the files that match a pattern (see :meth:`names`) without opening them."""
        return [stem for _, stem, _ in self._match(pattern)]

    def find(self, pattern: str) -> list[Found]:
        """Return the files that match a pattern as in :meth:`names`; raise :class:`UserError` for special files.

        Their stems are the parts that ``**/`` and ``{stem}`` match.
        """
        return [Found(split, stem, self[name], name) for split, stem, name in self._match(pattern)]

    def _match(self, pattern: str) -> Iterator[tuple[str, str, str]]:
        matches = ((name, _compile(pattern).fullmatch(name)) for name in self.names(pattern))
        return ((*_split_and_stem(match), name) for name, match in matches if match)

    def __getitem__(self, name: str) -> Member:
        """Return a file of the folder, or else of its archives; raise :class:`KeyError` if it does not exist."""
        path = self.root / name
        if not self._files.archives_only and os.path.lexists(path):
            return file_member(path)
        return self._archived[name]

    @cached_property
    def hidden(self) -> list[str]:
        """Names of the images that only a dot before their own name hides; not the notes of a Mac (``._a.jpg``)."""
        names = self._files.everything if self._own_images() else self._files.archived(self._archives)
        inside = (name[len(self._prefix) :] for name in names if name.startswith(self._prefix))
        parts = ((name, *name.rpartition("/")[::2]) for name in inside if is_image(name))
        return sorted(
            name for name, folder, file in parts if re.match(r"\.[^._]", file) and not _is_hidden(f"{folder}/x")
        )

    @cached_property
    def _own(self) -> list[str]:
        """Names of the folder's own files, in order."""
        return sorted(self._visible(self._files.walked)) if self._prefix else self._files.walked

    def _own_images(self) -> list[str]:
        return self._files.images if not self._prefix else [name for name in self._own if is_image(name)]

    def _archived_images(self) -> list[str]:
        return sorted(name for name in self._archived if is_image(name))

    @cached_property
    def _archived(self) -> dict[str, Member]:
        """Members of the archives by name."""
        members = self._files.archived(self._archives)
        return {name: members[self._prefix + name] for name in self._visible(members)}

    def _visible(self, names: Iterable[str]) -> Iterator[str]:
        """Return the names below the prefix that are not hidden, without the prefix."""
        start = len(self._prefix)
        relative = (name[start:] for name in names if name.startswith(self._prefix))
        return (name for name in relative if not _is_hidden(name))


class _Listing:
    """Names of all files in a folder and its archives, read on first use."""

    def __init__(self, root: Path, archives_only: bool) -> None:
        self.root, self.archives_only = root, archives_only

    @cached_property
    def everything(self) -> list[str]:
        """Names of the files in all folders that are not hidden."""
        return [] if self.archives_only else [*_walk(self.root)]

    @cached_property
    def walked(self) -> list[str]:
        """Names of the visible files of the folder, in order."""
        return sorted(name for name in self.everything if not _is_hidden(name))

    @cached_property
    def images(self) -> list[str]:
        """Names of the files of the folder that may be images."""
        return [name for name in self.walked if is_image(name)]

    def archived(self, patterns: tuple[str, ...]) -> dict[str, Member]:
        """Return the members of the archives that match ``patterns``, by name.

        Raises :class:`UserError` for two archives with different images or annotations of one name.
        """
        if not self.root.is_dir():
            paths = [self.root]
        else:
            paths = [path for pattern in patterns for path in sorted(self.root.glob(pattern))]
        archives = (archive_members(path, path.stat().st_mtime_ns) for path in paths if is_archive(path))
        found: dict[str, Member] = {}
        for member in chain.from_iterable(archives):
            known = found.setdefault(member.name, member)
            if _differ(known, member) and (is_image(member.name) or member.name.lower().endswith((".json", ".xml"))):
                raise UserError(
                    f"{known.path} and {member.path} both hold {member.name}, and not the same; extract each into a "
                    "folder of its own"
                )
        return found


def _differ(one: Member, other: Member) -> bool:
    """Return whether two members of archives surely differ; zips tell the CRC of their members, tars the size alone."""
    zipped = one.offset is None and other.offset is None
    return one.size != other.size or (zipped and one.stamp != other.stamp)


def is_archive(path: Path) -> bool:
    """Return whether the name of a file is that of a zip or tar that can be read without extracting it."""
    return path.suffix.lower() in ARCHIVE_SUFFIXES and path.is_file()


def is_image(name: str) -> bool:
    """Return whether the name of a file has the ending of an image or mask."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX/")) or "/." in name


_FIELDS = {
    "{split}": rf"(?P<split>{'|'.join(SPLIT_WORDS)})",
    "{stem}": "(?P<stem>[^/]+)",
    "*": "[^/]*",
    "?": "[^/]",
}


@lru_cache
def _compile(pattern: str) -> re.Pattern[str]:
    """Compile a pattern; each ``**/`` becomes an unnamed group."""
    parts = re.split(r"(\{split\}|\{stem\}|\*\*/|\*|\?)", pattern)
    seen, text = set[str](), ""
    for part in parts:
        again = part in seen and part[:1] == "{"  # a repeated {split} or {stem}
        text += f"(?P={part[1:-1]})" if again else "((?:.+/)?)" if part == "**/" else _FIELDS.get(part, re.escape(part))
        seen.add(part)
    return re.compile(text, re.IGNORECASE)


def _split_and_stem(match: re.Match[str]) -> tuple[str, str]:
    named = match.groupdict()
    ours = {match.re.groupindex[name] for name in named}
    folders = "".join(text for number, text in enumerate(match.groups(), 1) if number not in ours)
    return SPLIT_WORDS[named["split"].lower()] if "split" in named else "", folders + named.get("stem", "")


def _walk(root: Path) -> Iterator[str]:
    """Yield the names of the files below ``root``; links are followed, into each real folder once."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None

    seen = set[str]()
    for parent, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "lost+found")
        relative = os.path.relpath(parent, root)
        yield from (name if relative == "." else f"{relative}/{name}" for name in files)


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
    """Return the files in a zip or tar that was last modified at ``stamp`` (ns).

    Raises :class:`UserError` if it is damaged, encrypted or a compressed tar, for members with unsafe names or types,
    and for different members of one name.
    """
    kind = path.suffix.lower()[1:]
    try:
        members = _zip_members(path) if kind == "zip" else _tar_members(path, stamp)
    except UserError:
        raise
    except Exception as error:  # zipfile also raises NotImplementedError, UnicodeDecodeError, struct.error …
        raise UserError(f"{path} is not a readable {kind} ({error}); download it again") from None
    first: dict[str, Member] = {}
    for member in members:
        if _differ(first.setdefault(member.name, member), member):
            raise UserError(
                f"{path} holds {member.name!r} twice, and not the same; extract it, keep the one that is meant, and "
                "name the folder"
            )
    return tuple(members)


def _member_name(path: Path, name: str) -> str:
    """Return the name of a member as a folder's file has it: ``a/b.png`` for ``./a//b.png``.

    Raises :class:`UserError` for names with backslashes, and for those that point elsewhere.
    """
    if "\\" in name:
        raise UserError(f"{path} has a member with backslashes, {name!r}; extract it, and name the folder")
    inside = PurePosixPath(name)
    if ".." in inside.parts or inside.is_absolute():
        raise UserError(f"{path} has a member that points elsewhere, {name!r}; download it again")
    return str(inside)


def _zip_members(path: Path) -> list[Member]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):  # 0: made on a system without file types
            raise _unsafe_member(path, entry.filename, stat.S_ISLNK(kind))
        if entry.flag_bits & 1:
            raise UserError(f"{path} is encrypted ({entry.filename!r}); give it without a password")
    files = [entry for entry in entries if not entry.is_dir()]
    return [Member(path, entry.file_size, entry.CRC, _member_name(path, entry.filename)) for entry in files]


def _tar_members(path: Path, stamp: int) -> list[Member]:
    members, last = list[Member](), -1
    with tarfile.open(path, "r:") as archive:
        for entry in archive:
            if entry.offset <= last:  # a forged header can lead back to itself
                raise ValueError("its members overlap")
            last = entry.offset
            if not (entry.isdir() or entry.isreg()) or entry.issparse():
                raise _unsafe_member(path, entry.name, entry.issym() or entry.islnk())
            if entry.isreg():
                members.append(Member(path, entry.size, stamp, _member_name(path, entry.name), entry.offset_data))
        with path.open("rb") as file:  # tarfile takes a tar without its last blocks as whole
            file.seek(archive.offset)
            if file.read(512) != bytes(512):
                raise ValueError("it ends early, without blocks of zeros")
    return members


def _unsafe_member(path: Path, name: str, link: bool) -> UserError:
    what = "symbolic link" if link else "device or pipe"
    return UserError(f"{path} has a {what} as a member, {name!r}; download it again")


@lru_cache(maxsize=4)
def _zip(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Open a zip once per process, and return its files by name, the last one of equal names.

    Reading the directory of 20,000 members takes longer than an image.
    """
    archive = zipfile.ZipFile(path)
    return archive, {str(PurePosixPath(entry.filename)): entry for entry in archive.infolist() if not entry.is_dir()}
