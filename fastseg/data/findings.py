"""What stands out in an inspection, in words: one sentence each, with figures and a cure."""

from collections.abc import Iterator

from fastseg.data.inspection import Inspection
from fastseg.data.manifest import Split
from fastseg.labels import SegmentationClass

SMALL_VIEW = 0.04
"""Share of a frame below which crops are called small: 768² of a Cityscapes frame at the largest ratio, 2, are 0.07."""
MUCH_PADDING = 0.25
MUCH_UNLABELLED = 0.05
"""Share of the crops."""
MUCH_IGNORED = 0.5


def findings(inspection: Inspection, split: Split, classes: tuple[SegmentationClass, ...]) -> list[str]:
    """Sentences, the gravest first; empty where nothing stands out."""
    return [*_shift(inspection), *_classes(inspection, split, classes), *_crops(inspection), *_frames(split)]


def _shift(inspection: Inspection) -> Iterator[str]:
    if inspection.shift is not None:
        down, right = inspection.shift
        vertical = f"{percent(abs(down))} of the height {'down' if down > 0 else 'up'}"
        horizontal = f"{percent(abs(right))} of the width to the {'right' if right > 0 else 'left'}"
        words = " and ".join([vertical] * (abs(down) > 0.01) + [horizontal] * (abs(right) > 0.01))
        yield f"the masks seem shifted against their images by {words}; look at the overlays"


def _classes(inspection: Inspection, split: Split, classes: tuple[SegmentationClass, ...]) -> Iterator[str]:
    shares = {c.name: count / sum(split.pixels) for c, count in zip(classes, split.pixels, strict=False)}
    absent = [name for name, share in shares.items() if not share]
    never = [c.name for c, crops in zip(classes, inspection.showing, strict=False) if not crops and shares[c.name]]
    if len(absent) == 1:
        yield f"class {absent[0]!r} has no pixel in the whole split: it cannot be learned from it"
    elif absent:
        names = ", ".join(map(repr, absent))
        yield f"{len(absent)} classes have no pixel in the whole split and cannot be learned from it: {names}"
    if len(never) == 1:
        share = percent(shares[never[0]])
        yield f"class {never[0]!r} never appeared in {inspection.crops} crops; its share in the set is {share}"
    elif never:
        names = ", ".join(f"{name!r} ({percent(shares[name])})" for name in never)
        yield f"{len(never)} classes never appeared in {inspection.crops} crops, with their shares in the set: {names}"


def _crops(inspection: Inspection) -> Iterator[str]:
    unlabelled = inspection.unlabelled / inspection.crops
    ignored = inspection.pixels[-1] / max(sum(inspection.pixels), 1)
    if unlabelled > MUCH_UNLABELLED:
        yield f"{inspection.unlabelled} of {inspection.crops} crops show no labelled pixel and teach nothing"
    elif ignored > MUCH_IGNORED:
        yield f"{percent(ignored)} of what the crops show is ignored; is a value missing among the classes?"
    if inspection.padding > MUCH_PADDING:
        yield (
            f"{percent(inspection.padding)} of the crops' pixels are padding, since frames are smaller than the crop; "
            "choose a smaller --data.crop or a larger --data.scale"
        )
    if inspection.seen < SMALL_VIEW:
        yield (
            f"a crop shows {percent(inspection.seen)} of its frame on average; "
            "choose a larger --data.crop or a smaller --data.scale, or pack with --height"
        )


def _frames(split: Split) -> Iterator[str]:
    if len(split.sizes) > 1:
        yield f"frames have {len(split.sizes)} sizes: training mixes them, an evaluation takes one frame at a time"


def percent(share: float) -> str:
    """``12 %``, ``0.020 %``: two digits that tell something."""
    if share >= 0.1 or not share:
        return f"{100 * share:.0f} %"
    return f"{100 * share:#.2g} %" if share >= 1e-6 else "< 0.0001 %"
