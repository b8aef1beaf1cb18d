"""Checks over a whole data set: samples that cannot be packed, and masks that contradict each other."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from fastseg.errors import UserError
from fastseg.labels import Color, LabelTable
from fastseg.packing.reading import DEEP, ReadOptions, SampleError, read_pair
from fastseg.packing.records import Statistics
from fastseg.packing.sources.samples import Sample
from fastseg.packing.sources.tree import Member
from fastseg.parallel import ordered_map
from fastseg.shards.images import load_image, read_deep

Progress = Callable[[int, int], None]
"""Callback with the number of samples read so far and the total."""
NAMED = 20
"""Number of files that a message names for each kind of problem."""


@dataclass(frozen=True)
class Problem:
    """A sample that cannot be packed."""

    sample: Sample
    message: str
    """One sentence with the file, the value found and the cure."""

    @property
    def kind(self) -> str:
        """The cure at the end of the message, which is the same for all samples that fail in the same way."""
        return self.message.rpartition("; ")[2]


def find_problems(
    samples: Sequence[Sample],
    table: LabelTable,
    options: ReadOptions,
    workers: int,
    progress: Progress | None = None,
) -> list[Problem]:
    """Read all samples as packing would, without encoding, and return those that cannot be packed, in order."""
    problems = []
    tasks = ((sample, table, options) for sample in samples)
    with closing(ordered_map(_problem, tasks, min(workers, max(1, len(samples))))) as found:
        for done, problem in enumerate(found, 1):
            if problem:
                problems.append(problem)
            if progress:
                progress(done, len(samples))
    return problems


def _problem(sample: Sample, table: LabelTable, options: ReadOptions) -> Problem | None:
    try:
        read_pair(sample, table, options)
    except SampleError as error:
        return Problem(sample, str(error))
    return None


def problems_error(problems: Sequence[Problem], total: int) -> UserError:
    """Return an error that counts the samples that cannot be packed.

    Its details list up to :data:`NAMED` files for each kind of problem and count the rest.
    """
    details = []
    for kind, count in Counter(problem.kind for problem in problems).most_common():
        details += [problem.message for problem in problems if problem.kind == kind][:NAMED]
        if count > NAMED:
            details.append(f"and {count - NAMED} more with this cure: {kind}")
    cure = "mend them, or leave them out with --skip-bad" if len(problems) < total else "mend them"
    return UserError(f"{len(problems)} of {total} samples cannot be packed; {cure}", details)


def check_agreement(packed: Iterable[tuple[str, Statistics]]) -> None:
    """Raise :class:`UserError` if masks of one set contradict each other.

    ``packed`` holds the file name and the statistics of each sample.
    """
    packed = list(packed)
    _check_palettes(packed)
    _check_grays(packed)
    _check_white(packed)
    _check_orientations(packed)


def _check_palettes(packed: Sequence[tuple[str, Statistics]]) -> None:
    first: dict[int, tuple[Color, str]] = {}
    for name, statistics in packed:
        for value, color in statistics.facts.palette:
            known, other = first.setdefault(value, (color, name))
            if known != color:
                raise UserError(
                    f"the value {value} has the color {list(known)} in the palette of the mask of {other} and "
                    f"{list(color)} in that of {name}; say which of them holds: --mask-values value or color"
                )


def _check_grays(packed: Sequence[tuple[str, Statistics]]) -> None:
    first = {gray: name for name, statistics in reversed(packed) if (gray := statistics.facts.gray_rgb) is not None}
    if len(first) == 2:
        raise UserError(
            f"the mask of {first[True]} has nothing but grays and could be read by value, that of {first[False]} has "
            "colors; say which holds for all: --mask-values color or value"
        )


def _check_white(packed: Sequence[tuple[str, Statistics]]) -> None:
    classes = {"alone": 1, "beside": 2}
    masks = [
        (name, white is not None, classes[white] if white else sum(map(bool, statistics.pixels[:-1])))
        for name, statistics in packed
        for white in (statistics.facts.white,)
    ]
    present = {index for _, entry in packed for index, count in enumerate(entry.pixels[:-1]) if count}
    one_class = len(present) == 1 and any(len(entry.pixels) > 2 for _, entry in packed)
    if error := unclear_white(masks, one_class):
        raise error


def unclear_white(masks: Sequence[tuple[str, bool, int]], one_class: bool = False) -> UserError | None:
    """Return the error of a set that mixes masks of 0 and 1 with masks of 0 and 255, if 255 is ignored.

    ``masks`` holds the name of each mask, whether it has ignored pixels of value 255, and the number of its classes.
    ``one_class`` tells that only one of several classes occurs in the set.
    """
    alone = [name for name, white, classes in masks if white and classes == 1]
    beside = any(white and classes > 1 for _, white, classes in masks)
    others = any(classes > 1 for _, white, classes in masks if not white)
    if not alone or beside or not (others or one_class):
        return None
    contrast = "those that show several classes never do" if others else "no mask shows another class"
    return UserError(
        f"{len(alone)} masks hold 255, which is ignored, beside one class only, such as {alone[0]}, and {contrast}: "
        'it may be an object in them; give 255 to its class ("values": [1, 255] in '
        "classes.json), or say that it is ignored: --mask-values value"
    )


def _check_orientations(packed: Sequence[tuple[str, Statistics]]) -> None:
    drawn = Counter(statistics.facts.drawn for _, statistics in packed)
    if drawn["stored"] and drawn["undecided"]:
        name = next(name for name, statistics in packed if statistics.facts.drawn == "undecided")
        raise UserError(
            f"{drawn['stored']} masks are drawn on images as stored, before their EXIF orientation, and of "
            f"{drawn['undecided']} the size does not tell, such as that of {name}; say so for all: "
            "--masks-drawn stored or upright"
        )


def find_duplicates(names: Sequence[tuple[str, str]], statistics: Sequence[Statistics]) -> dict[str, str]:
    """Find images of val that are also in train: those with equal sizes, sums and sums of squares of all channels.

    ``names`` holds the split and the name of each sample. Returns the manifest's option ``duplicates``, or nothing.
    """
    found: dict[str, dict[tuple[int, ...], str]] = {"train": {}, "val": {}}
    for (split, name), entry in zip(names, statistics, strict=True):
        if split in found:
            found[split][(entry.height, entry.width, *entry.sums)] = name
    twice = [f"{found['train'][image]} = {name}" for image, name in found["val"].items() if image in found["train"]]
    more = f" and {len(twice) - NAMED} more" if len(twice) > NAMED else ""
    return {"duplicates": f"{len(twice)} images ({', '.join(twice[:NAMED])}{more})"} if twice else {}


def find_white(samples: Sequence[Sample], workers: int) -> int | None:
    """Return the largest sample value of all 16-bit images; None if all images have 8 bits."""
    deep = [sample for sample in samples if may_be_deep(sample.image)]
    with closing(ordered_map(_largest, ((sample,) for sample in deep), min(workers, max(1, len(deep))))) as found:
        return max(found, default=0) or None


def may_be_deep(image: Member) -> bool:
    """Return whether an image may have 16 bits per channel, judging by the first bytes of its file."""
    if not image.filename.lower().endswith(DEEP):
        return False
    head = image.head(25)
    return head[24:25] == b"\x10" if head.startswith(b"\x89PNG") else head.startswith((b"II", b"MM"))


def _largest(sample: Sample) -> int:
    """Return the largest sample value of a 16-bit image; 0 for 8-bit images and files that cannot be read."""
    try:
        data = sample.image.read()
        samples = read_deep(load_image(data, str(sample.image)), data, str(sample.image))
    except UserError:
        return 0
    return 0 if samples is None else int(samples.max())
