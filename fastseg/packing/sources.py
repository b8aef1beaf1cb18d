"""Where samples come from: Cityscapes as its two zips or extracted, or any folder of images and masks."""

import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from fastseg.errors import UserError
from fastseg.labels import MAX_NAME, LabelTable, cityscapes, parse_name, read_classes
from fastseg.shards.manifest import NAME as MANIFEST
from fastseg.shards.tar import KEY, MAX_FILE, MAX_KEY, SPLITS


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


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
CLASSES = "classes.json"
"""Beside the splits of one's own data: what their masks' pixels mean."""
NAME_FILE = "leftImg8bit/name.txt"
"""What a set in Cityscapes' layout is called whose pictures are others; it lies beside them, and goes with them."""

_DOWNLOAD = (
    "download it with: csDownload -d data leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip "
    "(a free account of cityscapes-dataset.com is needed; leave the zips as they are)"
)


@dataclass(frozen=True)
class Sample:
    """One image and its mask, before decoding."""

    key: str
    """Name in the shards, ``[a-z0-9_-]+``, unique in its split."""
    split: str
    image: Member
    mask: Member | None
    """None in a split that is packed for prediction."""


@dataclass(frozen=True)
class Source:
    """A data set's samples, ordered by split and key, and what its masks mean."""

    table: LabelTable
    samples: tuple[Sample, ...]


def open_source(
    place: Path | None = None, classes: Path | None = None, splits: tuple[str, ...] | None = None
) -> Source:
    """Find the samples of whatever data set lies in the folder ``place``; nothing is decoded yet.

    Recognized are Cityscapes (``leftImg8bit`` and ``gtFine``, each as a folder or as its official
    ``…_trainvaltest.zip``, read without extracting) and ``{train,val,test}/{images,masks}/STEM.*`` with a
    ``classes.json``. Without ``place``: ``$CITYSCAPES_DATASET``, then ``data/``. ``classes`` replaces
    Cityscapes' own table of labels or ``place/classes.json``; ``splits`` keeps only these of train, val, test.
    A folder in Cityscapes' layout may name itself otherwise in :data:`NAME_FILE`.

    Raises :class:`UserError` where there is no data set, or an image without its mask or the reverse.
    """
    named = (Path(os.environ.get("CITYSCAPES_DATASET") or "data"), Path("data"))
    places = dict.fromkeys(named if place is None else (place.parent if place.suffix == ".zip" else place,))
    for folder in places:
        if found := _open_cityscapes(folder, classes) or _open_folder(folder, classes):
            return _select(found, splits, folder)
    if place is not None:
        raise UserError(_what_else(place))
    looked = " nor in ".join(str(folder.absolute()) for folder in places)
    raise UserError(f"no Cityscapes and no {{train,val}}/{{images,masks}} in {looked}; {_DOWNLOAD}")


