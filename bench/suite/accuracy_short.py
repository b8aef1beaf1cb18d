"""The committed studies of accuracy in a table for the README: what was asked, on what, and what was found."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from bench.suite.accuracy_tables import NONE_YET
from bench.suite.marks import hardware, on_gpu
from bench.suite.show import number
from bench.suite.studies import BASE, flags_of
from bench.suite.summaries import Findings, Summary, read_findings

WEIGHTS = ("none", "imagenet", "coco")


def short_table(paths: Sequence[Path]) -> str:
    """As GitHub shows it, studies of a GPU first."""
    rows = []
    for path in paths:
        environment, studies = read_findings(path)
        place = f"[{hardware(environment)}](bench/results/{path.name})"
        rows += [
            (not on_gpu(environment), f"| {s.question} | {what_was_trained(s)}; {place} | {what_was_found(s)} |")
            for s in studies
        ]
    if not rows:
        return NONE_YET
    lines = [row for _, row in sorted(rows, key=lambda row: row[0])]
    return "\n".join(["| question | measured on | mIoU of the last evaluation |", "|---|---|---|", *lines])


def what_was_trained(found: Findings) -> str:
    """Set, network, start, epochs and crop of the base, where its flags name them."""
    flags = flags_of(shlex.split(found.flags[BASE]))
    start = flags.get("--model.weights", "none")
    parts = [
        found.data.partition(",")[0],
        flags.get("--model.arch", "").removeprefix("deeplabv3_"),
        "from a checkpoint" if start not in WEIGHTS else "",
        f"{flags['--optim.epochs']} epochs" if "--optim.epochs" in flags else "",
        f"crops of {flags['--data.crop'].replace(' ', '×')}" if "--data.crop" in flags else "",
    ]
    return ", ".join(filter(None, parts))


def what_was_found(found: Findings) -> str:
    """In one line."""
    return "; ".join(map(_variant, found.summaries())) or "not finished"


def _variant(summary: Summary) -> str:
    final, change = summary.final, summary.difference
    deviation = f" ± {100 * final.std:.1f}" if final.std is not None else ""
    name = "" if summary.variant == BASE else f"{summary.variant}: "
    runs = f" ({len(summary.seeds)} seeds, best {100 * summary.best.mean:.1f}, {number(summary.minutes)} minutes each)"
    beside = f" ({100 * change.mean:+.1f}, {change.verdict})" if change else runs
    return f"{name}{100 * final.mean:.1f}{deviation} %{beside}"
