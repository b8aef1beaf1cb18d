"""Matching of masks to images by their names, and the choice between several kinds of masks of the same images.

A mask belongs to the image of the same name; of the same name without words such as ``mask`` and ``rgb``; of the same
name up to ends that all names have (``case_1_0000`` and ``case_1``); or to the only image in its folder. If images have
several kinds of masks (``1st_manual`` and ``mask``, ids and colors), one kind is chosen for the whole set, or none.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from fastseg.errors import UserError
from fastseg.packing.sources.samples import common_start, suggest_common, suggest_patterns
from fastseg.packing.sources.words import (
    COPIES,
    IMAGE_WORDS,
    MASK_WORDS,
    PREFERRED,
    Role,
    drop_words,
    file_words,
    folder_words,
    strip_affix,
    strip_number,
)

MIN_MATCHED = 0.9
"""Share of the masks that must have an image for ends that names share to count as a rule."""

MAX_KINDS = 8
"""Number of kinds of names in one folder whose ends are compared; random names would make thousands."""


class NamedFile(NamedTuple):
    """An image or mask, by its name only."""

    name: str
    split: str
    stem: str


class Match(NamedTuple):
    """A mask and the image that it may belong to."""

    image: NamedFile
    mask: NamedFile
    by_folder: bool = False
    """True if only the folder tells so, and the names of the two have nothing in common."""


def match_equal(images: Iterable[NamedFile], masks: Iterable[NamedFile]) -> list[Match]:
    """Return all pairs of an image and a mask whose splits and stems are equal."""
    known = {(image.split, image.stem): image for image in images}
    return [Match(known[at], mask) for mask in masks if (at := (mask.split, mask.stem)) in known]


def match(images: Sequence[NamedFile], masks: Sequence[NamedFile]) -> list[Match]:
    """Return all pairs of an image and a mask that may belong together, by the strictest rule that finds any."""
    deepest = max((file.stem.count("/") for file in (*images, *masks)), default=0)
    by_depth = (_by_stem(_last_folders(images, n), _last_folders(masks, n)) for n in range(deepest, -1, -1))
    found = next((matches for matches in by_depth if matches), [])
    by_hand = [mask for mask in _unmatched(images, masks, found)[1] if _words(mask) & PREFERRED]
    found += _by_stem(_without_folders(images), _without_folders(by_hand))
    found += _by_shared_ends(*_unmatched(images, masks, found))
    found = found or _by_shared_ends(_without_folders(images), _without_folders(masks))
    found = found or _by_folder(images, masks)
    files = {file.name: file for file in (*images, *masks)}
    return [one._replace(image=files[one.image.name], mask=files[one.mask.name]) for one in found]


def _words(file: NamedFile) -> frozenset[str]:
    return folder_words(file.name) | file_words(file.name)


def _unmatched(
    images: Sequence[NamedFile], masks: Sequence[NamedFile], found: Sequence[Match]
) -> tuple[list[NamedFile], list[NamedFile]]:
    taken = {name for one in found for name in (one.image.name, one.mask.name)}
    return [file for file in images if file.name not in taken], [file for file in masks if file.name not in taken]


def _last_folders(files: Iterable[NamedFile], count: int) -> list[NamedFile]:
    """Return files whose stems hold only the last ``count`` folders."""
    return [file._replace(stem="/".join(file.stem.split("/")[-count - 1 :])) for file in files]


def _without_folders(files: Iterable[NamedFile]) -> list[NamedFile]:
    return _last_folders(files, 0)


Stems = dict[tuple[object, ...], list[NamedFile]]
"""Images by split, by the number of words removed from the name, by whether case was folded, and by stem."""


@lru_cache(maxsize=1 << 18)
def _forms(stem: str, role: Role) -> list[str]:
    """Return a stem as it is, without its affix, and without all words of its kind; equal ones are left out."""
    bare = [stem, strip_affix(stem, role), drop_words(stem, role), strip_number(stem) if role == "mask" else None]
    return list(dict.fromkeys(form for form in bare if form is not None))


def _in_case(stem: str, any_case: bool) -> str:
    return unicodedata.normalize("NFC", stem).casefold() if any_case else stem


def _by_stem(images: Iterable[NamedFile], masks: Iterable[NamedFile]) -> list[Match]:
    known: Stems = defaultdict(list)
    for file in images:
        for level, form in enumerate(_forms(file.stem, "image")):
            for any_case in (False, True):
                for split in {file.split, None}:
                    known[split, level, any_case, _in_case(form, any_case)].append(file)
    return [Match(image, mask) for mask in masks for image in _partners(mask, known)]


def _partners(mask: NamedFile, known: Stems) -> list[NamedFile]:
    """Return the images of a mask: of the same stem, or else of the same stem without words.

    A mask in no folder of a split may belong to an image in one, and the other way round.
    """
    for split in (mask.split, "") if mask.split else ("", None):
        for any_case in (False, True):
            for form in _forms(mask.stem, "mask"):
                for level in range(3):
                    if found := known.get((split, level, any_case, _in_case(form, any_case))):
                        return found
    return []


def _by_shared_ends(images: Sequence[NamedFile], masks: Sequence[NamedFile]) -> list[Match]:
    """Match names that differ in ends, or beginnings, that all names of their kind share."""
    found: list[Match] = []
    for flip in (False, True):
        image_groups, mask_groups = _by_letters(images, flip), _by_letters(masks, flip)
        for some_masks in mask_groups:
            for some_images in image_groups:
                found += _match_ends(some_images, some_masks, flip)
        if found:
            return found
    return []


def _by_letters(files: Iterable[NamedFile], flip: bool) -> list[list[NamedFile]]:
    """Return the largest groups of files by the part of their names after the last number, or before the first.

    Names without numbers are grouped by their last or first word.
    """
    groups = defaultdict(list)
    for file in files:
        pieces = re.split(r"\d+" if re.search(r"\d", file.stem) else r"[_\-. ]", file.stem.rpartition("/")[2])
        groups[pieces[0 if flip else -1]].append(file)
    return sorted(groups.values(), key=len, reverse=True)[:MAX_KINDS]


def _match_ends(images: Sequence[NamedFile], masks: Sequence[NamedFile], flip: bool) -> list[Match]:
    """Match all images and masks of two groups by one pair of ends, the shortest that fits; none if no pair does."""
    image_stems, mask_stems = ([_flipped(file.stem, flip) for file in files] for files in (images, masks))
    pairs = [(one, other) for one in _shared_ends(image_stems) for other in _shared_ends(mask_stems)]
    for end, mask_end in sorted(pairs, key=lambda pair: sum(map(len, pair))):
        known = {(i.split, _cut(stem, end)): i for i, stem in zip(images, image_stems, strict=True)}
        found = [
            Match(known[at], mask)
            for mask, stem in zip(masks, mask_stems, strict=True)
            if (at := (mask.split, _cut(stem, mask_end))) in known
        ]
        distinct = len({one.image for one in found}) == len(found) and len(known) == len(images)
        if distinct and len(found) >= max(2, MIN_MATCHED * len(masks)):
            return found
    return []


def _flipped(stem: str, flip: bool) -> str:
    """Return a stem whose file name is reversed, so that its beginning is an end."""
    folder, slash, file = stem.rpartition("/")
    return f"{folder}{slash}{file[::-1]}" if flip else stem


def _cut(stem: str, end: str) -> str:
    return stem.removesuffix(end) if end else stem


def _shared_ends(stems: Sequence[str]) -> list[str]:
    """Return the ends that all names share and that begin with a separator, or with a letter after a number."""
    files = [stem.rpartition("/")[2] for stem in stems]
    common = common_start([file[::-1] for file in files])[::-1] if len(files) > 1 else ""
    ends = [common[i:] for i in range(len(common))]
    return ["", *(end for end in ends if all(_is_boundary(file, len(end)) for file in files))]


def _is_boundary(file: str, length: int) -> bool:
    """Return whether the last ``length`` characters of a name are apart from the rest, which is not empty."""
    before, first = file[: -length or None][-1:], file[-length]
    return len(file) > length and (first in "_-. " or (first.isalpha() and before.isdigit()))


def _by_folder(images: Iterable[NamedFile], masks: Iterable[NamedFile]) -> list[Match]:
    """Match masks to the only image in their folder."""
    inside = defaultdict(list)
    for file in images:
        inside[file.split, file.stem.rpartition("/")[0]].append(file)
    alone = {at: files[0] for at, files in inside.items() if len(files) == 1 and at[1]}
    found = [
        Match(alone[at], mask, True) for mask in masks if (at := (mask.split, mask.stem.rpartition("/")[0])) in alone
    ]
    return found if len({one.image for one in found}) > 1 else []


class Choice(NamedTuple):
    """The pairs that are meant, and the files that are of another kind."""

    matches: list[Match]
    strays: list[tuple[str, str]]


def choose(matches: Sequence[Match]) -> Choice:
    """Choose one kind of masks and one of images if there are several.

    Several masks of one kind stay: they are parts of one. Raises :class:`UserError` if the names do not tell which kind
    is meant.
    """
    recurring = Counter(_last_name(one.mask) for one in matches if one.by_folder)

    def kind_of_mask(one: Match) -> frozenset[str]:
        words = folder_words(one.mask.name) - folder_words(one.image.name)
        if one.by_folder:
            return words | (file_words(one.mask.name) - MASK_WORDS if recurring[_last_name(one.mask)] > 1 else set())
        return words | (file_words(one.mask.name) - file_words(one.image.name))

    def kind_of_image(one: Match) -> frozenset[str]:
        words = folder_words(one.image.name) - folder_words(one.mask.name)
        return words | (frozenset() if one.by_folder else file_words(one.image.name) - file_words(one.mask.name))

    matches, other_images = _choose_kind(matches, lambda one: one.mask, kind_of_image, _rank_image)
    for one, other in _twins(matches, lambda one: one.mask, lambda one: one.image):
        raise _two_images(one, other)
    matches, other_masks = _choose_kind(matches, lambda one: one.image, kind_of_mask, _rank_mask)
    lost = {one.image.name: one.image for one in other_images} | {one.mask.name: one.mask for one in other_masks}
    kept = {name for one in matches for name in (one.image.name, one.mask.name)}
    strays = [(name, "another kind of picture of the same samples is taken") for name in lost if name not in kept]
    return Choice(matches, strays)


def _last_name(file: NamedFile) -> str:
    return file.name.rpartition("/")[2]


def _choose_kind(
    matches: Sequence[Match],
    side: Callable[[Match], NamedFile],
    kind: Callable[[Match], frozenset[str]],
    rank: Callable[[frozenset[str]], tuple[int, int]],
) -> tuple[list[Match], list[Match]]:
    """Return the matches of the best kind and the others; ``side`` is what should be matched once."""
    several = defaultdict[NamedFile, dict[frozenset[str], Match]](dict)
    for one in matches:
        several[side(one)].setdefault(kind(one), one)
    worse = set[frozenset[str]]()
    for kinds in several.values():
        first, *rest = sorted(kinds, key=rank)
        if rest and rank(first) == rank(rest[0]):
            one, other = kinds[first], kinds[rest[0]]
            raise _two_images(one, other) if one.mask == other.mask else two_masks(one, other)
        worse |= set(rest)
    return [one for one in matches if kind(one) not in worse], [one for one in matches if kind(one) in worse]


def _rank_mask(kind: frozenset[str]) -> tuple[int, int]:
    """Return a smaller value for the kind of masks that is rather meant."""
    return len(kind & COPIES), -len(kind & PREFERRED)


def _rank_image(kind: frozenset[str]) -> tuple[int, int]:
    """Return a smaller value for the kind of images that is rather meant."""
    return len(kind & COPIES - IMAGE_WORDS), 0


def _twins(
    matches: Iterable[Match], side: Callable[[Match], NamedFile], other: Callable[[Match], NamedFile]
) -> Iterable[tuple[Match, Match]]:
    """Yield matches of one file with two different ones."""
    first: dict[NamedFile, Match] = {}
    for one in matches:
        if other(known := first.setdefault(side(one), one)) != other(one):
            yield known, one


def _two_images(one: Match, other: Match) -> UserError:
    images, masks = suggest_patterns(one.image.name, one.mask.name)
    return UserError(
        f"the mask {one.mask.name} could be of {one.image.name} and of {other.image.name}; say which images are "
        f"meant, such as --images '{images}' --masks '{masks}', or name the folder of one set"
    )


def two_masks(one: Match, other: Match) -> UserError:
    """Return an error for two masks of one image."""
    images, masks = suggest_patterns(one.image.name, one.mask.name)
    both = suggest_common(masks, suggest_patterns(other.image.name, other.mask.name)[1])
    merged = f", or merge parts of one object by --masks '{both}'" if both else ""
    return UserError(
        f"{one.mask.name} and {other.mask.name} could both be the mask of {one.image.name}; say which masks are "
        f"meant, such as --images '{images}' --masks '{masks}'{merged}"
    )


def is_known_word(word: str) -> bool:
    """Return whether a word tells the kind of a picture."""
    return word in COPIES or word in PREFERRED or word in MASK_WORDS
