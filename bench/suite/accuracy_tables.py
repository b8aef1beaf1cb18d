"""Studies as tables: in a terminal, as markdown, and as a part of docs/recipes.md."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bench.suite.marks import hardware, on_gpu, short_commit
from bench.suite.outcomes import Outcome
from bench.suite.paired import Difference, Mean
from bench.suite.show import number
from bench.suite.studies import BASE
from bench.suite.summaries import Findings, Reached, Summary, read_findings

NONE_YET = "No study has been measured yet: `python bench/accuracy.py --list`."
SCORES = ("variant", "seeds", "last", "best", "to the base", "verdict")
NOTE = (
    "Last, best: mIoU of the last evaluation and of the best one (which is picked on the images that it is measured "
    "on), mean ± standard deviation over seeds. To the base: mean difference of last ones with the same seed, in "
    "points, with Student's 95 % interval; noise: it holds 0 (of twenty changes that change nothing one will be "
    "called better or worse). Minutes: medians; in all: from the first step to the last evaluation, evaluations "
    "included; to a mark: until the first evaluation that reached it; process: from start to end, with imports, "
    "compilation and the report, interruptions and what was done twice included; images/s: of training alone."
)


Content = tuple[str, list[str], list[list[str]]]
"""Of a table: its title, header and rows."""


def contents(found: Findings) -> list[Content]:
    """What a study's tables say: how good, how fast, and class by class."""
    summaries = found.summaries()
    if not summaries:
        return []
    classes = ["class", *(summary.variant for summary in summaries)]
    return [
        ("mIoU, %", [*SCORES], [scores(summary) for summary in summaries]),
        ("Minutes", times_header(found), [times(summary, found) for summary in summaries]),
        ("IoU of each class, %", classes, class_rows(summaries)),
    ]


def tables(found: Findings) -> Iterator[Table]:
    """For a terminal."""
    styles = {"better": "green", "worse": "red"}
    verdict = [row[-1] for row in (contents(found) or [("", [], [])])[0][2]]
    for title, header, rows in contents(found):
        shown = Table(title=title, title_justify="left")
        for i, column in enumerate(header):
            # A class stands beside many variants: their names may break, numbers not.
            shown.add_column(column, justify="right" if i else "left", no_wrap=header[0] != "class", min_width=4)
        for row, said in zip(rows, verdict if header[0] != "class" else [""] * len(rows), strict=True):
            shown.add_row(*map(Text, row), style=styles.get(said))
        yield shown


def markdown(found: Findings) -> str:
    """A study's tables as GitHub shows them."""
    parts = [text for title, header, rows in contents(found) for text in (f"{title}:", _markdown(header, rows))]
    return "\n\n".join([*parts, *(f"*{line}*" for line in remarks(found))])


def scores(summary: Summary) -> list[str]:
    """One variant: how good."""
    return [
        summary.variant,
        str(len(summary.seeds)),
        _percent(summary.final),
        _percent(summary.best),
        _points(summary.difference),
        summary.difference.verdict if summary.difference else "–",
    ]


def times_header(found: Findings) -> list[str]:
    """Of the table of minutes."""
    energy = ["Wh"] if any(summary.watt_hours is not None for summary in found.summaries()) else []
    return [
        "variant",
        "in all",
        "evaluating",
        "process",
        "images/s",
        *(f"to {100 * mark:g} %" for mark in found.marks),
        *energy,
    ]


def times(summary: Summary, found: Findings) -> list[str]:
    """One variant: how fast."""
    rate, energy = summary.images_per_second, summary.watt_hours
    shown = [
        summary.variant,
        number(summary.minutes),
        number(summary.evaluating),
        number(summary.process) if summary.process is not None else "–",
        number(rate) if rate is not None else "–",
        *(_minutes(reached, len(summary.seeds)) for reached in summary.reached),
    ]
    return shown + ([number(energy) if energy is not None else "–"] if "Wh" in times_header(found) else [])


