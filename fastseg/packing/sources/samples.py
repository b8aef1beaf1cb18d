"""Samples: pairs of an image and its mask, matched by their names."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol, TypeVar

from fastseg.errors import UserError
from fastseg.packing.masks import DecodedMask
from fastseg.packing.sources.tree import Found, Member, Tree
from fastseg.packing.sources.words import SPLIT_WORDS, read_folder, without_ending
from fastseg.shards.tar import KEY, MAX_KEY, SPLITS

ARCHIVE = re.compile(r"(?i)\.(zip|tar|tgz|tar\.\w+|7z|rar)$")
"""Endings of archives, of which those beside plain files are not read."""
OneFile = TypeVar("OneFile", bound="Found | Labeled")
NAMED = 20
"""Number of files that a message names for each kind of problem."""


class Mask(Protocol):
    """Origin of a sample's labels: a file such as :class:`Member`, or shapes to draw; workers unpickle it."""

    @property
    def filename(self) -> str:
        """Last part of the path."""

    @property
    def size(self) -> int:
        """Size in bytes."""

    @property
    def stamp(self) -> int:
        """Stamp that changes with the content."""

    def decode(self, lossy: bool = False) -> DecodedMask:
        """Return values or colors; raise :class:`UserError` for unreadable masks.

        ``lossy`` also accepts files with a lossy compression.
        """


@dataclass(frozen=True)
class Sample:
    """An image and its mask, before decoding."""

    key: str
    """Name in the shards, ``[a-z0-9_-]+``, unique in its split."""
    split: str
    image: Member
    mask: Mask | None
    """None in a split that is packed for prediction."""
    name: str = ""
    """Original name of the image relative to the data set, so that a record can be traced."""


class Labeled(NamedTuple):
    """A mask that is not a file of its own; the counterpart of :class:`Found`."""

    split: str
    stem: str
    member: Mask
    name: str = ""


class Files(NamedTuple):
    """Files that a source finds."""

    images: Sequence[Found]
    masks: Sequence[Found | Labeled]
    """Each mask belongs to the image of the same split and stem."""
    unread: Sequence[tuple[str, str]] = ()
    """Files among them that cannot be read, with the reason; an error like an image without a mask."""
    strays: Sequence[tuple[str, str]] = ()
    """Images outside the set, with the reason; they are left out and listed."""


def with_strays(tree: Tree, files: Files, named: bool) -> Files:
    """Return files with those as strays, too, that their source passes over in silence.

    These are images that only a dot hides, archives beside files and, if annotations name the images (``named``),
    images in the same folders that none names.
    """
    images = {image.name for image in files.images}
    known = images | {name for name, _ in (*files.strays, *files.unread)}
    folders = {name.rpartition("/")[0] for name in images} if named else set[str]()
    members = (file.member for file in (*files.images, *files.masks))
    read = {member.path for member in members if isinstance(member, Member)}
    others = [name for name in tree.images if name.rpartition("/")[0] in folders and name not in known]
    archives = [name for name in tree.files if ARCHIVE.search(name) and tree.root / name not in read]
    strays = [
        *((name, "a dot before its name hides it") for name in tree.hidden),
        *((name, "no annotation names the image, but images beside it") for name in others),
        *((name, "the archive is not read, but the files beside it") for name in archives),
    ]
    return files._replace(strays=[*files.strays, *strays])


def pair(files: Files, skip_bad: bool = False) -> tuple[tuple[Sample, ...], tuple[tuple[str, str], ...]]:
    """Return samples ordered by split and key, and the files left out, each with the reason.

    Only a test split may lack masks. Raises :class:`UserError` that lists all images without a mask, masks without an
    image and unread files; with ``skip_bad`` they are left out. Two candidates for one image or mask are always an
    error.
    """
    image_of, mask_of = by_stem(files.images, "images"), by_stem(files.masks, "masks")
    if image_of and not mask_of and not skip_bad and any(split != "test" for split, _ in image_of):
        raise UserError(
            f"there are {len(image_of):,} images, such as {files.images[0].member}, and no masks; say where these lie "
            "(--images and --masks), or save them as PNG files if they are lists of numbers in another file"
        )
    unlabeled = {"test"} - {split for split, _ in mask_of}
    lonely = [image_of[at] for at in sorted(image_of.keys() - mask_of.keys()) if at[0] not in unlabeled]
    orphans = [mask_of[at] for at in sorted(mask_of.keys() - image_of.keys())]
    bad = [
        *((str(image.member), "the image has no mask") for image in lonely),
        *((str(mask.member), "the mask has no image") for mask in orphans),
        *files.unread,
    ]
    if bad and not skip_bad:
        raise _unpaired_error(bad)
    left = {at: image for at, image in image_of.items() if at in mask_of or at[0] in unlabeled}
    _refuse_shared_images(left, mask_of)
    samples = []
    for split in SPLITS:
        stems = {stem: image for (of, stem), image in left.items() if of == split}
        keys = make_keys(stems)
        for stem in sorted(stems, key=keys.__getitem__):
            image, mask = stems[stem], mask_of.get((split, stem))
            name = image.name or image.member.filename
            samples.append(Sample(keys[stem], split, image.member, mask and mask.member, name))
    return tuple(samples), (*bad, *files.strays)


def _refuse_shared_images(
    image_of: Mapping[tuple[str, str], Found], mask_of: Mapping[tuple[str, str], Found | Labeled]
) -> None:
    """Refuse two masks of one image in one split, as by JSON files that were copied with the name of an image."""
    first: dict[tuple[str, Member], tuple[str, str]] = {}
    for at, image in image_of.items():
        other = first.setdefault((at[0], image.member), at)
        if other != at and at in mask_of and other in mask_of:
            raise UserError(
                f"{mask_of[other].member} and {mask_of[at].member} both name the image {image.member}; let each name "
                "its own, or leave one out"
            )


