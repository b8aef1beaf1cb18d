"""Words in the names of folders and files that tell images from masks, and their split."""

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Literal, NamedTuple

Role = Literal["image", "mask"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "tr", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "te", "ts"), "test"),
}
"""Split (train, val, test) of each word for one."""
IMAGE_WORDS = _words(
    "image images img imgs jpegimages rgb frame frames photo photos picture pictures pic pics original originals org "
    "orig input inputs sat src camera"
)
MASK_WORDS = _words(
    "mask masks label labels labeled labelled lab labs lbl lbls annotation annotations annotated ann anns annot annots "
    "anno annos gt gts truth groundtruth segmentation segmentations segmented seg segs segmap segmaps segmask segmasks "
    "semantics semseg target targets map maps manual lesion lesions trimap trimaps matte mattes matting alpha alphas"
)
WHOLE_NAMES: dict[str, Role] = {"x": "image", "y": "mask", "leftimg8bit": "image", "gtfine": "mask", "gtcoarse": "mask"}
"""Roles of words that count only as the whole name of a folder, or beside a word for a split."""
FILLERS = _words(
    "dir dirs folder folders file files data dataset set raw full all png jpg jpeg tif ground semantic class classes "
    "color colors colored colour gray grey crop crops"
)
"""Words without meaning beside another word."""
FORMATS = _words("png jpg jpeg tif tiff bmp gif webp")
"""Words that mean nothing as the whole name of a folder: the same samples may lie there in several formats."""
COPIES = _words(
    "color colors colored colour colormap colormaps colormask colormasks labelcolor rgb vis viz visualization "
    "visualizations visual overlay overlays overlaid preview blend poly watershed instance instances inst object "
    "objects instanceids panoptic edge edges boundary boundaries noboundary contour contours superpixels roi rois "
    "parts invids invgray pred preds predict predicted prediction predictions output outputs result results second 2nd "
    "2ndho manual2 depth dsm ndsm disp tdisp disparity nir ir irrg rgbir thermal ref aug augmented"
)
"""Words for pictures that show the same as others: copies in color, other sensors, second annotators, predictions."""
PREFERRED = _words("labeltrainids trainids trainid manual 1st 1stho")
"""Words for the masks that are meant if there are others."""


class Folder(NamedTuple):
    """Meaning of the name of a folder."""

    role: Role | None
    split: str | None
    rest: str
    """Remaining part of the name, which distinguishes samples; empty if the whole name has a meaning."""


_BOUNDARY = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=\d)|[\W_]+")
_ROLES = "|".join(sorted(IMAGE_WORDS | MASK_WORDS, key=len, reverse=True))
_SPLITS = "|".join(sorted(SPLIT_WORDS, key=len, reverse=True))
_COMPOUND = re.compile(rf"({_SPLITS})({_ROLES}|crops?|data|dataset|set)|({_ROLES})({_SPLITS})")


@cache
def read_folder(name: str) -> Folder:
    """Parse the name of one folder: ``images``, ``valid``, ``train_masks``, ``trainannot``, ``SegmentationClass``.

    A word for masks takes precedence over one for images (``image_masks``). Train and val together are train. What
    follows "with" describes and does not count (``frames-with-annotations``).
    """
    if (whole := name.lower()) in WHOLE_NAMES:
        return Folder(WHOLE_NAMES[whole], None, "")
    if whole in FORMATS:
        return Folder(None, None, "")
    words = [word for token in _BOUNDARY.split(name) if token for word in _split_compound(token.lower())]
    words = words[: words.index("with")] if "with" in words else words
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    split = "train" if splits == {"train", "val"} else splits.pop() if len(splits) == 1 else None
    role: Role | None = (
        "mask" if MASK_WORDS.intersection(words) else "image" if IMAGE_WORDS.intersection(words) else None
    )
    if role is None and split is None:
        return Folder(None, None, name)
    if role is None and (letters := [word for word in words if word in ("x", "y")]):
        role = WHOLE_NAMES[letters[0]]
        words = [word for word in words if word not in letters]
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
        letter = role is not None and name.lower() in ("x", "y")  # below such a folder x and y mean nothing
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
    "masks?|gt|gtfine_labelids|labels?|labelids|labeltrainids|lab|lbl|seg|segs|segmentation|segmap|segmask|annotation"
    "|annot|anno|ann|ground_?truth|train_id|matte|manual\\d?|lesion|1stho|2ndho|colors?"
)
_IMAGE_AFFIX = "images?|imgs?|rgb|rgbir|irrg|sat|photo|pic|frame|leftimg8bit|original|input"


