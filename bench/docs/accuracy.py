"""Tables of studies: for a terminal, for docs/studies.md, and a short one for the README."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from bench.docs.tables import number, table
from bench.runner.machine import hardware, on_gpu, short_commit
from bench.studies.results import ENOUGH, StudyResults, read_studies
from bench.studies.studies import BASE, flags_of

NONE_YET = "No study has been measured yet: `python bench/accuracy.py --list`."
NOTE = (
    "Last, best: mIoU of the last and of the best evaluation (picked on the images that it is measured on), mean ± "
    "standard deviation over seeds. To the base: mean difference of last ones with the same seed, in points, with "
    "Student's 95 % interval; noise: it holds 0. Minutes: medians; in all: from the first step to the last evaluation; "
    "process: from start to end, with imports, compilation, report and interruptions; to a target: until the first "
    "evaluation that reached it; images/s: of training alone."
)


def study_tables(found: StudyResults, pad: bool = False) -> str:
    """Return a study's tables of mIoU, minutes and classes, with notes."""
    summary, parts = found.summary(), []
    if not summary.empty:
        score_columns = ("variant", "seeds", "last", "best", "to the base", "verdict")
        scores = [_scores(found, variant, row) for variant, row in summary.iterrows()]
        times = _times(found, summary)
        classes = [[name, *map(_percent, row)] for name, row in found.classes().iterrows()]
        for title, header, rows in (
            ("mIoU, %", score_columns, scores),
            ("Minutes", ["variant", *times.columns], [[str(name), *row] for name, row in times.iterrows()]),
            ("IoU of each class, %", ["class", *map(str, summary.index)], classes),
        ):
            parts += [f"{title}:", table(header, rows, pad=pad)]
    return "\n\n".join([*parts, *(f"*{line}*" for line in warnings(found))])


def _percent(value: float, std: float = float("nan")) -> str:
    return "–" if pd.isna(value) else f"{100 * value:.1f}" + ("" if pd.isna(std) else f" ± {100 * std:.1f}")


def _scores(found: StudyResults, variant: str, row: pd.Series) -> list[str]:
    change, points = found.difference(variant), "–"
    if change:
        interval = f" ({100 * change.low:+.1f} to {100 * change.high:+.1f})" if change.n >= ENOUGH else ""
        points = f"{100 * change.mean:+.1f}{interval}"
    means = [_percent(row[name], row[f"{name}_std"]) for name in ("last", "best")]
    return [variant, f"{row['seeds']:.0f}", *means, points, change.verdict if change else "–"]


