"""A study as the runs that it takes: the command of each, its folder, and whether what lies there is its own."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.suite.studies import BASE, STUDIES, Flags, Study, flags_of, words
from fastseg.commands.train import Launch, parse
from fastseg.config import Config
from fastseg.errors import UserError
from fastseg.shards.manifest import Manifest, read_manifest

RECORD = "accuracy.json"
"""In a run's folder: what was made by this command, and how often it was started."""
ELSEWHERE = ("runs", "name", "shards", "cache", "cache_gb", "tracker", "resume", "timeout", "verify_shards")
"""Settings that change where a run lies and nothing of what it finds. (The data have a digest.)"""


@dataclass(frozen=True)
class Trial:
    """One variant with one seed."""

    study: str
    variant: str
    words: tuple[str, ...]
    """The command line of ``fastseg/train.py``."""
    launch: Launch
    config: Config
    images: int
    """Of the training split."""
    digest: str
    """Of the manifest."""

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def label(self) -> str:
        return f"{self.study}, {self.variant}, seed {self.seed}"

    @property
    def work(self) -> int:
        """Images that it sees."""
        return round(self.config.optim.epochs * self.images)


def plan(
    name: str, variants: Sequence[str] | None, seeds: Sequence[int], runs: Path, extra: Sequence[str]
) -> list[Trial]:
    """The runs of a study, all variants of a seed before the next seed, so that an early end leaves it balanced.

    ``extra`` are flags for all runs, which a variant's own flags override. Raises :class:`UserError` for what can be
    known before: names, flags, data, and folders of other settings.
    """
    study = STUDIES[name]
    for variant in variants or ():
        if variant not in study.names():
            raise UserError(f"--variants has {variant!r}; the study {name} has: {', '.join(study.names())}")
    if study.needs and study.needs not in flags_of(extra):
        raise UserError(f"{name} goes on from weights that it has to be given; add -- {study.needs} FILE")
    chosen = [variant for variant in study.names() if variant == BASE or variants is None or variant in variants]
    trials = [
        _trial(name, variant, flags_for(study, variant, extra), seed, runs) for seed in seeds for variant in chosen
    ]
    _check_different(trials)
    for trial in trials:
        check_folder(trial)
    return trials


def flags_for(study: Study, variant: str, extra: Sequence[str]) -> Flags:
    """Of a run: the base's, those given for all, the variant's own."""
    return {"--gpus": "1", **study.base, **flags_of(extra), **study.changed()[variant]}


def _trial(name: str, variant: str, flags: Flags, seed: int, runs: Path) -> Trial:
    own = ("--seed", str(seed), "--runs", str(runs / name), "--name", f"{variant}-{seed}", "--resume", "auto")
    for flag in own[::2]:
        if flag in flags:
            raise UserError(f"{flag} stands behind --, but bench/accuracy.py gives it to each run; leave it out there")
    if flags["--gpus"] != "1":
        raise UserError(f"--gpus {flags['--gpus']} stands behind --; runs are compared on one GPU each, leave it out")
    line = (*words(flags), *own)
    launch, config = parse(line)
    manifest = _manifest(config.shards)
    return Trial(name, variant, line, launch, config, manifest.split(config.train_split).samples, manifest.digest())


_read: dict[str, Manifest] = {}


def _manifest(shards: str) -> Manifest:
    if shards not in _read:
        _read[shards] = read_manifest(shards)
    return _read[shards]


def _check_different(trials: Sequence[Trial]) -> None:
    """Two variants of the same settings would be compared with themselves."""
    seen: dict[str, Trial] = {}
    for trial in trials[: len({trial.variant for trial in trials})]:  # those of the first seed
        settings = json.dumps(_settings(trial.config.to_dict()))
        other = seen.setdefault(settings, trial)
        if other is not trial:
            raise UserError(
                f"{trial.study}'s {trial.variant} has the settings of its {other.variant}; "
                "leave the flag that makes them alike out of those behind --, or one of the two out of --variants"
            )


def check_folder(trial: Trial) -> None:
    """Refuse a folder that is not this run's: other settings, other data, or of somebody else."""
    if not (trial.folder / "config.json").exists():
        return
    cure = "remove that folder, or name another place with --runs"
    record = read_record(trial)
    if not record:
        raise UserError(f"{trial.folder} holds a run that bench/accuracy.py did not make; {cure}")
    if record["dataset"] != trial.digest:
        raise UserError(f"{trial.folder} holds a run on other data than {trial.config.shards} has now; {cure}")
    found = json.loads((trial.folder / "config.json").read_text(encoding="utf-8"))
    for key, then, now in changes(found, trial.config.to_dict()):
        raise UserError(f"{trial.folder} holds a run with {key} {then}, which is {now} now; {cure}")


def read_record(trial: Trial) -> dict[str, Any]:
    """Of a run's folder; empty where there is none yet."""
    path = trial.folder / RECORD
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def changes(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(setting, then, now) where they differ.

    A setting that did not exist then had the value that is its default now: what new settings leave as it was. One that
    exists no more was off, or the run was another.
    """
    defaults, then, now = _settings(Config().to_dict()), _settings(found), _settings(wanted)
    for key, value in now.items():
        before = then.get(key, defaults[key])
        if before != value:
            yield key, before, value
    for key, before in then.items():
        if key not in now and before:
            yield key, before, "gone"


def _settings(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flat, ``optim.lr`` for one within another, without those that do not count."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _settings(value, f"{prefix}{key}.")
        elif prefix or key not in (*ELSEWHERE, "seed"):
            flat[prefix + key] = value
    return flat