def _affixes(words: str, letters: str) -> re.Pattern[str]:
    """Compile a pattern for a name that begins or ends with one of ``words``."""
    return re.compile(
        rf"(?P<base>.+?)(?:(?i:[_\-. ]+(?:{words}))+{letters})|(?i:(?:{words})(?:[_\-. ]+|(?=\d)))(?P<base2>.+)"
    )


_AFFIXES = {"mask": _affixes(_MASK_AFFIX, "|_[LPm]"), "image": _affixes(_IMAGE_AFFIX, "")}
_NUMBERED = re.compile(rf"(?P<base>.+?)[_\-. ]+(?i:{_MASK_AFFIX})[_\-. ]*\d+")


def strip_affix(stem: str, role: Role) -> str | None:
    """Return a stem without the affix of a mask (``a_mask``, ``a_L``, ``mask-1``) or an image (``img_1``).

    None if it has no affix. The affixes are those of SegNet, fast.ai, DeepGlobe, Cityscapes and common labeling tools.
    """
    folder, slash, file = stem.rpartition("/")
    match = _AFFIXES[role].fullmatch(file)
    return f"{folder}{slash}{match['base'] or match['base2']}" if match else None


def has_word(stem: str, role: Role) -> bool:
    """Return whether the name of a file, without its folders, has a word or affix of a role."""
    words = MASK_WORDS if role == "mask" else IMAGE_WORDS
    return strip_affix(stem, role) is not None or bool(words & file_words(f"{stem}."))


def strip_number(stem: str) -> str | None:
    """Return the stem of one of several masks without its affix and number (``a_mask_2``); None if it has none."""
    match = _NUMBERED.fullmatch(stem)
    return match["base"] if match else None


def drop_words(stem: str, role: Role) -> str | None:
    """Return a stem without any words of its role and of splits: ``10_08`` for the mask ``10_mask_08``.

    The name of a file that holds nothing else vanishes: ``a/`` for ``a/labels``. None if there are no such words.
    """
    folder, slash, file = stem.rpartition("/")
    tokens = file_tokens(file)
    known = {*(MASK_WORDS if role == "mask" else IMAGE_WORDS), *SPLIT_WORDS}
    kept = [token for token in tokens if token.lower().rstrip("0123456789") not in known]
    if len(kept) == len(tokens) or not (kept or slash):
        return None
    return f"{folder}{slash}{'_'.join(kept)}"


def file_tokens(file: str) -> list[str]:
    """Return the parts of a file's name without ending, as separators divide it."""
    return [token for token in re.split(r"[_\-. ]+", file) if token]


@lru_cache(maxsize=1 << 18)
def folder_words(path: str) -> frozenset[str]:
    """Return all words in the names of a file's folders, in lower case and without numbers."""
    tokens = (token.lower() for name in path.split("/")[:-1] for token in _BOUNDARY.split(name))
    return frozenset(token for token in tokens if not token.isdigit() and token)


def file_words(path: str) -> frozenset[str]:
    """Return all words in the name of a file, in lower case and without numbers."""
    tokens = [token.lower() for token in file_tokens(without_ending(path.rpartition("/")[2]))]
    words = (token if token in COPIES else re.sub(r"[\d()\[\]]+$", "", token) for token in tokens)
    return frozenset(word for word in words if word)
