"""Write the page about a run anew, or one that compares two: ``fastseg-report runs/a runs/b``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastseg.cli_help import parse, shown_as
from fastseg.errors import UserError, run_command
from fastseg.files import check_writable_file

MARK = "– fastseg</title>"
"""Text in every page about runs."""
RECORDS = ("metrics.jsonl", "config.json")
"""A run folder has at least one of these files."""


@dataclass(frozen=True)
class Options:
    """Write the report of a run anew, or one page that compares two runs.

    Example: fastseg-report runs/cityscapes runs/dice
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, shown_as("RUN")]
    """Folder of a run (or of fastseg-eval --report), or two."""
    out: Annotated[Path | None, shown_as("FILE")] = None
    """Page to write. Default: report.html in the run's folder; of two, compare-SECOND.html in the first one's."""
    overwrite: bool = False
    """Replace a file that is no page of fastseg."""
    quiet: bool = False
    """Say nothing but errors."""


def main() -> None:
    """Run the command ``fastseg-report``."""
    run_command(_main)


def _main() -> None:
    options = parse(Options)
    out = check(options)
    from fastseg.report.compare import write_comparison
    from fastseg.report.report import write_report

    one, *other = options.runs
    page = write_comparison((one, other[0]), out) if other else write_report(one, out)
    if not options.quiet:
        print(f"the report is {page}")


def check(options: Options) -> Path:
    """Refuse folders that hold no run, and an output that is no page of ours; return the page to write."""
    runs = options.runs
    if not 1 <= len(runs) <= 2:
        named = f"{len(runs)} runs are named" if runs else "no run is named"
        raise UserError(f"{named}; fastseg-report takes one, or two to compare: fastseg-report RUN [RUN]")
    for run in runs:
        if not any((run / name).is_file() for name in RECORDS):
            kind = "holds no run" if run.is_dir() else "is a file" if run.exists() else "does not exist"
            raise UserError(f"{run} {kind}; name the folder of a run, such as runs/cityscapes")
    if len(runs) == 2 and runs[0].resolve() == runs[1].resolve():
        raise UserError(f"{runs[0]} is named twice; name another run to compare it with")
    default = "report.html" if len(runs) == 1 else f"compare-{runs[1].resolve().name}.html"
    out = options.out or runs[0] / default
    check_writable_file(out, "--out")
    if out.exists() and not options.overwrite and MARK not in out.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{out} exists and is no page of fastseg; name another --out or add --overwrite")
    return out


if __name__ == "__main__":
    main()
