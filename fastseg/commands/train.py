"""Train DeepLabv3 on packed shards: ``torchrun fastseg/train.py --gpus 8``."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fastseg.cli_help import Setting, command_name, cut, first_sentence, help_lines, listed, settings, spell_out
from fastseg.config import Config
from fastseg.errors import UserError, run_command
from fastseg.interface.training import checked_manifest
from fastseg.progress import be_quiet
from fastseg.recipe_table import DEFAULT, RECIPES, recipe_in

if TYPE_CHECKING:
    from fastseg.shards.manifest import Manifest

MAX_SECONDS = 3600
"""Maximum of ``--breakdown``."""
OFTEN = (
    *("shards", "name", "data.batch", "data.crop"),
    *("model.arch", "model.weights", "optim.epochs", "optim.lr"),
)
"""Settings that the short help explains."""


@dataclass(frozen=True)
class Launch:
    """Recipe, device and number of processes."""

    recipe: str = DEFAULT
    """Named settings to start from; every other flag overrides one of its fields."""
    gpus: int | None = None
    """Processes on this machine, one per GPU or per share of the CPU. None: one per GPU. Under torchrun
    --nproc-per-node N it may be left out."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPUs if there are any."""
    max_restarts: int = 0
    """Restarts of all ranks from the last checkpoint if one dies. (Under torchrun --nproc-per-node N use torchrun's own
    flag.)"""
    profile: bool = False
    """Profile a few steps after warm-up, then continue. Prints where each millisecond goes, and keeps it in
    RUNS/NAME/profile with a trace for Perfetto."""
    breakdown: float | None = None
    """Train nothing: measure for so many seconds where a step's time goes. Says first how much faster training would be
    if the loader cost nothing, then what reading, decoding, augmenting, and each part of the step take. 30 will do;
    writes no run."""
    json: bool = False
    """Print scores and files of the run as JSON at the end."""
    quiet: bool = False
    """Show no progress, and say nothing but warnings and errors."""


@dataclass(frozen=True)
class Command:
    """Train torchvision's DeepLabv3 on shards packed by fastseg-pack.

    Example: torchrun fastseg/train.py --gpus 8 --recipe cityscapes --data.batch 8
    """

    launch: Annotated[Launch, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff]
    config: Annotated[Config, tyro.conf.arg(name="")]


def parse(arguments: Sequence[str]) -> tuple[Launch, Config]:
    """Parse the command line: the recipe's settings, overridden by the given flags."""
    name = recipe_in(arguments)  # it provides all other defaults, so it has to be known before the rest is parsed
    if name not in RECIPES:
        raise UserError(f"--recipe is {name!r}; it must be one of: {', '.join(RECIPES)}")
    default = Command(Launch(recipe=name), RECIPES[name]())
    if {"-h", "--help"} & set(arguments):
        print(one_screen(default.launch, default.config))
        sys.exit()
    description = f"{getdoc(Command)}\n\nRecipe {name}: {getdoc(RECIPES[name])}"
    command = tyro.cli(
        Command,
        prog=command_name(),
        args=spell_out(arguments, default.config),
        default=default,
        description=description,
        compact_help=True,
    )
    be_quiet(command.launch.quiet)
    return command.launch, command.config


def one_screen(launch: Launch, config: Config) -> str:
    """Return the text of ``--help``: every flag with its value in the recipe, the most used ones explained."""
    rows = list(settings(config))
    others = {title: [row for row in rows if _part(row) == title] for title in ("run", "data", "model", "optim")}
    return "\n".join(
        [
            f"usage: {command_name()} [--gpus N] [--recipe NAME] [--FLAG VALUE ...]\n",
            *(getdoc(Command) or "").replace("torchrun fastseg/train.py", command_name()).splitlines(),
            "\nrecipes",
            *(cut(f"  {name:<14}{first_sentence(getdoc(recipe) or '')}") for name, recipe in RECIPES.items()),
            "\nlaunch",
            *help_lines(list(settings(launch))),
            f"\nmost often changed, with the values of the recipe {launch.recipe}",
            *help_lines([row for row in rows if row.flag.removeprefix("--") in OFTEN]),
            "\nthe others",
            *(line for title, rows in others.items() for line in listed(title, rows)),
            "--batch is --data.batch, and so on. -H, --help-verbose explains every flag: unit, default, source.",
        ]
    )


def _part(row: Setting) -> str | None:
    name = row.flag.removeprefix("--")
    return None if name in OFTEN else name.partition(".")[0] if "." in name else "run"


def main() -> None:
    """Run the command ``fastseg-train``."""
    run_command(_main)


def _main() -> None:
    launch, config = parse(sys.argv[1:])
    manifest = checked_manifest(config)
    # torch takes seconds to import: --help and wrong flags are answered before.
    from fastseg.distributed.ranks import become_ranks, joined_ranks, restarts_of_launcher
    from fastseg.training.run import check, train

    if launch.breakdown is not None:
        _break_down(launch, config, manifest)
        return
    saved = check(config, manifest, launch.device)
    if config.resume == "never" and (launch.max_restarts or restarts_of_launcher()):
        raise UserError(
            "--resume is never, but each restart of --max-restarts would start anew; leave one of the two out"
        )
    become_ranks(launch.gpus, launch.device, launch.max_restarts)
    with joined_ranks(launch.device, config.timeout) as ranks:
        train(config, manifest, ranks, saved, launch.profile)
        if launch.json and ranks.first:
            print(json.dumps(summarize(config.folder), indent=1))


def _break_down(launch: Launch, config: Config, manifest: "Manifest") -> None:
    """Measure where a step's time goes, and print that."""
    if not launch.breakdown or not 0 < launch.breakdown <= MAX_SECONDS:
        raise UserError(f"--breakdown is {launch.breakdown}; it must be above 0 and at most {MAX_SECONDS} seconds")
    from fastseg.distributed.ranks import become_ranks, joined_ranks
    from fastseg.training.breakdown import measure, show
    from fastseg.training.run import check

    config = replace(config, resume="never")  # no checkpoint is read, and no run written
    check(config, manifest, launch.device)
    become_ranks(launch.gpus, launch.device)
    with joined_ranks(launch.device, config.timeout) as ranks:
        document = measure(config, manifest, ranks, launch.breakdown)
        if ranks.first and launch.json:
            print(json.dumps(document, indent=1))
        elif ranks.first:
            show(document)


def summarize(folder: Path) -> dict[str, Any]:
    """Return the run's scores and files for ``--json``."""
    from fastseg.report.run_folder import read_run

    run = read_run(folder)
    files = {"checkpoint": folder / "checkpoints" / "best.pt", "report": folder / "report.html"}
    return {"run": str(folder), "best": run.best, "last": run.last, **{name: str(path) for name, path in files.items()}}


if __name__ == "__main__":
    main()
