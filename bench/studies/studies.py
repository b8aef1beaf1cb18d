"""The studies of ``bench/accuracy.py``: each a question, a base, its variants, and a prediction."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastseg.errors import UserError

Flags = dict[str, str]
"""Flag of ``fastseg/train.py`` → its value as typed in a shell, several words if it takes several."""
BASE = "base"


@dataclass(frozen=True)
class Study:
    """A question that a few runs answer."""

    question: str
    prediction: str
    """Written before anything was measured."""
    base: Flags
    """All flags that differ from the recipe ``--recipe``."""
    targets: tuple[float, ...]
    """mIoU (fractions) to which the minutes are measured."""
    variants: dict[str, Flags] = field(default_factory=dict)
    """Name → the changed flags. A name is used for a folder: letters, digits and dashes."""
    needs: str = ""
    """A flag that must follow ``--``: without it the runs would not answer the question."""
    seeds: int = 3
    """Default number of seeds per variant; an interval needs three."""

    def changed(self) -> dict[str, Flags]:
        """Return the base, then the variants: name → the changed flags."""
        return {BASE: {}, **self.variants}


def words(flags: Flags) -> list[str]:
    """Return flags as words of a command line."""
    return [word for flag, value in flags.items() for word in (flag, *shlex.split(value))]


def flags_of(line: Sequence[str]) -> Flags:
    """Return the flags of a command line: the words up to the next flag are a flag's value."""
    found: dict[str, list[str]] = {}
    for word in line:
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            values = found[flag] = [value] if equals else []
        elif found:
            values.append(word)
        else:
            raise UserError(f"after -- comes {word!r}, which is no flag of fastseg/train.py; begin with one")
    return {flag: shlex.join(values) for flag, values in found.items()}


def _every(epochs: str) -> Flags:
    return {"--eval-every": epochs, "--save-every": epochs}


PROXY: Flags = {
    "--recipe": "camvid",
    "--model.arch": "deeplabv3_mobilenet_v3_large",
    "--data.batch": "8",
    "--data.crop": "192 256",
    "--data.scale": "0.5 1.0",
    "--optim.epochs": "14",
    "--optim.lr": "0.05",
    "--optim.lr-batch": "8",
    "--optim.warmup": "0.5",
    "--optim.ema": "0.98",
    **_every("2"),
}
"""The recipe ``camvid`` at a size for two CPU cores."""
SMALL: Flags = {
    **PROXY,
    "--data.crop": "144 192",
    "--data.scale": "0.5 1.5",
    "--optim.epochs": "6",
    **_every("6"),
}
""":data:`PROXY` in a third of the time, on CamVid packed with --height 240."""
DICE: Flags = {"--optim.dice": "0.5"}
WEIGHTS: Flags = {"--optim.class-weights": "0.5"}
CHANGES: dict[str, Flags] = {
    "weights-off": {"--optim.class-weights": "0"},
    "dice": DICE,
    "ema-off": {"--optim.ema": "None"},
    "colors-off": {f"--data.{name}": "0" for name in ("brightness", "contrast", "saturation", "hue")},
    "aux-off": {"--optim.aux": "0"},
    "clip-off": {"--optim.clip": "None"},
}
"""Single changes to any recipe for CamVid."""

STUDIES: dict[str, Study] = {
    "camvid": Study(
        question="What does the recipe camvid reach, from scratch with R50, and in how many minutes?",
        prediction="66 to 69 % on val; on one H200 in 8 to 15 minutes",
        base={"--recipe": "camvid"},
        targets=(0.60, 0.65, 0.68),
    ),
    "camvid-short": Study(
        question="Which parts of the recipe camvid pay, in runs of a twelfth of its length?",
        prediction="without class weights worse by 2 to 5 points, without averaged weights by 1 to 3, without colors "
        "or the auxiliary head by less than one; with Dice better by 0 to 2; clipping is noise",
        # Not compiled: that would take longer than it saves in so short a run.
        base={"--recipe": "camvid", "--optim.epochs": "50", "--optim.warmup": "1", "--model.compile": "False"}
        | _every("10"),
        targets=(0.30, 0.40, 0.50),
        variants=CHANGES,
    ),
    "camvid-proxy": Study(
        question="Which parts of the recipe camvid pay, by the small network at reduced size?",
        prediction="without class weights worse by 2 to 5 points, without averaged weights by 1 to 3; colors, Dice "
        "and the auxiliary head within noise in so short a run; AdamW and half the rate worse; clipping is noise",
        base=PROXY,
        targets=(0.25, 0.30, 0.35),
        variants={
            **CHANGES,
            "wide-scale": {"--data.scale": "0.35 1.4"},
            "rate-half": {"--optim.lr": "0.025"},
            "rate-double": {"--optim.lr": "0.1"},
            "adamw": {"--optim.name": "adamw", "--optim.lr": "0.001"},
        },
    ),
    "camvid-small": Study(
        question="What does the recipe camvid-small reach on two CPU cores, from scratch, and in how many minutes?",
        prediction="56 % on val in about an hour",
        base={"--recipe": "camvid-small"},
        targets=(0.40, 0.50, 0.56),
    ),
    "camvid-rare": Study(
        question="A network that has learnt the large classes and none of the thin ones (poles, signs, people): what "
        "makes it see them?",
        needs="--model.weights",
        prediction="Dice 0 to +2 points, class weights +2 to +5 with the thin classes off 0, both together +4 to +6",
        base={**SMALL, "--optim.lr": "0.02", "--optim.class-weights": "0"},
        targets=(),
        seeds=5,
        variants={
            "dice": DICE,
            "class-weights": WEIGHTS,
            "both": DICE | WEIGHTS,
        },
    ),
    "demo": Study(
        question="Does this machinery work here? The demo's recipe, its average left out, its rate halved.",
        prediction="without averaged weights within noise; at half the rate worse by 1 to 4 points",
        base={"--recipe": "demo"},
        targets=(0.10, 0.15, 0.20),
        variants={"ema-off": {"--optim.ema": "None"}, "rate-half": {"--optim.lr": "0.025"}},
    ),
}
"""Name → study, those for a GPU first."""
