"""Export a trained network: ``fastseg-export runs/mydata --to onnx``."""

from rich.console import Console

from fastseg.cli_help import json_on_stdout, parse
from fastseg.deploy.exporting import Options, write_export
from fastseg.errors import run_command, unwind_on_signals


def main() -> None:
    """Run the command ``fastseg-export``."""
    run_command(_main)


def _main() -> None:
    options = parse(Options, format="half", check="images", card="license")
    unwind_on_signals()  # no half a file is left
    with json_on_stdout(options.json) as tell:
        write_export(options, Console(markup=False, highlight=False, soft_wrap=True, quiet=options.quiet), tell)


if __name__ == "__main__":
    main()