def _times(found: StudyResults, summary: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of the table of minutes; with energy if it is known for a variant."""
    names = {"minutes": "in all", "evaluating": "evaluating", "process": "process", "images_per_second": "images/s"}
    cells = summary[list(names)].map(lambda value: "–" if pd.isna(value) else number(value)).rename(columns=names)
    for column in (column for column in summary if column.startswith("to ")):
        for variant, minutes in summary[column].items():
            of_all = found.runs().groupby("variant")[column].agg(lambda m: m.lt(float("inf")).sum())[variant]
            seeds = int(summary["seeds"][variant])
            few = f"only {of_all} of {seeds}" if of_all else "never"
            some = f" ({of_all} of {seeds})" if of_all < seeds else ""
            cells.loc[variant, column] = few if minutes == float("inf") else f"{number(minutes)}{some}"
    if summary["watt_hours"].notna().any():
        cells["Wh"] = summary["watt_hours"].map(lambda value: "–" if pd.isna(value) else number(value))
    return cells


def warnings(found: StudyResults) -> Iterator[str]:
    """Yield notes on the numbers."""
    for result in found.results:
        if result.failure:
            yield f"{result.variant}, seed {result.seed}, ended early: {result.failure}"
    done, begun = found.finished(), [r for r in found.results if not r.finished and not r.failure]
    if len(done) < found.planned:
        states = [f"{100 * r.last:.1f} % so far" if r.evaluations else "not yet evaluated" for r in begun]
        listed = ", ".join(f"{r.variant}, seed {r.seed}: {state}" for r, state in zip(begun, states, strict=True))
        under_way = f", {len(begun)} more begun ({listed})" if begun else ""
        yield f"{len(done)} of {found.planned} runs are finished{under_way}; the others count nowhere"
    machines = dict.fromkeys(result.hardware for result in done)
    if len(machines) > 1:
        yield f"the runs are of several machines ({', '.join(machines)}): their minutes do not compare"
    commits = _commits(found)
    if len(commits) > 1:
        yield f"the runs are of several commits: {', '.join(commits)}"


def _commits(found: StudyResults) -> list[str]:
    """Return the commits of the runs, which may be older than the table."""
    return list(dict.fromkeys(short_commit(commit) for result in found.finished() for commit in result.commits))


def page(paths: Sequence[Path]) -> str:
    """Return the committed studies, those of a GPU first, for docs/studies.md."""
    parts = _of_all(paths, _part)
    return "\n\n".join([*parts, f"*{NOTE}*"]) if parts else NONE_YET


def _of_all(paths: Sequence[Path], part: Callable[[Path, dict[str, str], StudyResults], str]) -> list[str]:
    read = [(path, read_studies(path)) for path in paths]
    read.sort(key=lambda one: not on_gpu(one[1].environment))
    return [part(path, document.environment, found) for path, document in read for found in document.studies]


def _part(path: Path, environment: dict[str, str], found: StudyResults) -> str:
    changes = [f"- {name}: `{flags}`" for name, flags in found.flags.items() if name != BASE]
    commits = ", ".join(_commits(found)) or short_commit(environment["commit"])
    picture = path.with_suffix(".svg")
    return "\n\n".join(
        [
            f"### {found.name}: {hardware(environment)}",
            f"{found.question} Predicted: {found.prediction}.",
            f"Base: {_what_was_trained(found)}; its flags are in [{path.name}](../bench/results/{path.name}). "
            f"`{environment['command']}` at {commits} with torch {environment['torch']}.",
            *(["\n".join(changes)] if changes else []),
            *([f"![what was found, as a picture](../bench/results/{picture.name})"] if picture.exists() else []),
            study_tables(found),
        ]
    )


def short_table(paths: Sequence[Path]) -> str:
    """Return a line for each study, those of a GPU first: setup, result, what beat the noise and what did not."""

    def row(path: Path, environment: dict[str, str], found: StudyResults) -> str:
        machine = f"[{found.name}](bench/results/{path.name}), {hardware(environment)}"
        return f"| {_what_was_trained(found)}; {machine} | {_base_score(found)} | {_gains(found)} |"

    header = ["| trained | mIoU | changes, in points |", "|---|---|---|"]
    return "\n".join([*header, *_of_all(paths, row)]) if paths else NONE_YET


def _what_was_trained(found: StudyResults) -> str:
    """Return data set, network, initial weights, epochs and crop of the base, if its flags name them."""
    flags = flags_of(shlex.split(found.flags[BASE]))
    start = flags.get("--model.weights", "none")
    parts = [
        found.data.partition(",")[0],
        flags.get("--model.arch", "").removeprefix("deeplabv3_"),
        {"none": "from scratch", "imagenet": "from ImageNet", "coco": "from COCO"}.get(start, "from a checkpoint"),
        f"{flags['--optim.epochs']} epochs" if "--optim.epochs" in flags else "",
        f"crops of {flags['--data.crop'].replace(' ', '×')}" if "--data.crop" in flags else "",
    ]
    return ", ".join(filter(None, parts))


def _base_score(found: StudyResults) -> str:
    """Return the base's mIoU at the last evaluation, and how many runs of how many minutes gave it."""
    summary = found.summary()
    if BASE not in summary.index:
        return "not finished"
    row = summary.loc[BASE]
    done = found.finished(BASE)
    each = f" ({', '.join(_percent(result.last) for result in done)})" if len(found.flags) == 1 < len(done) else ""
    runs = f"{seeds(row)}{each}, {number(row['minutes'])} minutes each"
    return f"{_percent(row['last'], row['last_std'])} % ({runs})"


def _gains(found: StudyResults) -> str:
    """Return the differences to the base, by verdict: those that beat the noise first."""
    changes = {variant: found.difference(variant) for variant in found.summary().index}
    verdicts: dict[str, list[str]] = {"better": [], "worse": [], "noise": []}
    for variant, change in changes.items():
        if change:
            verdicts.setdefault(change.verdict, []).append(f"{variant} {100 * change.mean:+.1f}")
    return "; ".join(f"{verdict}: {', '.join(named)}" for verdict, named in verdicts.items() if named) or "–"


def seeds(row: "pd.Series[float]") -> str:
    """Return the number of a variant's seeds in words, as ``3 seeds``."""
    return f"{row['seeds']:.0f} seed{'s' if row['seeds'] > 1 else ''}"
