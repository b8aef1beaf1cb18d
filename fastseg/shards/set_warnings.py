"""Warnings about a set of shards that limit training or evaluation, shown while packing and before training."""

from collections.abc import Sequence

from fastseg.errors import UserError
from fastseg.shards.manifest import Manifest

NAMED = 5
"""Number of classes that a sentence names."""
NOTES = {
    "masks_resized": "{} masks were resized to their images' size, by nearest neighbors",
    "masks_drawn_stored": "{} masks are drawn on images as stored, and were turned upright with them (EXIF)",
    "masks_drawn_undecided": (
        "of {} masks the size does not tell whether they are drawn on their image as stored or as turned upright by "
        "its EXIF orientation; they were taken as upright: look at them, and say --masks-drawn stored if they are not"
    ),
    "pixels_unmatched": "{} pixels of masks were near no class's color and are ignored",
    "white": "images of 16 bits became 8 bits so that {} is white",
    "skipped": "{} files or samples were left out; skipped.txt in the set's folder names them",
    "duplicates": "in train and in val, where they flatter the evaluation: {}",
}
"""Warning for each option of the manifest that counts or names a doubtful decision of packing."""


def set_warnings(manifest: Manifest, train: str = "train", val: str = "val") -> list[str]:
    """Return one sentence for each warning, the most serious first; an empty list if there are none."""
    found = [problem] if (problem := nothing_to_learn(manifest, train)) else []
    pixels = {name: split.pixels for name, split in manifest.splits.items() if split.labeled}
    if val not in manifest.splits:
        found.append(f"there is no split {val!r}, on which training is evaluated; pack with --val-fraction 0.1")
    elif problem := nothing_to_score(manifest, val):
        found.append(problem)
    splits_of: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys((train, val)):
        if name in pixels and len(absent := absent_classes(manifest, name)) < len(manifest.classes):
            splits_of.setdefault(tuple(absent), []).append(name)
    for missing, splits in splits_of.items():
        if missing:
            found.append(f"{_listed(missing)} never occur{'s' if len(missing) == 1 else ''} in {' or '.join(splits)}")
    notes = ((text, manifest.options.get(key)) for key, text in NOTES.items())
    return found + [text.format(f"{note:,}" if isinstance(note, int) else note) for text, note in notes if note]


def nothing_to_learn(manifest: Manifest, train: str = "train") -> str | None:
    """Return the reason why no network can learn from a split; None if one can."""
    split = manifest.splits.get(train)
    if split is None or not split.labeled:
        return None
    present = [entry.name for entry, count in zip(manifest.classes, split.pixels[:-1], strict=True) if count]
    if not present:
        return f"no pixel of {train} has a class: all are ignored, and there is nothing to learn"
    if len(present) == 1:
        return (
            f"all labeled pixels of {train} are {present[0]!r}: there is nothing to tell it from; give the background "
            "a class of its own in classes.json"
        )
    return None


def nothing_to_score(manifest: Manifest, val: str) -> str | None:
    """Return the reason why an evaluation on a split has no score; None if it has one."""
    if any(manifest.splits[val].pixels[:-1]):
        return None
    return f"no pixel of {val} has a class: the mIoU of an evaluation is undefined"


def refuse_unlearnable(manifest: Manifest, train: str) -> None:
    """Raise :class:`UserError` for a split from which nothing can be learned."""
    if problem := nothing_to_learn(manifest, train):
        raise UserError(f"the set {manifest.name}: {problem}")


def absent_classes(manifest: Manifest, split: str) -> list[str]:
    """Return the classes without a pixel in a labeled split."""
    pixels = manifest.splits[split].pixels
    return [entry.name for entry, count in zip(manifest.classes, pixels[:-1], strict=True) if not count]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more classes" if len(names) > NAMED else ""
    return ", ".join(repr(name) for name in names[:NAMED]) + more