def class_rows(summaries: Sequence[Summary]) -> list[list[str]]:
    """A class in each, a variant in each column."""
    names = dict.fromkeys(name for summary in summaries for name in summary.classes)
    values = {name: [summary.classes.get(name) for summary in summaries] for name in names}
    return [[name, *("–" if value is None else f"{100 * value:.1f}" for value in row)] for name, row in values.items()]


def remarks(found: Findings) -> Iterator[str]:
    """What has to be said beside the numbers."""
    for outcome in found.outcomes:
        if outcome.failure:
            yield f"{outcome.variant}, seed {outcome.seed}, ended early: {outcome.failure}"
    done, begun = len(found.finished()), [o for o in found.outcomes if not o.finished and not o.failure]
    if done < found.planned:
        under_way = f", {len(begun)} more begun ({_progress(begun)})" if begun else ""
        yield f"{done} of {found.planned} runs are finished{under_way}; the others count nowhere"
    machines = list(dict.fromkeys(outcome.hardware for outcome in found.finished()))
    if len(machines) > 1:
        yield f"the runs are of several machines ({', '.join(machines)}): their minutes do not compare"
    commits = list(dict.fromkeys(commit for outcome in found.finished() for commit in outcome.commits))
    if len(commits) > 1:
        yield f"the runs are of several commits: {', '.join(map(short_commit, commits))}"


def page(paths: Sequence[Path]) -> str:
    """The committed studies, those of a GPU first, for docs/recipes.md."""
    parts = []
    for path in paths:
        environment, studies = read_findings(path)
        parts += [(on_gpu(environment), _part(path, environment, found)) for found in studies]
    parts.sort(key=lambda part: not part[0])
    return "\n\n".join([*(text for _, text in parts), f"*{NOTE}*"]) if parts else NONE_YET


def _part(path: Path, environment: dict[str, str], found: Findings) -> str:
    base = f"Base: `{found.flags[BASE]}` on {found.data}."
    changes = [f"- {name}: `{flags}`" for name, flags in found.flags.items() if name != BASE]
    picture = path.with_suffix(".svg")
    return "\n\n".join(
        [
            f"### {found.name}: {hardware(environment)}",
            f"{found.question} Predicted: {found.prediction}.",
            f"{base} [{path.name}](../bench/results/{path.name}), `{environment['command']}` at "
            f"{_commits(found) or short_commit(environment['commit'])} with torch {environment['torch']}.",
            *(["\n".join(changes)] if changes else []),
            *([f"![what was found, as a picture](../bench/results/{picture.name})"] if picture.exists() else []),
            markdown(found),
        ]
    )


def _commits(found: Findings) -> str:
    """Of the runs, which may be older than the table."""
    return ", ".join(dict.fromkeys(short_commit(commit) for outcome in found.finished() for commit in outcome.commits))


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _percent(value: Mean) -> str:
    return f"{100 * value.mean:.1f}" + (f" ± {100 * value.std:.1f}" if value.std is not None else "")


def _points(found: Difference | None) -> str:
    if found is None:
        return "–"
    known = found.low is not None and found.high is not None
    interval = f" ({100 * found.low:+.1f} to {100 * found.high:+.1f})" if known else ""  # type: ignore[operator]
    return f"{100 * found.mean:+.1f}{interval}"


def _minutes(reached: Reached, seeds: int) -> str:
    if reached.minutes is None:
        return f"only {reached.seeds} of {seeds}" if reached.seeds else "never"
    return number(reached.minutes) + (f" ({reached.seeds} of {seeds})" if reached.seeds < seeds else "")


def _progress(outcomes: Sequence[Outcome]) -> str:
    return ", ".join(
        f"{o.variant}, seed {o.seed}: " + (f"{100 * o.final:.1f} % so far" if o.evaluations else "not yet evaluated")
        for o in outcomes
    )
