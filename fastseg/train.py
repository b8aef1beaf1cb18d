"""Train DeepLabv3 on packed shards: ``torchrun fastseg/train.py --gpus 8``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Literal

if __package__ in (None, ""):
    # Run as a script, sys.path starts with this folder, whose modules are not for the top level.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import tyro

from fastseg.config import Config
from fastseg.data.manifest import read_manifest
from fastseg.errors import UserError, run_command
from fastseg.recipes import RECIPES


@dataclass(frozen=True)
class Launch:
    """Where to run."""

    recipe: str = "cityscapes"
    """Named settings to start from; every other flag overrides one of its fields."""
    gpus: int | None = None
    """Processes on this machine: one per GPU, or per share of the CPU where there is no GPU. None: one for every
    GPU there is. Under torchrun --nproc-per-node N it may be left out."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPUs if there are any."""


@dataclass(frozen=True)
class Command:
    """Train torchvision's DeepLabv3 on shards packed by tools/make_shards.py.

    Example: torchrun fastseg/train.py --gpus 8 --recipe cityscapes --data.batch 8
    """

    launch: Annotated[Launch, tyro.conf.arg(name="")]
    config: Annotated[Config, tyro.conf.arg(name="")]


def parse(arguments: Sequence[str]) -> tuple[Launch, Config]:
    """The command line: the recipe's settings, with the given flags in place of theirs."""
    name = _recipe_name(arguments)
    if name not in RECIPES:
        raise UserError(f"--recipe is {name!r}; it must be one of: {', '.join(RECIPES)}")
    command = tyro.cli(
        Command,
        args=arguments,
        default=Command(Launch(recipe=name), RECIPES[name]()),
        description=f"{getdoc(Command)}\n\nRecipe {name}: {getdoc(RECIPES[name])}",
        config=(tyro.conf.FlagConversionOff,),
    )
    return command.launch, command.config


def main() -> None:
    """The command ``fastseg-train``."""
    run_command(_main)


def _recipe_name(arguments: Sequence[str]) -> str:
    # The recipe is the default of everything else, so it has to be known before the rest is parsed.
    for i, argument in enumerate(arguments):
        if argument.startswith("--recipe="):
            return argument.removeprefix("--recipe=")
        if argument == "--recipe" and i + 1 < len(arguments):
            return arguments[i + 1]
    return Launch().recipe


def _main() -> None:
    launch, config = parse(sys.argv[1:])
    manifest = read_manifest(config.shards)
    # torch takes seconds to import: --help and wrong flags are answered before.
    from fastseg.loop.distributed import become_ranks, joined_ranks
    from fastseg.loop.session import check, train

    check(config, manifest)
    become_ranks(launch.gpus, launch.device)
    with joined_ranks(launch.device) as ranks:
        train(config, manifest, ranks)


if __name__ == "__main__":
    main()
