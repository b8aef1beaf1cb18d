"""The marks that fastseg sets itself, against what the committed results say: each a figure or a ratio in one run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.suite.rows import Results, Row
from bench.suite.show import number

Where = dict[str, str]
"""A run's environment."""
NOT_YET = "not yet measured"
FRAME, CROP = [1024, 2048], [768, 768]
"""Height and width, pixels, that the marks speak of."""


class Found(NamedTuple):
    """What one run says about a mark."""

    value: float
    note: str = ""


@dataclass(frozen=True)
class Mark:
    """A value to reach."""

    what: str
    least: float
    unit: str
    """%: of a share; ×: of a ratio; images/s."""
    counts: Callable[[Where], bool]
    """Whether a machine is meant."""
    find: Callable[[Results], Found | None]

    def shown(self, value: float) -> str:
        """With its unit."""
        return f"{100 * value:.1f} %" if self.unit == "%" else f"{number(value)}{' ' * (self.unit != '×')}{self.unit}"


def table(runs: Sequence[tuple[Path, Results]]) -> str:
    """All marks, one line for each run of bench/throughput.py that measured one, or for that none has."""
    lines = ["| mark | at least | measured | met |", "|---|---:|---:|---|"]
    return "\n".join([*lines, *(line for mark in MARKS for line in _lines(mark, runs))])


def on_gpu(where: Where) -> bool:
    """Whether the run's machine has a GPU."""
    return where.get("gpus", "none") != "none"


def hardware(where: Where) -> str:
    """The GPUs, or the processor where there is none."""
    if on_gpu(where):
        return where["gpus"]
    return f"{where['processor']}, {where['cores']} core{'' if where['cores'] == '1' else 's'}"


def short_commit(commit: str) -> str:
    """Nine letters of it, and that files differed from it, where they did."""
    return commit[:9] + commit[40:]


def _lines(mark: Mark, runs: Sequence[tuple[Path, Results]]) -> Iterator[str]:
    at_least, none = _at_least(mark), True
    for path, results in runs:
        found = mark.find(results) if mark.counts(results.environment) else None
        if found:
            none = False
            place = f"[{hardware(results.environment)}](bench/results/{path.name})"
            met = "yes" if found.value >= mark.least else "**no**"
            yield f"| {mark.what} | {at_least} | {mark.shown(found.value)}{found.note}, {place} | {met} |"
    if none:
        yield f"| {mark.what} | {at_least} | {NOT_YET} | – |"


def _at_least(mark: Mark) -> str:
    return f"{100 * mark.least:g} %" if mark.unit == "%" else f"{mark.least:,g}{' ' * (mark.unit != '×')}{mark.unit}"


def _card(name: str) -> Callable[[Where], bool]:
    """One whole GPU of that name."""
    return lambda where: (
        where.get("gpus", "").startswith("1 ×") and name in where["gpus"] and "MIG" not in where["gpus"]
    )


def _on_cpu(where: Where) -> bool:
    return not on_gpu(where)


def _on_two_cores(where: Where) -> bool:
    return _on_cpu(where) and where.get("cores") == "2"


def _derived(name: str) -> Callable[[Results], Found | None]:
    def find(results: Results) -> Found | None:
        return next((Found(float(figure["value"])) for figure in results.derived if figure["name"] == name), None)

    return find


def _row(results: Results, stage: str, contestant: str) -> Row | None:
    """A row that was measured on the crops, and in the loader's case the frames, that the marks speak of."""
    frames = results.settings.get("frames") or {}
    for row in results.rows:
        crop = (row.settings.get("work") or row.settings).get("crop")
        if (row.stage, row.contestant) == (stage, contestant) and row.windows and crop == CROP:
            return row if stage != "loader" or frames.get("size") == FRAME else None
    return None


def rate(stage: str, contestant: str) -> Callable[[Results], Found | None]:
    def find(results: Results) -> Found | None:
        row = _row(results, stage, contestant)
        return Found(row.spread.median) if row else None

    return find


def times(stage: str, contestant: str) -> Callable[[Results], Found | None]:
    """How many times a contestant's speed is ours."""

    def find(results: Results) -> Found | None:
        row = _row(results, stage, contestant)
        return Found(1 / row.ratio.median) if row and row.ratio else None

    return find


def fastest_peer(results: Results) -> Found | None:
    """Our speed over that of the fastest of the peers; who did not take part is said."""
    if not _row(results, "loader", "fastseg"):
        return None
    peers = [row for row in results.rows if row.stage == "loader" and not row.ours]
    ratios = {row.contestant: row.ratio.median for row in peers if row.ratio}
    if not ratios:
        return None
    fastest = max(ratios, key=lambda name: ratios[name])
    absent = [row.contestant for row in peers if row.contestant not in ratios]
    without = f", {', '.join(absent)} not measured" if absent else ""
    return Found(1 / ratios[fastest], f" ({fastest}{without})")


H200 = _card("H200")
MARKS = (
    Mark("train end to end, frames resident, against compute alone", 0.98, "%", on_gpu, _derived("train/compute")),
    Mark("train end to end, frames streamed, against compute alone", 0.98, "%", on_gpu, _derived("train/streamed")),
    # 90 % of what bench/roofline.py predicts of the step as it is compiled: 174 and 64 images/s.
    Mark("train on one H200, 768² crops", 157, "images/s", H200, rate("train", "fastseg")),
    Mark("train on one A100, 768² crops", 58, "images/s", _card("A100"), rate("train", "fastseg")),
    Mark("step against the seed project's recipe, same GPU, per pixel", 12, "×", on_gpu, times("compute", "seed")),
    Mark("loader on one H200, stream, 2048×1024 → 768²", 2000, "images/s", H200, rate("loader", "fastseg")),
    Mark("loader on one H200, resident, 2048×1024 → 768²", 6000, "images/s", H200, rate("loader", "fastseg, resident")),
    Mark("loader against the seed project's, same 2 CPU cores", 6, "×", _on_two_cores, times("loader", "seed")),
    Mark("loader against the fastest peer, same 2 CPU cores", 1, "×", _on_two_cores, fastest_peer),
    Mark("packing against PNG decode + JPEG encode alone", 0.9, "%", lambda _: True, _derived("packing/bare")),
)
