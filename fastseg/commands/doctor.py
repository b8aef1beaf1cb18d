"""Check whether fastseg works on this machine, and what to fix: ``fastseg-doctor``."""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastseg.doctor.rows import STATES, Request, Row
from fastseg.errors import run_command

if TYPE_CHECKING:
    from rich.console import Console


COLORS = {"ok": "green", "warning": "yellow", "broken": "red"}


def main() -> None:
    """Run the command ``fastseg-doctor``."""
    run_command(_main)


def _main() -> None:
    # Imported here, so that a missing one gives a sentence: this command is run first.
    import tyro
    from rich.console import Console

    from fastseg.cli_help import command_name, shown_as

    @dataclass(frozen=True)
    class Options:
        """Check whether this machine, its GPUs, packages and disks are ready, and say how to fix what is not.

        Takes a minute at most. Run it first on a new machine, and add its output to bug reports. Exit code: 1 if
        something is broken, else 0.

        Example: fastseg-doctor --shards shards/cityscapes
        """

        shards: Annotated[str | None, shown_as("SHARDS")] = None
        """Folder (or s3:// prefix) of a packed set: check that it is complete and decodes, and how fast it is read."""
        runs: Path = Path("runs")
        """Folder that training will write into."""
        json: bool = False
        """Print JSON instead of a table."""
        quiet: bool = False
        """Do not show which check is running."""

    options = tyro.cli(Options, prog=command_name(), config=(tyro.conf.FlagCreatePairsOff,))
    began = time.monotonic()
    rows = examine(Request(options.shards, str(options.runs)), Console(stderr=True, quiet=options.quiet))
    worst = max((row.state for row in rows), key=STATES.index)
    if options.json:
        document = {"state": worst, "seconds": time.monotonic() - began, "checks": [asdict(row) for row in rows]}
        print(json.dumps(document, indent=1))
    else:
        show(rows, Console(markup=False, highlight=False))
    sys.exit(worst == "broken")


def examine(request: Request, console: "Console") -> list[Row]:
    """Run all checks; ``console`` shows the current one in a terminal."""
    from fastseg.doctor.run import AT_ONCE, GROUPS, run_groups
    from fastseg.driver import EXCLUSIVE, read_driver

    # On a GPU in exclusive mode, two checks would block each other.
    exclusive = any(gpu.mode == EXCLUSIVE for gpu in read_driver().gpus)
    with console.status("checking …") as status:
        return run_groups(
            GROUPS, request, 1 if exclusive else AT_ONCE, lambda what: status.update(f"checking {what} …")
        )


def show(rows: list[Row], console: "Console") -> None:
    """Print the table, broken rows in red, and a summary line."""
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "", "found", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for row in rows:
        found = Text(row.found)
        if row.cure:
            found.append(f"\n→ {row.cure}", style="bold" if row.state != "ok" else "")
        table.add_row(row.check, Text(row.state, style=COLORS[row.state]), found)
    console.print(table)
    broken, warnings = (sum(row.state == state for row in rows) for state in ("broken", "warning"))
    first = f"{broken} broken: fix {'it' if broken == 1 else 'them'} first" if broken else "nothing is broken"
    console.print(f"\n{first}; warnings: {warnings}")


if __name__ == "__main__":
    main()
