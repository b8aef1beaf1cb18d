"""What bench/gpu.sh found on one GPU, on a page: ``python -m bench.suite.summary FOLDER GPU PART=FILE …``."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.suite.isolated import OUTCOMES, Verdict, count_outcomes, read_verdicts
from bench.suite.rows import Results, Row, read_results
from bench.suite.show import factor, number, sentences
from fastseg.errors import UserError, run_command
from fastseg.training.profiler import tables

COLUMNS = ("stage", "contestant", "images/s", "beside ours", "TFLOP/s", "MFU", "memory, GB", "waiting")


ENVIRONMENT = ("gpus", "driver", "cuda", "torch", "nvidia-dali-cuda130", "processor", "cores", "commit", "command")
"""What of the environment the page tells."""


def main() -> None:
    """Print it."""
    if len(sys.argv) < 3 or not all("=" in pair for pair in sys.argv[3:]):
        raise UserError(
            "bench.suite.summary takes a folder, a GPU's short name and parts with their files, such as: "
            "bench/results h200 compute=throughput-h200-compute.json"
        )
    parts = dict(pair.split("=", 1) for pair in sys.argv[3:])
    print("\n".join(page(Path(sys.argv[1]), sys.argv[2], parts)))


def page(folder: Path, gpu: str, parts: dict[str, str]) -> Iterator[str]:
    """Yield lines of markdown: the machine, how each part went and what it says, then all tables.

    ``parts``: name → the file of its result.
    """
    yield f"# {gpu}"
    environment = folder / f"environment-{gpu}.json"
    if environment.exists():
        known = json.loads(environment.read_text(encoding="utf-8"))
        yield ", ".join(f"{name} {known[name]}" for name in ENVIRONMENT if name in known)
    yield ""
    went = dict(line.split(": ", 1) for line in _lines(folder / f"parts-{gpu}.txt"))
    for part, file in parts.items():
        yield f"- {part}: {went.get(part, 'not run')}"
        if (folder / file).exists():
            yield from (f"  - {line}" for line in findings(folder / file))
    for file in parts.values():
        if file.startswith("profile-") and (folder / file).exists():
            yield from ("", "## profile", *profile_tables(json.loads((folder / file).read_text(encoding="utf-8"))))
        elif not file.startswith("tests-") and (folder / file).exists():
            yield from ("", f"## {Path(file).stem}", *result_tables(read_results(folder / file)))


def findings(path: Path) -> Iterator[str]:
    """Yield what a part's file says in short: tests counted, those named that are not well; or our own rates."""
    if path.name.startswith("tests-"):
        yield from test_lines(read_verdicts(path))
    elif not path.name.startswith("profile-"):
        rows = read_results(path).rows
        ours = [row for row in rows if row.ours and not row.part]
        for stage in dict.fromkeys(row.stage for row in rows):
            first = next((row for row in ours if row.stage == stage), None)
            if first and first.windows:
                share = first.figures.get("mfu_datasheet")
                peak = f", {100 * share:.0f} % of the datasheet's peak" if share is not None else ""
                yield f"{stage}: {number(first.spread.median)} {first.unit}{peak}"
        yield from (f"{row.stage}, {row.contestant}: {row.skipped}" for row in rows if went_wrong(row))


def went_wrong(row: Row) -> bool:
    """Whether a contestant has no figures though it could have had some: it failed, crashed or did not answer."""
    return str(row.skipped).startswith(("failed: ", "crashed ", "its process ", "gave no answer "))


def result_tables(results: Results) -> Iterator[str]:
    """Yield the table of all contestants, those without figures below it, and what follows from several."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---|---|" + "---:|" * (len(COLUMNS) - 2)
    yield from (f"| {' | '.join(cells(row))} |" for row in results.rows if row.windows)
    yield from ("", *(f"- {row.contestant}: {row.skipped}" for row in results.rows if row.skipped))
    yield from (f"- {sentence}" for sentence in sentences(results.derived))


def short_name(name: str) -> str:
    """Of a GPU in the names of files: NVIDIA H100 80GB HBM3 → h100, a slice of it h100-mig, … RTX 4090 → rtx-4090."""
    found = re.search(r"\b(RTX \w+|[A-Z]+\d+\w*)\b", name)
    short = (found[0] if found else name).lower().replace(" ", "-")
    return f"{short}-mig" if "MIG" in name.split() else short


def test_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield how many tests passed, failed, …, and the names of those that did not pass, with the reason."""
    yield count_outcomes(verdicts)
    for outcome in OUTCOMES[1:]:
        for verdict in verdicts:
            if verdict.outcome == outcome:
                yield f"{outcome}: {verdict.test}: {verdict.reason}"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def cells(row: Row) -> list[str]:
    """One row of the table."""
    figures = row.figures
    shares = [f"{100 * figures[name]:.0f} %" if name in figures else "" for name in ("mfu_datasheet", "waiting")]
    return [
        row.stage,
        row.contestant,
        number(row.spread.median),
        "" if row.part else factor(row),
        number(figures["tflops"]) if "tflops" in figures else "",
        shares[0],
        f"{figures['peak_memory_bytes'] / 1e9:.1f}" if "peak_memory_bytes" in figures else "",
        shares[1],
    ]


def profile_tables(document: dict[str, Any]) -> Iterator[str]:
    """Where a step's time goes."""
    for table in tables(document):
        yield from ("", f"**{table.title}**", "", f"| {' | '.join(table.columns)} |")
        yield "|---|" + "---:|" * (len(table.columns) - 1)
        yield from (f"| {' | '.join(row)} |" for row in table.rows)


if __name__ == "__main__":
    run_command(main)