def _what_else(place: Path) -> str:
    """What is in a place that holds no data set, and what should be."""
    if not place.exists():
        return f"{place} does not exist; name the folder of the data set"
    if not place.is_dir():
        return f"{place} is a file; {'unpack it and ' if place.suffix == '.zip' else ''}name the folder of the data set"
    if (place / MANIFEST).exists():
        return f"{place} is a packed set already; train on it with --shards {place}, or name the folder it came from"
    if (place / "images").is_dir():
        found = "holds images but no splits"
    elif names := _names(place):
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        found = f"holds {', '.join(names[:4])}{more}, but no {{train,val}}/{{images,masks}} and no Cityscapes"
    else:
        found = "is empty"
    return (
        f"{place} {found}; put images into {place}/train/images and {place}/val/images, "
        "and the masks into …/masks beside them (docs/data.md)"
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None


def _select(source: Source, splits: tuple[str, ...] | None, folder: Path) -> Source:
    wanted = splits or SPLITS
    if unknown := [split for split in wanted if split not in SPLITS]:
        raise UserError(f"--splits has {unknown[0]!r}; it takes {', '.join(SPLITS)}")
    found = {sample.split for sample in source.samples}
    if missing := [split for split in wanted if split not in found and (splits or not found)]:
        raise UserError(
            f"{folder} holds no image of the split {missing[0]}, only of: {', '.join(sorted(found)) or '-'}"
        )
    return Source(source.table, tuple(sample for sample in source.samples if sample.split in wanted))


def _open_cityscapes(root: Path, classes: Path | None) -> Source | None:
    images = _package(root, "leftImg8bit", "_leftImg8bit.png")
    masks = _package(root, "gtFine", "_gtFine_labelIds.png")
    if images is None and masks is None:
        return None
    if images is None or masks is None:
        missing = "leftImg8bit" if images is None else "gtFine"
        raise UserError(f"{root} has no {missing} (neither the folder nor {missing}_trainvaltest.zip); {_DOWNLOAD}")
    # The masks of Cityscapes' test split are placeholders: its labels are not published.
    masks = [(split, stem, member) for split, stem, member in masks if split != "test"]
    table = read_classes(classes) if classes else replace(cityscapes(), name=_name(root))
    return Source(table, _pair(images, masks, unlabeled={"test"}))


def _name(root: Path) -> str:
    """What a set in Cityscapes' layout is called: Cityscapes, unless it says otherwise itself."""
    path = root / NAME_FILE
    if not path.is_file():
        return cityscapes().name
    try:
        with path.open(encoding="utf-8") as file:
            return parse_name(file.readline(MAX_NAME + 2).strip(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); write the name of the set into it, or remove it") from None


def _open_folder(root: Path, classes: Path | None) -> Source | None:
    splits = [split for split in SPLITS if (root / split / "images").is_dir()]
    if not splits:
        return None
    if classes is None and not (root / CLASSES).exists():
        raise UserError(
            f"{root / CLASSES} does not exist; make_shards.py --guess-classes makes one from the masks, "
            "in which you then write the names"
        )
    table = read_classes(classes or root / CLASSES)
    images = [item for split in splits for item in _folder(root, split, "images")]
    masks = [item for split in splits for item in _folder(root, split, "masks")]
    _check_lossless([member for _, _, member in masks])
    unlabeled = {"test"} - {split for split, _, _ in masks}
    return Source(table, _pair(images, masks, unlabeled))


def find_masks(root: Path) -> list[Member]:
    """The masks of a folder ``{train,val,test}/{images,masks}/STEM.*``, in order.

    Raises :class:`UserError` where there are none, or of a kind that changes labels.
    """
    masks = [member for split in SPLITS for _, _, member in _folder(root, split, "masks")]
    if not masks:
        raise UserError(f"{root} holds no masks in train/masks or val/masks, from which --guess-classes could guess")
    _check_lossless(masks)
    return masks


def _check_lossless(masks: list[Member]) -> None:
    if wrong := [mask for mask in masks if not mask.filename.lower().endswith(MASK_SUFFIXES)]:
        raise UserError(f"the mask {wrong[0]} must be one of {', '.join(MASK_SUFFIXES)}: lossy files change labels")


_Found = tuple[str, str, Member]
"""Split, stem, file."""


def _package(root: Path, package: str, ending: str) -> list[_Found] | None:
    """The files ``package/SPLIT/CITY/STEM{ending}``, from the folder or else from the zip; None without either."""
    folder, archive = root / package, root / f"{package}_trainvaltest.zip"
    if folder.is_dir():
        files = [(path.relative_to(root).as_posix(), file_member(path)) for path in folder.glob(f"*/*/*{ending}")]
    elif archive.is_file():
        files = [(member.name, member) for member in zip_members(archive)]
    else:
        return None
    found = []
    for name, member in files:
        parts = name.split("/")
        if len(parts) == 4 and parts[0] == package and parts[1] in SPLITS and name.endswith(ending):
            found.append((parts[1], parts[3].removesuffix(ending), member))
    return found


def _folder(root: Path, split: str, kind: str) -> Iterator[_Found]:
    folder = root / split / kind
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            yield split, path.stem, file_member(path)


def _pair(images: Iterable[_Found], masks: Iterable[_Found], unlabeled: set[str]) -> tuple[Sample, ...]:
    """Samples ordered by split and key; every image needs its mask and the reverse."""
    image_of, mask_of = _by_key(images), _by_key(masks)
    if lonely := [image_of[key] for key in sorted(image_of.keys() - mask_of.keys()) if key[0] not in unlabeled]:
        raise UserError(f"the image {lonely[0]} has no mask{_more(lonely)}; add the mask or remove the image")
    if lonely := [mask_of[key] for key in sorted(mask_of.keys() - image_of.keys())]:
        raise UserError(f"the mask {lonely[0]} has no image{_more(lonely)}; add the image or remove the mask")
    order = sorted(image_of, key=lambda key: (SPLITS.index(key[0]), key[1]))
    return tuple(Sample(key, split, image_of[split, key], mask_of.get((split, key))) for split, key in order)


def _by_key(files: Iterable[_Found]) -> dict[tuple[str, str], Member]:
    found: dict[tuple[str, str], Member] = {}
    for split, stem, member in files:
        key = stem.lower()
        if not KEY.fullmatch(key) or len(key) > MAX_KEY:
            raise UserError(
                f"the name of {member} is not allowed; rename it to at most {MAX_KEY} letters, digits, _ and -"
            )
        if (split, key) in found:
            raise UserError(f"{found[split, key]} and {member} both have the key {key!r}; rename one of them")
        found[split, key] = member
    return found


def _more(members: list[Member]) -> str:
    return f" (and {len(members) - 1} more)" if len(members) > 1 else ""
