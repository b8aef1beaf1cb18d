"""Images per second, ours beside what people would use instead: python bench/throughput.py --help"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    # Run as a script, sys.path starts with this folder, whose modules are not for the top level.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import tyro
from rich.console import Console
from rich.text import Text

from bench.suite import options as asked
from bench.suite.contest import Contest, Contestant, Entry, Timing, choose, with_settings
from bench.suite.frames import Frames, frames_of_shards, procedural_frames
from bench.suite.options import Options
from bench.suite.plot import plot
from bench.suite.request import Request
from bench.suite.rows import Results, Row
from bench.suite.show import markdown, measured, sentences, show_line, skipped, stage_table
from fastseg.errors import UserError, run_command, unwind_on_sigterm


def main() -> None:
    """Parse the command line, measure, and show what was found; exits with 1 if something of ours went wrong."""
    options = tyro.cli(Options)
    unwind_on_sigterm()
    asked.check(options)
    requests = _requests(options)
    run = Run(options, asked.timing(options), asked.device(options))
    stopped = run.measure(_contestants(options, requests))
    write(options, run, requests)
    if stopped:
        print("interrupted; shown is what was measured before", file=sys.stderr)
    sys.exit(stopped or int(any(entry.contestant.ours for entry in run.failures)))


def _requests(options: Options) -> dict[str, Request]:
    """Every stage's request, with the frames where it reads some."""
    device = asked.device(options)
    requests = {stage: asked.request(options, device, stage) for stage in asked.chosen_stages(options, device)}
    readers = [stage for stage in requests if stage in asked.READERS]
    if readers:
        frames = _frames(options)
        requests |= {stage: replace(requests[stage], frames=frames) for stage in readers}
    return requests


def _frames(options: Options) -> Frames:
    source, sentence = asked.frame_source(options)
    print(sentence, file=sys.stderr)
    with show_line() as tell:

        def show(what: str, done: int, total: int) -> None:
            tell(f"making {what}: {done} of {total}")

        count = asked.frame_count(options)
        return frames_of_shards(source, count, progress=show) if source else procedural_frames(count, progress=show)


def _contestants(options: Options, requests: dict[str, Request]) -> dict[str, list[Contestant]]:
    """Who is measured in which stage; a stage's module is imported only if it is asked for."""
    flag = asked.variants(options)
    if flag is None:
        return {stage: _module(stage).contestants(request) for stage, request in requests.items()}
    module, does = asked.VARIANTS[flag]
    variants = importlib.import_module(f"bench.suite.{module}")
    found = {stage: variants.contestants(request, stage) for stage, request in requests.items()}
    if not any(found.values()):
        raise UserError(f"--{flag} has nothing to {does} {', '.join(found)}; add --stages compute")
    return {stage: contestants for stage, contestants in found.items() if contestants}


def _module(stage: str) -> Any:
    return importlib.import_module(f"bench.suite.stages.{stage}")


class Run:
    """Stage after stage, each shown when it is done."""

    def __init__(self, options: Options, timing: Timing, device: str) -> None:
        self.options, self.timing = options, timing
        self.sweep_timing = asked.sweep_timing(timing, device)
        # Through a pipe, too, a table is as wide as it needs.
        self.console = Console() if sys.stdout.isatty() else Console(width=140)
        self.rows: list[Row] = []
        self.derived: list[dict[str, Any]] = []
        self.failures: list[Entry] = []

    def measure(self, stages: dict[str, list[Contestant]]) -> int:
        """Measure all stages. Returns 0, or the exit code that says how it was interrupted."""
        try:
            for stage, contestants in stages.items():
                self._stage(stage, contestants)
        except KeyboardInterrupt:
            return 130
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    def _stage(self, stage: str, contestants: Sequence[Contestant]) -> None:
        contest = Contest(contestants, self.timing)
        try:
            with show_line() as tell:
                contest = Contest([self._settled(contestant, tell) for contestant in contestants], self.timing, tell)
                contest.run()
        finally:
            rows = contest.rows()
            self.rows += rows
            self.failures += contest.failures
            alone = asked.variants(self.options)
            derive = None if alone else getattr(_module(stage), "derived", None)
            derived = derive(self.rows) if derive else []
            self.derived += derived
            self._show(rows, contest.failures, sentences(derived))

    def _settled(self, contestant: Contestant, tell: Any) -> Contestant:
        if not self.options.sweep or self.options.quick:
            return with_settings(contestant, next(iter(contestant.candidates), {}))
        return choose(contestant, self.sweep_timing, tell)

    def _show(self, rows: Sequence[Row], failures: Sequence[Entry], said: Sequence[str]) -> None:
        if self.options.markdown:
            print("\n".join([markdown(rows), *(f"\n{sentence}" for sentence in said)]), end="\n\n")
        else:
            if measured(rows):
                self.console.print(stage_table(rows))
            for sentence in [*(f"not measured: {line}" for line in skipped(rows)), *said]:
                self.console.print(Text(sentence), soft_wrap=True)
            print()
        for entry in failures:
            if entry.traceback:
                print(f"{entry.contestant.stage}, {entry.contestant.name}:\n{entry.traceback}", file=sys.stderr)


def write(options: Options, run: Run, requests: dict[str, Request]) -> None:
    """The files that were asked for."""
    if not (options.json or options.plot):
        return
    from bench.suite.machine import machine

    settings = asked.to_json(options, run.timing, requests)
    results = Results(machine(), settings, tuple(run.rows), tuple(run.derived))
    if options.json:
        results.write(options.json)
    if options.plot and measured(run.rows):
        plot(results, options.plot)


if __name__ == "__main__":
    run_command(main)
