"""The runs of a study: their commands and folders, and whether a folder belongs to its run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.studies.studies import BASE, STUDIES, Flags, flags_of, words
from fastseg.commands.train import Launch, parse
from fastseg.config import Config
from fastseg.errors import UserError
from fastseg.shards.manifest import Manifest, read_manifest

RECORD = "accuracy.json"
"""File in a run's folder that marks it as made by bench/accuracy.py, with the number of starts."""
ELSEWHERE = ("runs", "name", "shards", "cache", "cache_gb", "tracker", "resume", "timeout", "verify_shards", "seed")
"""Settings that move a run without changing its variant. (The data are compared by their digest.)"""


@dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    study: str
    variant: str
    words: tuple[str, ...]
    """The command line of ``fastseg/train.py``."""
    launch: Launch
    config: Config
    images: int
    """Images of the training split."""
    digest: str
    """Digest of the manifest."""

    @property
    def seed(self) -> int:
        """Return the run's seed."""
        return self.config.seed

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return self.config.folder

    @property
    def label(self) -> str:
        """Return a name for messages."""
        return f"{self.study}, {self.variant}, seed {self.seed}"

    @property
    def work(self) -> int:
        """Return the number of images that it trains on."""
        return round(self.config.optim.epochs * self.images)

    def read(self, name: str) -> dict[str, Any]:
        """Return a JSON file of its folder; empty if it does not exist yet."""
        path = self.folder / name
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    def finished(self) -> bool:
        """Return whether it is finished and needs no further process."""
        return bool(self.read(RECORD).get("finished"))


def plan(
    name: str, variants: Sequence[str] | None, seeds: Sequence[int], folder: Path, extra: Sequence[str]
) -> list[Run]:
    """Return the runs of a study, all variants of a seed before the next seed, so that an early end leaves it balanced.

    ``extra`` are flags for all runs, which a variant's own flags override. Raises :class:`UserError` for wrong names,
    flags and data, and for folders of other settings.
    """
    study = STUDIES[name]
    for variant in variants or ():
        if variant not in study.changed():
            raise UserError(f"--variants has {variant!r}; the study {name} has: {', '.join(study.changed())}")
    if study.needs and study.needs not in flags_of(extra):
        raise UserError(f"{name} starts from weights that you have to name; add -- {study.needs} FILE")
    chosen = [variant for variant in study.changed() if variant == BASE or variants is None or variant in variants]
    flags = {v: {"--gpus": "1", **study.base, **flags_of(extra), **study.changed()[v]} for v in chosen}
    runs = [_run(name, variant, flags[variant], seed, folder) for seed in seeds for variant in chosen]
    _check_different(runs[: len(chosen)])
    for run in runs:
        check_folder(run)
    return runs


def shown_flags(config: dict[str, Any]) -> Flags:
    """Return the settings of a run that tables name, as flags: a recipe's may change after it was measured."""
    model, optim, crop = config["model"], config["optim"], config["data"]["crop"]
    return {
        "--model.arch": str(model["arch"]),
        "--model.weights": Path(str(model["weights"])).name,
        "--data.crop": " ".join(map(str, crop)),
        "--optim.epochs": f"{optim['epochs']:g}",
    }


def _run(name: str, variant: str, flags: Flags, seed: int, folder: Path) -> Run:
    own = ("--seed", str(seed), "--runs", str(folder / name), "--name", f"{variant}-{seed}", "--resume", "auto")
    for flag in own[::2]:
        if flag in flags:
            raise UserError(f"{flag} follows --, but bench/accuracy.py gives it to each run; leave it out there")
    if flags["--gpus"] != "1":
        raise UserError(f"--gpus {flags['--gpus']} follows --; runs are compared on one GPU each, leave it out")
    line = (*words(flags), *own)
    launch, config = parse(line)
    manifest = _manifest(config.shards)
    return Run(name, variant, line, launch, config, manifest.split(config.train_split).samples, manifest.digest())


@cache
def _manifest(shards: str) -> Manifest:
    return read_manifest(shards)


def _check_different(runs: Sequence[Run]) -> None:
    """Refuse variants with the same settings, which would be compared with themselves."""
    seen: dict[str, Run] = {}
    for run in runs:
        other = seen.setdefault(json.dumps(_settings(run.config.to_dict())), run)
        if other is not run:
            raise UserError(
                f"{run.study}'s {run.variant} has the settings of its {other.variant}; "
                "leave the flag that makes them alike out of those after --, or one of the two out of --variants"
            )


def check_folder(run: Run) -> None:
    """Refuse a folder with another run: other settings, other data, or not made by bench/accuracy.py."""
    found = run.read("config.json")
    if not found:
        return
    cure = "remove that folder, or name another place with --runs"
    record = run.read(RECORD)
    if not record:
        raise UserError(f"{run.folder} holds a run that bench/accuracy.py did not make; {cure}")
    if record["dataset"] != run.digest:
        raise UserError(f"{run.folder} holds a run on other data than {run.config.shards} has now; {cure}")
    then, now = _settings(found), _settings(run.config.to_dict())
    for key in {**then, **now}:
        if then.get(key) != now.get(key):
            raise UserError(f"{run.folder} holds a run with {key} {then.get(key)}, which is {now.get(key)} now; {cure}")


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that count, flat: ``optim.lr`` for a nested one."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": deeper for inner, deeper in value.items()}
        elif key not in ELSEWHERE:
            flat[key] = value
    return flat
