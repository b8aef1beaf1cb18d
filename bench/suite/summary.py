"""What bench/gpu.sh found on one GPU, on a page: ``python -m bench.suite.summary FOLDER GPU``."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.suite.rows import Row, read_results
from bench.suite.show import factor, number, sentences
from fastseg.errors import UserError, run_command
from fastseg.loop.profiling import tables

COLUMNS = ("stage", "contestant", "images/s", "beside ours", "TFLOP/s", "MFU", "memory, GB", "waiting")


def main() -> None:
    """Print it."""
    if len(sys.argv) != 3:
        raise UserError("bench.suite.summary takes a folder and a GPU's short name, such as: bench/results h200")
    print("\n".join(page(Path(sys.argv[1]), sys.argv[2])))


def page(folder: Path, gpu: str) -> Iterator[str]:
    """Lines of markdown: how the parts went, the tests, a table for every file of results, the profile."""
    yield f"# {gpu}"
    parts = folder / f"parts-{gpu}.txt"
    yield from (f"- {line}" for line in (parts.read_text(encoding="utf-8").splitlines() if parts.exists() else ()))
    yield from test_lines(folder / "logs" / f"tests-{gpu}.xml")
    for path in sorted(folder.glob(f"*-{gpu}-*.json")):
        results = read_results(path)
        yield from ("", f"## {path.stem}", f"| {' | '.join(COLUMNS)} |", "|---|---|" + "---:|" * (len(COLUMNS) - 2))
        yield from (f"| {' | '.join(cells(row))} |" for row in results.rows if row.windows)
        yield from (f"- {row.contestant}: {row.skipped}" for row in results.rows if row.skipped)
        yield from (f"- {sentence}" for sentence in sentences(results.derived))
    profile = folder / f"profile-{gpu}.json"
    if profile.exists():
        yield from ("", "## profile", *profile_tables(json.loads(profile.read_text(encoding="utf-8"))))


def short_name(name: str) -> str:
    """Of a GPU in the names of files: NVIDIA H100 80GB HBM3 → h100, a slice of it h100-mig, … RTX 4090 → rtx-4090."""
    found = re.search(r"\b(RTX \w+|[A-Z]+\d+\w*)\b", name)
    short = (found[0] if found else name).lower().replace(" ", "-")
    return f"{short}-mig" if "MIG" in name.split() else short


def test_lines(path: Path) -> Iterator[str]:
    """How many tests passed, and the names of those that did not."""
    if not path.exists():
        return
    cases = list(ET.parse(path).iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    left_out = sum(case.find("skipped") is not None for case in cases)
    yield f"- tests: {len(cases) - len(bad) - left_out} passed, {len(bad)} failed, {left_out} skipped"
    yield from (f"  - failed: {case.get('classname')}::{case.get('name')}" for case in bad)


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
