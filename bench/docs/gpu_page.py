"""Summarize bench/gpu.sh's results on one GPU: ``python -m bench.docs.gpu_page FOLDER GPU PART=FILE …``."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.docs.tables import factor, number, sentences, table
from bench.runner.isolated_tests import OUTCOMES, Verdict, count_outcomes, read_verdicts
from bench.runner.results import Results, Row, read_results
from bench.stages.network_parts import profile_tables
from fastseg.errors import UserError, run_command

COLUMNS = ("stage", "entry", "images/s", "beside ours", "TFLOP/s", "MFU", "memory, GB", "waiting")
ENVIRONMENT = ("gpus", "driver", "cuda", "torch", "nvidia-dali-cuda130", "processor", "cores", "commit", "command")
"""Fields of the environment on the page."""


def main() -> None:
    """Print the page."""
    if len(sys.argv) < 3 or not all("=" in pair for pair in sys.argv[3:]):
        raise UserError(
            "bench.docs.gpu_page takes a folder, a GPU's short name and parts with their files, such as: "
            "bench/results h200 compute=throughput-h200-compute.json"
        )
    parts = dict(pair.split("=", 1) for pair in sys.argv[3:])
    print("\n".join(page(Path(sys.argv[1]), sys.argv[2], parts)))


def page(folder: Path, gpu: str, parts: dict[str, str]) -> Iterator[str]:
    """Yield lines of Markdown: the machine, a summary of each part, then all tables.

    ``parts``: name → the file of its result.
    """
    yield f"# {gpu}"
    environment, report = folder / f"environment-{gpu}.json", folder / f"parts-{gpu}.txt"
    if environment.exists():
        known = json.loads(environment.read_text(encoding="utf-8"))
        yield ", ".join(f"{name} {known[name]}" for name in ENVIRONMENT if name in known)
    yield ""
    lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
    went = dict(line.split(": ", 1) for line in lines)
    for part, file in parts.items():
        yield f"- {part}: {went.get(part, 'not run')}"
        if (folder / file).exists():
            yield from (f"  - {line}" for line in in_short(folder / file))
    for path in (folder / file for file in parts.values()):
        if path.exists() and path.name.startswith("profile-"):
            shown = profile_tables(json.loads(path.read_text(encoding="utf-8")))
            yield from ("", "## profile", *(f"\n**{title}**\n\n{text}" for title, text in shown))
        elif path.exists() and not path.name.startswith("tests-"):
            yield from ("", f"## {path.stem}", *result_tables(read_results(path)))


def in_short(path: Path) -> Iterator[str]:
    """Yield a summary of a part's file: the count of tests and those that did not pass, or fastseg's speeds."""
    if path.name.startswith("tests-"):
        yield from test_lines(read_verdicts(path))
    elif not path.name.startswith("profile-"):
        rows = read_results(path).results
        for stage in dict.fromkeys(row.stage for row in rows):
            ours = next((row for row in rows if row.stage == stage and row.ours and not row.part), None)
            if ours and ours.windows:
                share = ours.figures.get("mfu_datasheet")
                peak = f", {100 * share:.0f} % of the datasheet's peak" if share is not None else ""
                yield f"{stage}: {number(ours.spread.median)} {ours.unit}{peak}"
        yield from (f"{row.stage}, {row.entry}: {row.skipped}" for row in rows if went_wrong(row))


def went_wrong(row: Row) -> bool:
    """Return whether an entry that could run has no figures: it failed, crashed or did not answer."""
    return str(row.skipped).startswith(("failed: ", "crashed ", "its process ", "gave no answer "))


def result_tables(results: Results) -> Iterator[str]:
    """Yield the table of all entries, those without figures below it, and derived figures."""
    yield table(COLUMNS, [_cells(row) for row in results.results if row.windows], left=(0, 1))
    yield from ("", *(f"- {row.entry}: {row.skipped}" for row in results.results if row.skipped))
    yield from (f"- {sentence}" for sentence in sentences(results.derived))


def _cells(row: Row) -> list[str]:
    figures = row.figures
    mfu, waiting = (f"{100 * figures[k]:.0f} %" if k in figures else "" for k in ("mfu_datasheet", "waiting"))
    tflops = number(figures["tflops"]) if "tflops" in figures else ""
    memory = f"{figures['peak_memory_bytes'] / 1e9:.1f}" if "peak_memory_bytes" in figures else ""
    beside = "" if row.part else factor(row)
    return [row.stage, row.entry, number(row.spread.median), beside, tflops, mfu, memory, waiting]


def test_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield the counts of tests that passed, failed, …, and those that did not pass, with the reason."""
    yield count_outcomes(verdicts)
    for outcome in OUTCOMES[1:]:
        yield from (f"{outcome}: {v.test}: {v.reason}" for v in verdicts if v.outcome == outcome)


def short_name(name: str) -> str:
    """Return a GPU's name for files: NVIDIA H100 80GB HBM3 → h100, a slice of it h100-mig, … RTX 4090 → rtx-4090."""
    found = re.search(r"\b(RTX \w+|[A-Z]+\d+\w*)\b", name)
    short = (found[0] if found else name).lower().replace(" ", "-")
    return f"{short}-mig" if "MIG" in name.split() else short


if __name__ == "__main__":
    run_command(main)
