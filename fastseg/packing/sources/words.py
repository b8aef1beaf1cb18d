"""Words in the names of folders and files that tell images from masks, and their split."""

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Literal, NamedTuple

Role = Literal["image", "mask"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""Split (train, val, test) of each word for one."""
IMAGE_WORDS = _words(
    "image images img imgs jpegimages rgb frame frames photo photos picture pictures pic pics original originals "
    "input inputs"
)
MASK_WORDS = _words(
    "mask masks label labels labeled labelled annotation annotations annotated ann anns annot annots gt gts truth "
    "groundtruth segmentation segmentations segmented seg segs segmap segmaps segmask segmasks target targets"
)
LETTERS = {"x": "image", "y": "mask"}
"""Words that count only as the whole name of a folder."""
FILLERS = _words(
    "dir dirs folder folders file files data dataset set raw full all png jpg jpeg tif ground semantic class classes "
    "color colors colored colour gray grey"
)
"""Words without meaning beside another word."""


class Folder(NamedTuple):
    """Meaning of the name of a folder."""

    role: Role | None
    split: str | None
    rest: str
    """Remaining part of the name, which distinguishes samples; empty if the whole name has a meaning."""


_BOUNDARY = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=\d)|[\W_]+")
_ROLES = "|".join(sorted(IMAGE_WORDS | MASK_WORDS, key=len, reverse=True))
_SPLITS = "|".join(sorted(SPLIT_WORDS, key=len, reverse=True))
_COMPOUND = re.compile(rf"(?P<split>{_SPLITS})(?P<role>{_ROLES})|(?P<role2>{_ROLES})(?P<split2>{_SPLITS})")


@cache
def read_folder(name: str) -> Folder:
    """Parse the name of one folder: ``images``, ``valid``, ``train_masks``, ``trainannot``, ``SegmentationClass``.

    A word for masks takes precedence over one for images (``image_masks``). Train and val together are train.
    """
    if letter := LETTERS.get(name.lower()):
        return Folder("image" if letter == "image" else "mask", None, "")
    words = [word for token in _BOUNDARY.split(name) if token for word in _split_compound(token.lower())]
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    split = "train" if splits == {"train", "val"} else splits.pop() if len(splits) == 1 else None
    role: Role | None = (
        "mask" if MASK_WORDS.intersection(words) else "image" if IMAGE_WORDS.intersection(words) else None
    )
    if role is None and split is None:
        return Folder(None, None, name)
    known = {*MASK_WORDS, *IMAGE_WORDS, *FILLERS, *(SPLIT_WORDS if split else ())}
    return Folder(role, split, "_".join(word for word in words if word not in known))


def _split_compound(word: str) -> tuple[str, ...]:
    """Split a compound such as ``trainannot`` into its words."""
    if match := _COMPOUND.fullmatch(word):
        return tuple(filter(None, match.groups()))
    return (word,)


class Path(NamedTuple):
    """Meaning of the folders of a file."""

    role: Role | None
    split: str | None
    stem: str
    """Remaining path without words of split or kind, and without the ending of the file."""


@lru_cache(maxsize=1 << 18)  # several layouts parse the same names
def read_path(path: str) -> Path:
    """Parse the path of a file; of two words of the same kind, the inner folder's counts."""
    *folders, file = path.split("/")
    role: Role | None = None
    split: str | None = None
    rest = []
    for name in folders:
        letter = role is not None and name.lower() in LETTERS  # below such a folder x and y mean nothing
        folder = Folder(None, None, name) if letter else read_folder(name)
        role, split = folder.role or role, folder.split or split
        rest += [folder.rest] if folder.rest else []
    return Path(role, split, "/".join([*rest, without_ending(file)]))


def any_mask(names: Iterable[str]) -> bool:
    """Return whether a file is a mask by the names of its folders."""
    return any(read_path(name).role == "mask" for name in names)


def without_ending(name: str) -> str:
    """Return the name of a file without its last ending: ``a.b`` for ``a.b.png``."""
    return name.rpartition(".")[0] or name


_MASK_AFFIX = (
    "masks?|gt|gtfine_labelids|labels?|labelids|labeltrainids|lab|seg|segs|segmentation|segmap|segmask|annotation|annot"
    "|ann|ground_?truth|train_id|matte"
)
_IMAGE_AFFIX = "images?|imgs?|rgb|sat|photo|pic|frame|leftimg8bit|original|input"


def _affixes(words: str, letters: str) -> re.Pattern[str]:
    """Compile a pattern for a name that begins or ends with one of ``words``."""
    return re.compile(
        rf"(?P<base>.+?)(?:(?i:[_\-. ]+(?:{words}))+{letters})|(?i:(?:{words})(?:[_\-. ]+|(?=\d)))(?P<base2>.+)"
    )


_AFFIXES = {"mask": _affixes(_MASK_AFFIX, "|_[LP]"), "image": _affixes(_IMAGE_AFFIX, "")}


def strip_affix(stem: str, role: Role) -> str | None:
    """Return a stem without the affix of a mask (``a_mask``, ``a_L``, ``mask-1``) or an image (``img_1``).

    None if it has no affix. The affixes are those of SegNet, fast.ai, DeepGlobe, Cityscapes and common labeling tools.
    """
    folder, slash, file = stem.rpartition("/")
    match = _AFFIXES[role].fullmatch(file)
    return f"{folder}{slash}{match['base'] or match['base2']}" if match else None
