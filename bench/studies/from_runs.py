"""Write the results of a study of one recipe from the folders of runs that were started by hand.

``python -m bench.studies.from_runs camvid-small runs/seed0 runs/seed1 runs/seed2 --json FILE --plot FILE.svg``
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bench.accuracy import without_paths
from bench.docs.plots import check_outputs, plot_studies
from bench.runner.machine import hardware
from bench.studies.results import RunResult, StudyResults, result_of, write_studies
from bench.studies.runs import shown_flags
from bench.studies.studies import BASE, STUDIES, words
from fastseg.cli_help import shown_as
from fastseg.config import Config
from fastseg.errors import UserError, run_command
from fastseg.recipe_table import RECIPES
from fastseg.report.run_folder import Run, read_run
from fastseg.shards.manifest import read_manifest

ELSEWHERE = ("runs", "name", "shards", "seed", "resume", "cache", "cache_gb", "timeout", "verify_shards", "tracker")
"""Settings in which the runs of a study may differ from its recipe."""


@dataclass(frozen=True)
class Options:
    """Write a study's results from the folders of finished runs, one for each seed.

    Every setting of a run has to be the recipe's, and the score of its best checkpoint that of its best evaluation.

    Example: python -m bench.studies.from_runs camvid-small runs/seed0 runs/seed1 --json results.json
    """

    study: Annotated[str, tyro.conf.Positional]
    """Study without variants, such as camvid-small."""
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of its runs."""
    json: Annotated[Path, shown_as("FILE")]
    """Write commands, environment and results to this file."""
    plot: Annotated[Path | None, shown_as("FILE.png|svg")] = None
    """Draw mIoU against minutes."""


def main() -> None:
    """Write the results, and print the best run: the one to export."""
    options = tyro.cli(Options)
    check_outputs(options.json, options.plot)
    runs = {folder: read_run(folder) for folder in options.runs}
    study = results_of_runs(options.study, runs)
    first = next(iter(runs.values())).environment
    commands = "; ".join(without_paths(run.environment["command"]) for run in runs.values())
    environment = {name: without_paths(text) for name, text in first.items()} | {"command": commands}
    write_studies(options.json, environment, [study])
    if options.plot:
        plot_studies(environment, [study], options.plot)
    best = max(zip(study.results, runs, strict=True), key=lambda pair: pair[0].best)
    print(f"{options.json}: {len(study.results)} runs; the best is {best[1]}, {100 * best[0].best:.2f} % mIoU")


def results_of_runs(name: str, runs: dict[Path, Run]) -> StudyResults:
    """Return the results of finished runs, by their folders. Raises :class:`UserError` for runs of something else."""
    if name not in STUDIES or STUDIES[name].variants:
        alone = ", ".join(study for study, made in STUDIES.items() if not made.variants)
        raise UserError(f"{name!r} is no study without variants; name one of: {alone}")
    study, seeds = STUDIES[name], [run.config.get("seed") for run in runs.values()]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"the seeds of the runs are {', '.join(map(str, seeds))}; name one run for each seed")
    results = [_result(folder, run, RECIPES[study.base["--recipe"]]()) for folder, run in runs.items()]
    first = next(iter(runs.values()))
    manifest = read_manifest(first.config["shards"])
    images, held_out = (manifest.split(first.config[split]).samples for split in ("train_split", "eval_split"))
    return StudyResults(
        name=name,
        question=study.question,
        prediction=study.prediction,
        targets=study.targets,
        flags={BASE: " ".join(words(study.base | shown_flags(first.config)))},
        data=f"{manifest.name}, {images} images to train on and {held_out} to evaluate on",
        results=tuple(results),
        planned=len(results),
    )


def _result(folder: Path, run: Run, recipe: Config) -> RunResult:
    for key in ("commit", "command", "processor"):
        if not run.environment.get(key):
            raise UserError(f"{folder}/environment.json names no {key}; train it anew from a checkout")
    if changed := _changed(run.config, recipe.to_dict()):
        raise UserError(f"{folder} is no run of the recipe: it changes {', '.join(changed)}; name runs of it alone")
    epochs = float(run.config["optim"]["epochs"])
    if float(run.last.get("epoch", 0)) < epochs:
        raise UserError(f"{folder} is at epoch {run.last.get('epoch', 0):g} of {epochs:g}; resume it to its end first")
    session = {"commit": run.environment["commit"], "hardware": hardware(run.environment)}
    record = {"finished": True, "failure": None, "sessions": [session | {"seconds": None, "joules": None}]}
    result = result_of(folder, BASE, int(run.config["seed"]), record)
    _check_best(folder, result)
    return result


def _changed(config: dict[str, Any], recipe: dict[str, Any], inside: Sequence[str] = ()) -> list[str]:
    """Return the names of settings that differ from the recipe's; a run may be older than a setting."""
    found: list[str] = []
    for name, value in recipe.items():
        if isinstance(value, dict):
            found += _changed(config.get(name, {}), value, (*inside, name))
        elif name in config and config[name] != value and not (not inside and name in ELSEWHERE):
            found.append(".".join((*inside, name)))
    return found


def _check_best(folder: Path, result: RunResult) -> None:
    """Refuse a best checkpoint of another score than the log's best: the folder holds parts of two runs."""
    from fastseg.model import checkpoint  # torch takes seconds to import

    score = checkpoint.load(folder / "checkpoints" / "best.pt")["score"]
    if not score or abs(score["miou"] - result.best) > 1e-9:
        said = "no score" if not score else f"{100 * score['miou']:.2f} % mIoU"
        raise UserError(
            f"{folder}/checkpoints/best.pt has {said}, metrics.jsonl at best {100 * result.best:.2f} %; "
            "name a folder with one whole run"
        )


if __name__ == "__main__":
    run_command(main)
