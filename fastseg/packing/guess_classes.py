"""Guessing of a classes.json from the masks themselves; the user then fills in the names."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import UserError
from fastseg.files import write_atomic
from fastseg.labels import IGNORE, MAX_CLASSES, Color, LabelTable
from fastseg.packing.check import unclear_white
from fastseg.packing.classes_json import distinct_colors
from fastseg.packing.masks import By, DecodedMask, color_codes, decode_color
from fastseg.packing.sources import CLASSES, DataSet, find_masks, has_classes, open_source, recognize
from fastseg.packing.sources.class_lists import listed_classes
from fastseg.packing.sources.samples import Mask
from fastseg.packing.sources.splits import FindOptions
from fastseg.packing.sources.tree import Member
from fastseg.parallel import ordered_map, worker_count

Key = int | Color
"""Pixel value or color that identifies a class in a mask."""
Progress = Callable[[int, int], None]
"""Callback with the number of masks read so far and the total."""
FEW_COLORS = 8
"""Number of values or colors up to which all are classes."""
NEAR = 24
"""Largest difference of a value or color from a more frequent one whose noise it may be."""
NOISE = 0.1
"""Largest number of such pixels for each pixel of the other."""
MIN_SHARE = 5e-4
"""Smallest share of the pixels for a class if edges are soft."""
MAX_INDEX = 31
"""If the smallest value but 0 is above this, values are levels of gray, and 255 is one of them."""


@dataclass(frozen=True)
class MaskCounts:
    """Pixel counts of one mask, by value or by color."""

    values: dict[int, int] = field(default_factory=dict)
    """Pixel count of each value."""
    colors: dict[Color, int] = field(default_factory=dict)
    """Pixel count of each color; only for RGB masks."""
    flat: frozenset[Key] = frozenset()
    """Values or colors that fill at least one square of 3×3 pixels."""
    palette: dict[int, Color] = field(default_factory=dict)
    """Color of each value; empty unless the mask has a palette that is not gray."""
    one_bit: bool = False
    """True if the file has one bit per pixel, so that white is 1."""

    def as_values(self) -> "MaskCounts":
        """Return the same counts by value if an RGB mask holds only grays."""
        if not self.colors:
            return self
        grays = {gray: n for (gray, _, _), n in self.colors.items()}
        return MaskCounts(grays, flat=frozenset(key[0] for key in self.flat if isinstance(key, tuple)))

    def as_colors(self) -> "MaskCounts":
        """Return the same counts by the color that each value shows: that of the palette, or its gray."""
        if self.colors:
            return self
        colors = Counter[Color]()
        for value, n in self.values.items():
            colors[self._shown(value)] += n
        return MaskCounts(colors=dict(colors), flat=frozenset(self._shown(key) for key in self.flat))

    def _shown(self, value: Key) -> Color:
        if isinstance(value, tuple):
            return value
        return self.palette.get(value, (value, value, value))


@dataclass(frozen=True)
class Guess:
    """Values or colors that occur in the masks of a data set."""

    masks: int
    pixels: Mapping[Key, int]
    """Pixel count over all masks of each value or color, ignored ones included. Values are in ascending order, colors
    in descending order of their counts."""
    colors: Mapping[Key, Color]
    """Color of each value or color in overlays."""
    mixed: int = 0
    """Pixels of all other colors, which are mixtures of two classes at the edge between them."""
    names: Mapping[Key, str] = field(default_factory=dict)
    """Class names that the data set itself provides."""
    void: frozenset[Color] = frozenset()
    """Colors that the data set itself ignores."""

    @property
    def by_color(self) -> bool:
        """True if masks are read by color."""
        return any(isinstance(key, tuple) for key in self.pixels)

    @property
    def ignored(self) -> bool:
        """True if 255 is read as "ignore", unless the values are levels of gray, such as 0 and 255."""
        others = [key for key in self.pixels if isinstance(key, int) and key not in (0, IGNORE)]
        return IGNORE not in self.pixels or min(others, default=IGNORE) <= MAX_INDEX

    @property
    def tolerance(self) -> int:
        """Half of the smallest difference between two classes: a ``--color-tolerance`` that reads mixtures, too."""
        keys = [key if isinstance(key, tuple) else (key,) for key in self.classes]
        distances = [max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in combinations(keys, 2)]
        return max(1, min(distances, default=2) // 2)

    @property
    def classes(self) -> list[Key]:
        """Values or colors that become classes."""
        ignored: set[Key] = {*self.void, *([IGNORE] if self.ignored else [])}
        return [key for key in self.pixels if key not in ignored]

    def name(self, key: Key) -> str:
        """Return the class name that the data set provides, or a placeholder."""
        default = "color #{:02x}{:02x}{:02x}".format(*key) if isinstance(key, tuple) else f"class {key}"
        return self.names.get(key, default)

    def to_json(self, name: str) -> str:
        """Return the text of a ``classes.json`` with one line for each class."""
        classes = [
            {**({} if isinstance(key, tuple) else {"value": key}), "name": self.name(key), "color": self.colors[key]}
            for key in self.classes
        ]
        lines = ",\n".join("  " + json.dumps(entry) for entry in classes)
        ignored = sorted(self.void) if self.by_color else [IGNORE] if self.ignored else []
        head: dict[str, object] = {"name": name, "ignore": ignored}
        if self.mixed:
            head["others"] = "ignore"
        return json.dumps(head)[:-1] + f', "classes": [\n{lines}\n]}}\n'


def write_guess(
    root: Path,
    workers: int | None = None,
    progress: Progress | None = None,
    out: Path | None = None,
    options: FindOptions | None = None,
    by: By = "auto",
    skip_bad: bool = False,
) -> tuple[Guess, Path]:
    """Read all masks of the data set in ``root``, write a guessed ``classes.json``, and return the guess and the path.

    The file is ``out``, by default ``root/classes.json``. For masks that are drawn from shapes it holds the names that
    the data set provides. Raises :class:`UserError` if the file exists or cannot be written, and as
    :func:`guess_classes`.
    """
    path = out or root / CLASSES
    if path.parent.is_file():
        raise UserError(f"{root} is a file, into which {CLASSES} cannot be written; name another: --classes FILE")
    if path.exists():
        raise UserError(f"{path} is there already: pack with it, or remove it to have it guessed anew")
    masks, table = _find_masks(root, options)
    guess = guess_classes(masks, workers, progress, by, skip_bad)
    if table:
        guess = _name(guess, table)
    try:
        write_atomic(path, guess.to_json(root.resolve().name))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another file: --classes FILE") from None
    return guess, path


def _find_masks(root: Path, options: FindOptions | None) -> tuple[Sequence[Mask], LabelTable | None]:
    """Return the masks and, for masks drawn from shapes or beside a list of classes, their classes."""
    if found := recognize(root, options):
        source, tree = found
        masks = source.find(tree).masks
        if masks and not isinstance(masks[0].member, Member):
            return [mask.member for mask in masks], source.classes(tree)
        if masks and (listed := listed_classes(tree, lambda: masks)):
            return [mask.member for mask in masks], listed
    return find_masks(root, options), None


def _name(guess: Guess, table: LabelTable) -> Guess:
    """Return the guess with the names and colors of a table, including classes that do not occur."""
    if guess.by_color == bool(table.train_ids):  # masks that hold only grays are counted by value
        return guess
    known: list[tuple[Key, int]] = [*table.train_ids.items()] if table.train_ids else [*table.colors.items()]
    classes = {key: table.classes[i] for key, i in known if i != IGNORE}
    pixels: dict[Key, int] = {key: guess.pixels.get(key, 0) for key in classes}
    return replace(
        guess,
        pixels={**pixels, **guess.pixels},
        colors={**guess.colors, **{key: entry.color for key, entry in classes.items()}},
        names={key: entry.name for key, entry in classes.items()},
        void=frozenset(key for key, i in known if i == IGNORE and isinstance(key, tuple)),
    )


def open_source_or_guess(
    path: Path | None,
    classes: Path | None,
    splits: tuple[str, ...] | None,
    workers: int | None,
    options: FindOptions | None = None,
    skip_bad: bool = False,
    by: By = "auto",
) -> DataSet:
    """Open a data set as :func:`open_source` does, with guessed classes if it does not define any."""
    if path is None or classes or has_classes(path, options):
        return open_source(path, classes, splits, options, skip_bad)
    guess = guess_classes(find_masks(path, options), workers, by=by, skip_bad=skip_bad)
    name = path.resolve().name
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(guess.to_json(name))
        file.flush()
        return open_source(path, Path(file.name), splits, options, skip_bad)


def guess_classes(
    masks: Sequence[Mask],
    workers: int | None = None,
    progress: Progress | None = None,
    by: By = "auto",
    skip_bad: bool = False,
) -> Guess:
    """Count the values or colors that occur in ``masks``; ``by`` tells how to read masks with a palette.

    ``skip_bad`` leaves out masks that cannot be read, unless none can.
    If edges are soft or masks are compressed with loss, only values or colors that fill areas become classes. Raises
    :class:`UserError` if masks of values and masks of colors are mixed, if palettes contradict each other, and as
    :func:`fastseg.packing.masks.decode_mask`.
    """
    tasks = ((mask, skip_bad) for mask in masks)
    read: list[tuple[Mask, MaskCounts]] = []
    with closing(ordered_map(_count_or_skip, tasks, min(worker_count(workers), len(masks)))) as found:
        for done, (mask, counts) in enumerate(zip(masks, found, strict=True), 1):
            read += [(mask, counts)] if counts else []
            if progress:
                progress(done, len(masks))
    masks, counted = [mask for mask, _ in read] or masks, [counts for _, counts in read] or [count_mask(masks[0])]
    if by == "color" or (by == "auto" and any(_repeats_colors(counts) for counts in counted)):
        return _guess_colors([counts.as_colors() for counts in counted])
    colored = [bool(counts.colors) for counts in counted]
    if all(red == green == blue for counts in counted for red, green, blue in counts.colors):
        return _guess_values(masks, [counts.as_values() for counts in counted], by)
    if not all(colored):
        raise UserError(
            f"{sum(colored)} masks have colors, such as {masks[colored.index(True)]}, and {colored.count(False)} "
            f"values, such as {masks[colored.index(False)]}; say that all are read by color: --mask-values color"
        )
    return _guess_colors(counted)


def _repeats_colors(counts: MaskCounts) -> bool:
    """Return whether two values of a mask have one color: then its palette was made for it alone."""
    return len(set(counts.palette.values())) < len(counts.palette)


def _count_or_skip(mask: Mask, skip_bad: bool) -> MaskCounts | None:
    try:
        return count_mask(mask)
    except UserError:
        if skip_bad:
            return None
        raise


def count_mask(mask: Mask) -> MaskCounts:
    """Count the values or colors of one mask; see :func:`guess_classes`."""
    decoded = mask.decode(lossy=True)
    if decoded.image.mode == "L":
        return _count_values(decoded)
    codes = color_codes(np.asarray(decoded.image))
    found, sizes = np.unique(codes, return_counts=True)
    colors = {decode_color(code): n for code, n in zip(found.tolist(), sizes.tolist(), strict=True)}
    return MaskCounts(colors=colors, flat=frozenset(decode_color(code) for code in _flat(codes)))


def _count_values(mask: DecodedMask) -> MaskCounts:
    values = {value: n for value, n in enumerate(mask.image.histogram()) if n}
    palette = {value: mask.palette[value] for value in values if value < len(mask.palette)}
    flat = _flat(np.asarray(mask.image))
    if any(len(set(color)) > 1 for color in mask.palette):
        return MaskCounts(values, palette=palette, flat=frozenset(flat))
    grays = Counter[int]()  # a palette of grays only is read as its grays
    for value, n in values.items():
        grays[palette.get(value, (value,))[0]] += n
    shown = frozenset(palette.get(value, (value,))[0] for value in flat)
    return MaskCounts(dict(grays), one_bit=mask.bits == 1 and not palette, flat=shown)


def _flat(codes: NDArray[Any]) -> list[int]:
    """Return the values that fill at least one square of 3×3 pixels; shape (H, W)."""
    if min(codes.shape) < 3:
        return []
    squares = np.lib.stride_tricks.sliding_window_view(codes, (3, 3))
    flat = (squares == squares[..., 1:2, 1:2]).all((2, 3))
    return np.unique(squares[flat][:, 1, 1]).tolist()


def _guess_values(masks: Sequence[Mask], counted: Sequence[MaskCounts], by: By) -> Guess:
    colors, first, total = dict[int, Color](), dict[int, Mask](), Counter[int]()
    for mask, counts in zip(masks, counted, strict=True):
        total.update(counts.values)
        for value, color in counts.palette.items():
            if colors.setdefault(value, color) != color and by == "auto":
                raise UserError(
                    f"the value {value} has the color {list(colors[value])} in the palette of {first[value]} and "
                    f"{list(color)} in that of {mask}; say which of them holds: --mask-values value or color"
                )
            first.setdefault(value, mask)
    others = {value for counts in counted if not counts.one_bit for value in counts.values}
    if 255 in others and 1 not in others and 1 in total:  # white is 1 in 1-bit files and 255 in others
        total[255] += total.pop(1)
        counted = [*counted, MaskCounts(flat=frozenset({255}))]
    chosen = [*total] if colors else _choose_classes(total, counted)
    distinct = distinct_colors(list(color) for color in colors.values())
    free = (color for color in distinct if len(set(color)) > 1)  # a gray could be taken for a value
    shown: dict[Key, Color] = {value: colors[value] if value in colors else next(free) for value in sorted(chosen)}
    mixed = sum(total.values()) - sum(total[value] for value in chosen)
    guess = Guess(len(masks), {value: total[value] for value in sorted(chosen)}, shown, mixed)
    if guess.ignored and by == "auto":
        _refuse_unclear_white(masks, counted, {*guess.classes})
    return guess


def _refuse_unclear_white(masks: Sequence[Mask], counted: Sequence[MaskCounts], classes: set[Key]) -> None:
    """Raise :class:`UserError`, as packing would, if 255 may be the object of some masks although others ignore it."""
    of_masks = zip(masks, counted, strict=False)  # a last one may stand for the white of 1-bit files
    shown = [(str(mask), IGNORE in counts.values, len(classes & {*counts.values})) for mask, counts in of_masks]
    if error := unclear_white(shown):
        raise error


def _choose_classes(total: Counter[Any], counted: Sequence[MaskCounts]) -> list[Any]:
    """Return all values or colors; if there are mixtures, those that are frequent, fill areas and are no noise."""
    if len(total) <= FEW_COLORS or not _has_mixtures(counted):
        return [*total]
    flat = frozenset(chain.from_iterable(counts.flat for counts in counted))
    chosen: list[Any] = []
    for key, n in total.most_common():
        noise = any(_distance(key, other) <= NEAR and n < NOISE * total[other] for other in chosen)
        if key in flat and n >= MIN_SHARE * total.total() and not noise:
            chosen.append(key)
    return chosen or [*total]


def _has_mixtures(counted: Sequence[MaskCounts]) -> bool:
    """Return whether most values of a mask fill no area in it: those of objects do, and mixtures at edges do not."""
    occurring = sum(len(counts.values) + len(counts.colors) for counts in counted)
    return 2 * sum(len(counts.flat) for counts in counted) < occurring


def _distance(one: Any, other: Any) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) if isinstance(one, tuple) else abs(one - other)


def _guess_colors(counted: Sequence[MaskCounts]) -> Guess:
    total = Counter[Color]()
    for counts in counted:
        total.update(counts.colors)
    chosen: dict[Key, int] = {color: total[color] for color in _choose_classes(total, counted)}
    if len(chosen) > MAX_CLASSES:
        raise UserError(
            f"the masks have {len(chosen):,} colors that fill areas; a set has at most {MAX_CLASSES} classes: are "
            "these photographs, or drawn over photographs?"
        )
    mixed = sum(total.values()) - sum(chosen.values())
    if 2 * mixed > total.total():
        raise UserError(
            f"most pixels of the masks have colors that fill no areas ({len(total):,} in all): are these photographs, "
            "or drawn over photographs? Name the folder of masks by --images and --masks, or write classes.json with "
            'the colors that are drawn and "others": the class of all the rest'
        )
    colors: dict[Key, Color] = {color: color for color in total if color in chosen}
    return Guess(len(counted), dict(sorted(chosen.items(), key=lambda one: -one[1])), colors, mixed)
