"""What cannot be packed, all of it at once; and what the samples of one set have to agree on."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from fastseg.errors import UserError
from fastseg.labels import Color, LabelTable
from fastseg.packing.reading import ReadOptions, SampleError, read_pair
from fastseg.packing.records import Statistics
from fastseg.packing.sources.samples import Sample
from fastseg.packing.sources.tree import Member
from fastseg.parallel import ordered_map
from fastseg.shards.images import load_image, read_deep

Progress = Callable[[int, int], None]
"""Called with the samples that are read and all there are."""
NAMED = 20
"""Files of one kind of problem that a message names."""


@dataclass(frozen=True)
class Problem:
    """A sample that cannot be packed."""

    sample: Sample
    message: str
    """One sentence with the file, the value found and the cure."""

    @property
    def kind(self) -> str:
        """The cure, which is the same for all that fail alike."""
        return self.message.rpartition("; ")[2]


def find_problems(
    samples: Sequence[Sample],
    table: LabelTable,
    options: ReadOptions,
    workers: int,
    progress: Progress | None = None,
) -> list[Problem]:
    """Read all ``samples`` as packing would, encoding nothing; those that cannot be packed, in their order."""
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
    """How many of ``total`` samples cannot be packed; its details: the first files of each kind, and how many more."""
    details = []
    for kind, count in Counter(problem.kind for problem in problems).most_common():
        details += [problem.message for problem in problems if problem.kind == kind][:NAMED]
        if count > NAMED:
            details.append(f"and {count - NAMED} more with this cure: {kind}")
    cure = "mend them, or leave them out with --skip-bad" if len(problems) < total else "mend them"
    return UserError(f"{len(problems)} of {total} samples cannot be packed; {cure}", details)


def check_agreement(packed: Iterable[tuple[str, Statistics]]) -> None:
    """Raise :class:`UserError` where masks of one set contradict each other; ``packed``: their names and statistics."""
    packed = list(packed)
    _check_palettes(packed)
    _check_grays(packed)
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


def _check_orientations(packed: Sequence[tuple[str, Statistics]]) -> None:
    drawn = Counter(statistics.facts.drawn for _, statistics in packed)
    if drawn["stored"] and drawn["undecided"]:
        name = next(name for name, statistics in packed if statistics.facts.drawn == "undecided")
        raise UserError(
            f"{drawn['stored']} masks are drawn on images as stored, before their EXIF orientation, and of "
            f"{drawn['undecided']} the size does not tell, such as that of {name}; say so for all: "
            "--masks-drawn stored or upright"
        )


def find_white(samples: Sequence[Sample], workers: int) -> int | None:
    """The largest sample of all images of 16 bits; None where all have 8."""
    deep = [sample for sample in samples if may_be_deep(sample.image)]
    with closing(ordered_map(_largest, ((sample,) for sample in deep), min(workers, max(1, len(deep))))) as found:
        return max(found, default=0) or None


def may_be_deep(image: Member) -> bool:
    """Whether an image may have 16 bits per channel, by the first bytes of its file."""
    if not image.filename.lower().endswith((".png", ".tif", ".tiff")):
        return False
    head = image.head(25)
    return head[24:25] == b"\x10" if head.startswith(b"\x89PNG") else True


def _largest(sample: Sample) -> int:
    """The largest sample of an image of 16 bits; 0 for one of 8, and for one that packing will complain about."""
    try:
        data = sample.image.read()
        samples = read_deep(load_image(data, str(sample.image)), data)
    except UserError:
        return 0
    return 0 if samples is None else int(samples.max())