def by_stem(files: Iterable[OneFile], kind: str) -> dict[tuple[str, str], OneFile]:
    """Return files by split and stem; ``kind`` is images or masks. Raises :class:`UserError` if two have the same."""
    found: dict[tuple[str, str], OneFile] = {}
    twice = []
    for file in files:
        first = found.setdefault((file.split, file.stem), file)
        if first is not file:
            twice.append((first, file))
    if twice:
        one, other = twice[0]
        if one.member == other.member:
            raise UserError(f"{one.member} is listed twice as an {kind[:-1]}{_more(twice)}; remove one of the entries")
        raise UserError(
            f"{one.member} and {other.member} could both be the {kind[:-1]} of one sample{_more(twice)}; say which "
            f"{kind} are meant, such as --{kind} '{suggest_pattern(one.name)}' (--images and --masks go together)"
        )
    return found


def suggest_pattern(name: str) -> str:
    """Return a pattern that matches a file: ``train/images/{stem}.png``."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{{stem}}.{file.rpartition('.')[2]}"


def common_start(texts: Sequence[str]) -> str:
    """Return the characters with which all texts begin."""
    first, last = min(texts), max(texts)
    return first[: next((i for i, pair in enumerate(zip(first, last, strict=False)) if len({*pair}) > 1), len(first))]


def suggest_patterns(image: str, mask: str) -> tuple[str, str]:
    """Return patterns that match an image, its mask, and others like them: ``{split}/images/{stem}.png``."""
    folders, mask_folders = ([*PurePosixPath(name).parts[:-1]] for name in (image, mask))
    stem, mask_stem = without_ending(PurePosixPath(image).name), without_ending(PurePosixPath(mask).name)
    start = common_start([stem, mask_stem]).rstrip("_-. ")
    end = common_start([stem[::-1], mask_stem[::-1]])[::-1].lstrip("_-. ")
    shared = max(start, end, key=len)
    patterns = []
    for name, own, others in ((image, folders, mask_folders), (mask, mask_folders, folders)):
        parts = [_pattern_of_folder(part, part in others) for part in own]
        kept = [part for part, before in zip(parts, [None, *parts], strict=False) if (part, before) != ("**", "**")]
        file = PurePosixPath(name).name
        pattern = file.replace(shared, "{stem}", 1) if shared else f"{{stem}}.{file.rpartition('.')[2]}"
        patterns.append("/".join([*kept, pattern]))
    return patterns[0], patterns[1]


def suggest_common(one: str, other: str) -> str | None:
    """Return a pattern for what two patterns match that differ in folders of one depth; None for others."""
    parts, others = one.split("/"), other.split("/")
    if (
        len(parts) != len(others)
        or sum(a != b for a, b in zip(parts, others, strict=True)) != 1
        or parts[-1] != others[-1]
    ):
        return None
    return "/".join(a if a == b else "*" for a, b in zip(parts, others, strict=True))


def _pattern_of_folder(name: str, shared: bool) -> str:
    role, split, rest = read_folder(name)
    if split and not role and not rest and name.lower() in SPLIT_WORDS:
        return "{split}"
    return "**" if shared and role is None else name


def _unpaired_error(bad: Sequence[tuple[str, str]]) -> UserError:
    """Return an error that counts the unpaired files and lists the first of each kind."""
    which = "say which files are meant (--mask-suffix, --images and --masks)"
    if len(bad) == 1:
        return UserError(f"{bad[0][0]}: {bad[0][1]}; add it, {which}, or leave the file out with --skip-bad")
    cure = f"add what is missing, {which}, or leave them out with --skip-bad"
    details = []
    for reason, count in Counter(reason for _, reason in bad).most_common():
        alike = [name for name, why in bad if why == reason]
        more = f" and {count - NAMED:,} more" if count > NAMED else ""
        details.append(f"{reason}: {', '.join(alike[:NAMED])}{more}")
    return UserError(f"{len(bad):,} files belong to no pair of an image and its mask; {cure}", details)


def make_keys(stems: Iterable[str]) -> dict[str, str]:
    """Return a key of the letters ``[a-z0-9_-]`` for each stem; keys are unique and independent of the order.

    A stem that is a valid key is kept. Other stems lose case and accents, other characters become ``-``, and the slash
    of a folder becomes ``_``; keys that are too long or taken get a piece of the stem's SHA-256.
    """
    wanted = {stem: stem if _is_key(stem) else _sanitize(stem) for stem in stems}
    often = Counter(wanted.values())
    keys = {stem: key for stem, key in wanted.items() if _is_key(stem) or (often[key] == 1 and len(key) <= MAX_KEY)}
    taken = set(keys.values())
    for stem in sorted(wanted.keys() - keys.keys()):
        digest = hashlib.sha256(stem.encode(errors="surrogatepass")).hexdigest()
        marked = (f"{wanted[stem][: MAX_KEY - length - 1]}-{digest[:length]}" for length in (8, 16, 32, 64))
        keys[stem] = next(key for key in marked if key not in taken)
        taken.add(keys[stem])
    return keys


def _is_key(stem: str) -> bool:
    return bool(KEY.fullmatch(stem)) and len(stem) <= MAX_KEY


def _sanitize(stem: str) -> str:
    """Convert ``Straße 7/Ärger (2)`` to ``strasse-7_arger-2``."""
    plain = unicodedata.normalize("NFKD", stem.replace("/", "_")).casefold()
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-") or "x"


def _more(members: Sequence[object]) -> str:
    return f" (and {len(members) - 1:,} more times)" if len(members) > 1 else ""
