"""Measure the mIoU of recipes and their variants with several seeds: python bench/accuracy.py --help"""

import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    from bench.studies.results import StudyResults

if __package__ in (None, ""):
    # Run as a script, sys.path starts with this folder, whose modules are not for the top level.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import tyro

from bench.docs.plots import check_outputs
from bench.studies.runs import RECORD, Run, plan, shown_flags
from bench.studies.studies import BASE, STUDIES, flags_of, words
from fastseg.cli_help import command_name, shown_as
from fastseg.errors import UserError, run_command, unwind_on_signals
from fastseg.files import check_writable
from fastseg.shards.manifest import read_manifest

PATH = re.compile(r"(?<![\w./:])/(?:[^\s/'\"]+/)*([^\s/'\"]+)")
"""An absolute path; only its last name is published."""


@dataclass(frozen=True)
class Options:
    """Train a study's variants with several seeds each, and report which changes beat the noise between seeds.

    Each run is fastseg/train.py in a separate process, in RUNS/STUDY/VARIANT-SEED. Ctrl-C shows the results so far; run
    the same command again to resume. Flags of fastseg/train.py for all runs follow --.

    Example: python bench/accuracy.py camvid-proxy --seeds 3 --json results.json -- --optim.epochs 10
    """

    studies: Annotated[tuple[str, ...], tyro.conf.Positional, shown_as("STUDY ...")] = ()
    """Studies to run; --list shows their names."""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List the studies, with their questions, variants and predictions."""
    seeds: Annotated[int | None, shown_as("N")] = None
    """Use seeds 0 to N-1. Default: the study's number, mostly 3."""
    variants: Annotated[tuple[str, ...] | None, shown_as("NAME ...")] = None
    """Run only these variants, and the base (base: it alone). Default: all."""
    minutes: Annotated[float | None, shown_as("N")] = None
    """Stop after so many minutes, as by Ctrl-C. Default: when all runs are finished."""
    runs: Annotated[Path, shown_as("DIR")] = Path("runs/accuracy")
    """Folder of the run folders."""
    show: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train nothing; show the results so far."""
    json: Annotated[Path | None, shown_as("FILE")] = None
    """Write environment and results to this file."""
    plot: Annotated[Path | None, shown_as("FILE.png|svg")] = None
    """Draw mIoU against minutes."""
    markdown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the tables as Markdown."""


def main() -> None:
    """Parse the command line, train unfinished runs, and show the results."""
    arguments = sys.argv[1:]
    at = arguments.index("--") if "--" in arguments else len(arguments)
    options, extra = tyro.cli(Options, prog=command_name(), args=arguments[:at]), arguments[at + 1 :]
    if options.list:
        print(listing())
        return
    check(options)
    unwind_on_signals()
    seeds = {name: range(options.seeds or STUDIES[name].seeds) for name in options.studies}
    plans = {name: plan(name, options.variants, seeds[name], options.runs, extra) for name in options.studies}
    stopped = 0
    if not options.show:
        from bench.studies.sessions import run_all  # torch takes seconds to import

        if options.minutes:
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 60 * options.minutes)
        stopped = run_all(plans, options.runs)
    show(options, plans, extra)
    if stopped:
        print("interrupted; run the same command again to resume", file=sys.stderr)
    failed = any(run.read(RECORD).get("failure") for runs in plans.values() for run in runs)
    sys.exit(stopped or int(failed))


def check(options: Options) -> None:
    """Raise :class:`UserError` for errors that can be found before training."""
    if not options.studies:
        raise UserError(f"no study is named; name one or more of: {', '.join(STUDIES)} (--list explains them)")
    for name in options.studies:
        if name not in STUDIES:
            raise UserError(f"{name!r} is no study; it must be of: {', '.join(STUDIES)}")
    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds is {options.seeds}; it must be at least 1")
    if options.minutes is not None and not options.minutes > 0:
        raise UserError(f"--minutes is {options.minutes}; it must be more than 0")
    check_writable(options.runs, "--runs")
    check_outputs(options.json, options.plot)


def listing() -> str:
    """Return the list of studies as text."""
    lines = []
    for name, study in STUDIES.items():
        lines += [f"{name}: {study.question}", f"  predicted  {study.prediction}"]
        changed = {**study.changed(), BASE: study.base}
        lines += [*(f"  {variant:<16} {' '.join(words(flags))}" for variant, flags in changed.items()), ""]
    return "\n".join(lines).rstrip()


def show(options: Options, plans: dict[str, list[Run]], extra: Sequence[str]) -> None:
    """Print the tables, and write the requested files."""
    from bench.docs.accuracy import NOTE, study_tables
    from bench.docs.plots import plot_studies
    from bench.studies.results import write_studies

    studies = [results_of(name, runs, extra) for name, runs in plans.items()]
    if options.json or options.plot:
        environment = _environment([run for runs in plans.values() for run in runs])
    if options.json:
        write_studies(options.json, environment, studies)
    if options.plot and any(found.finished() for found in studies):
        plot_studies(environment, studies, options.plot)
    for found in studies:
        title = f"**{found.name}**: {found.question}\n" if options.markdown else f"{found.name}: {found.question}\n"
        print(f"{title}\n{study_tables(found, pad=not options.markdown)}\n")
    if any(found.finished() for found in studies):
        print(NOTE)


def results_of(name: str, runs: Sequence[Run], extra: Sequence[str]) -> "StudyResults":
    """Read the results in a study's folders."""
    from bench.studies.results import StudyResults, read_result

    study, config = STUDIES[name], runs[0].config
    manifest = read_manifest(config.shards)
    changed = {**study.variants, BASE: study.base | shown_flags(config.to_dict()) | flags_of(extra)}
    variants = dict.fromkeys([BASE, *(run.variant for run in runs)])
    images, held_out = (manifest.split(split).samples for split in (config.train_split, config.eval_split))
    results = [result for run in runs if (result := read_result(run))]
    return StudyResults(
        name=name,
        question=study.question,
        prediction=study.prediction,
        targets=study.targets,
        flags={variant: without_paths(shlex.join(words(changed[variant]))) for variant in variants},
        data=f"{manifest.name}, {images} images to train on and {held_out} to evaluate on",
        results=tuple(replace(r, failure=without_paths(r.failure) if r.failure else None) for r in results),
        planned=len(runs),
    )


def _environment(runs: Sequence[Run]) -> dict[str, str]:
    """Return the environment of the runs, which may differ from this machine's."""
    from bench.runner.machine import machine

    ran_on = {name: text for run in runs for name, text in run.read("environment.json").items() if name != "command"}
    return {name: without_paths(text) for name, text in (machine() | ran_on).items()}


def without_paths(text: str) -> str:
    """Return a text for publication: only the last names of absolute paths remain."""
    return PATH.sub(r"\1", text)


if __name__ == "__main__":
    run_command(main)
