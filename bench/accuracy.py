"""mIoU of recipes, each with several seeds, beside what was changed in them: python bench/accuracy.py --help"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

if __package__ in (None, ""):
    # Run as a script, sys.path starts with this folder, whose modules are not for the top level.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import tyro
from rich.console import Console
from rich.text import Text

from bench.suite.accuracy_tables import NOTE, markdown, remarks, tables
from bench.suite.outcomes import read_environment, read_outcome
from bench.suite.plot import check_plot
from bench.suite.studies import BASE, STUDIES, flags_of, words
from bench.suite.summaries import Findings, write_findings
from bench.suite.trials import Trial, plan
from fastseg.cli_help import shown_as
from fastseg.errors import UserError, run_command, unwind_on_sigterm
from fastseg.files import check_writable, check_writable_file
from fastseg.shards.manifest import read_manifest

PLACE = re.compile(r"(?<![\w./:])/(?:[^\s/'\"]+/)*([^\s/'\"]+)")
"""An absolute path; its last name is enough for others."""


@dataclass(frozen=True)
class Options:
    """Train what a study names, each variant with several seeds, and say which changes beat the noise between seeds.

    Each run is fastseg/train.py in a process of its own, in RUNS/STUDY/VARIANT-SEED. Ctrl-C shows what there is; the
    same command goes on from there. Behind -- come flags of fastseg/train.py for all runs.

    Example: python bench/accuracy.py camvid-proxy --seeds 3 --json results.json -- --optim.epochs 10
    """

    studies: Annotated[tuple[str, ...], tyro.conf.Positional, shown_as("STUDY ...")] = ()
    """Names of studies, of those that --list lists."""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List the studies, with their questions, variants and predictions."""
    seeds: Annotated[int | None, shown_as("N")] = None
    """Seeds 0 to N-1. Default: what the study says, mostly 3."""
    seed: Annotated[tuple[int, ...] | None, shown_as("SEED ...")] = None
    """These seeds instead."""
    variants: Annotated[tuple[str, ...] | None, shown_as("NAME ...")] = None
    """Only these variants, and the base. Default: all."""
    runs: Annotated[Path, shown_as("DIR")] = Path("runs/accuracy")
    """Folder of the run folders."""
    show: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train nothing; show what the runs have found so far."""
    json: Annotated[Path | None, shown_as("FILE")] = None
    """Write environment, outcomes and their summary there."""
    plot: Annotated[Path | None, shown_as("FILE.png|svg")] = None
    """Draw mIoU against minutes."""
    markdown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the tables as GitHub shows them."""


def main() -> None:
    """Parse the command line, train what is not yet trained, and show what was found."""
    mine, extra = split_arguments(sys.argv[1:])
    options = tyro.cli(Options, args=mine)
    if options.list:
        print(listing())
        return
    check(options)
    unwind_on_sigterm()
    plans = {name: plan(name, options.variants, _seeds(options, name), options.runs, extra) for name in options.studies}
    stopped = 0
    if not options.show:
        from bench.suite.studying import train_all  # torch takes seconds to import

        stopped = train_all(plans, options.runs)
    findings = [findings_of(name, trials, extra) for name, trials in plans.items()]
    write(options, findings, [trial for trials in plans.values() for trial in trials])
    show(options, findings)
    if stopped:
        print("interrupted; the same command goes on from there", file=sys.stderr)
    failed = any(outcome.failure for found in findings for outcome in found.outcomes)
    sys.exit(stopped or int(failed))


def split_arguments(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Ours, and those behind ``--``."""
    if "--" not in arguments:
        return arguments, ()
    at = list(arguments).index("--")
    return arguments[:at], arguments[at + 1 :]


def check(options: Options) -> None:
    """:class:`UserError` for what can be known to fail before anything is trained."""
    if not options.studies:
        raise UserError(f"no study is named; name one or more of: {', '.join(STUDIES)} (--list explains them)")
    for name in options.studies:
        if name not in STUDIES:
            raise UserError(f"{name!r} is no study; it must be of: {', '.join(STUDIES)}")
    if options.seeds is not None and options.seed is not None:
        raise UserError("--seeds and --seed are both given; leave one of the two out")
    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds is {options.seeds}; it must be at least 1")
    check_writable(options.runs, "--runs")
    if options.plot:
        check_plot(options.plot)
    for flag, path in (("json", options.json), ("plot", options.plot)):
        if path:
            check_writable_file(path, f"--{flag}")


def _seeds(options: Options, name: str) -> Sequence[int]:
    """Each once, in the order in which they are run."""
    if options.seed is not None:
        return tuple(dict.fromkeys(options.seed))
    return range(options.seeds if options.seeds is not None else STUDIES[name].seeds)


def listing() -> str:
    """The studies for people."""
    lines = []
    for name, study in STUDIES.items():
        lines += [f"{name}: {study.question}", f"  predicted  {study.prediction}"]
        changed = {BASE: study.base, **study.variants}
        lines += [*(f"  {variant:<16} {' '.join(words(flags))}" for variant, flags in changed.items()), ""]
    return "\n".join(lines).rstrip()


def findings_of(name: str, trials: Sequence[Trial], extra: Sequence[str]) -> Findings:
    """What a study's folders hold."""
    study, manifest = STUDIES[name], read_manifest(trials[0].config.shards)
    changed = {**study.variants, BASE: study.base | flags_of(extra)}
    variants = dict.fromkeys([BASE, *(trial.variant for trial in trials)])
    images, held_out = (manifest.split(split).samples for split in splits(trials[0]))
    outcomes = [outcome for trial in trials if (outcome := read_outcome(trial))]
    return Findings(
        name=name,
        question=study.question,
        prediction=study.prediction,
        marks=study.marks,
        flags={variant: without_places(shlex.join(words(changed[variant]))) for variant in variants},
        data=f"{manifest.name}, {images} images to train on and {held_out} to evaluate on",
        outcomes=tuple(replace(o, failure=without_places(o.failure) if o.failure else None) for o in outcomes),
        planned=len(trials),
    )


def splits(trial: Trial) -> tuple[str, str]:
    """To train on, and to evaluate on."""
    return trial.config.train_split, trial.config.eval_split


def without_places(text: str) -> str:
    """A text that may go to others: of absolute paths only the last name."""
    return PLACE.sub(r"\1", text)


def show(options: Options, findings: Sequence[Findings]) -> None:
    """The tables."""
    console = Console(markup=False) if sys.stdout.isatty() else Console(width=200, markup=False)
    for found in findings:
        if options.markdown:
            print(f"**{found.name}**: {found.question}\n\n{markdown(found)}\n")
            continue
        print(f"{found.name}: {found.question}")
        for table in tables(found):
            console.print(table)
        for sentence in remarks(found):
            console.print(Text(sentence), soft_wrap=True)
    if any(found.finished() for found in findings):
        print(f"\n{NOTE}")


def write(options: Options, findings: Sequence[Findings], trials: Sequence[Trial]) -> None:
    """The files that were asked for."""
    if not (options.json or options.plot):
        return
    from bench.suite.machine import machine

    # What the runs ran on, which may be another machine than the one that shows them.
    ran_on = {name: text for trial in trials for name, text in read_environment(trial).items() if name != "command"}
    environment = {name: without_places(text) for name, text in (machine() | ran_on).items()}
    if options.json:
        write_findings(options.json, environment, findings)
    if options.plot and any(found.finished() for found in findings):
        from bench.suite.accuracy_plot import draw

        draw(environment, findings, options.plot)


if __name__ == "__main__":
    run_command(main)
