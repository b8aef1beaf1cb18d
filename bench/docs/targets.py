"""fastseg's targets against the committed results: each a figure or a ratio within one run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.docs.tables import number, table
from bench.runner.machine import hardware, on_gpu
from bench.runner.results import Results, Row

Where = dict[str, str]
"""A run's environment."""
NOT_YET = "not yet measured"
FRAME, CROP = [1024, 2048], [768, 768]
"""Height and width of the frames and crops of the targets, pixels."""


class Found(NamedTuple):
    """The value of a target in one run."""

    value: float
    note: str = ""


@dataclass(frozen=True)
class Target:
    """A value to reach."""

    what: str
    least: float
    unit: str
    """Unit: % for a share, × for a ratio, or images/s."""
    counts: Callable[[Where], bool]
    """Whether the target applies to a machine."""
    find: Callable[[Results], Found | None]

    def shown(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{100 * value:.1f} %" if self.unit == "%" else f"{number(value)}{self._unit}"

    @property
    def at_least(self) -> str:
        """Return the target with its unit, not rounded."""
        return f"{100 * self.least:g} %" if self.unit == "%" else f"{self.least:,g}{self._unit}"

    @property
    def _unit(self) -> str:
        return f"{' ' * (self.unit != '×')}{self.unit}"


def target_table(runs: Sequence[tuple[Path, Results]]) -> str:
    """Return the targets, a line for each run of bench/throughput.py that measured one, or a line that none has."""
    rows = []
    for target in TARGETS:
        rows += list(_rows(target, runs)) or [(target.what, target.at_least, NOT_YET, "–")]
    return table(("target", "at least", "measured", "met"), rows, left=(0, 3))


def _rows(target: Target, runs: Sequence[tuple[Path, Results]]) -> Iterator[tuple[str, ...]]:
    for path, results in runs:
        if target.counts(results.environment) and (found := target.find(results)):
            machine = f"[{hardware(results.environment)}](bench/results/{path.name})"
            met = "yes" if found.value >= target.least else "**no**"
            yield target.what, target.at_least, f"{target.shown(found.value)}{found.note}, {machine}", met


def _whole(gpu: str) -> Callable[[Where], bool]:
    """Return a function that tells whether a machine has one whole GPU of that name."""

    def counts(where: Where) -> bool:
        gpus = where.get("gpus", "")
        return gpus.startswith("1 ×") and gpu in gpus and "MIG" not in gpus

    return counts


def _on_two_cores(where: Where) -> bool:
    return not on_gpu(where) and where.get("cores") == "2"


def _derived(name: str) -> Callable[[Results], Found | None]:
    def find(results: Results) -> Found | None:
        return next((Found(float(figure["value"])) for figure in results.derived if figure["name"] == name), None)

    return find


def _row(results: Results, stage: str, entry: str) -> Row | None:
    """Return a row measured on the targets' crops and, for the loader, frames; None without one."""
    frames = results.settings.get("frames") or {}
    for row in results.results:
        crop = (row.settings.get("work") or row.settings).get("crop")
        if (row.stage, row.entry) == (stage, entry) and row.windows and crop == CROP:
            return row if stage != "loader" or frames.get("size") == FRAME else None
    return None


def rate(stage: str, entry: str) -> Callable[[Results], Found | None]:
    """Return a function that finds an entry's speed."""

    def find(results: Results) -> Found | None:
        row = _row(results, stage, entry)
        return Found(row.spread.median) if row else None

    return find


def times(stage: str, entry: str) -> Callable[[Results], Found | None]:
    """Return a function that finds fastseg's speed over an entry's."""

    def find(results: Results) -> Found | None:
        row = _row(results, stage, entry)
        return Found(1 / row.ratio_to_ours.median) if row and row.ratio_to_ours else None

    return find


def fastest_peer(results: Results) -> Found | None:
    """Return fastseg's speed over the fastest peer's, with a note on the peers that did not run."""
    if not _row(results, "loader", "fastseg"):
        return None
    peers = [row for row in results.results if row.stage == "loader" and not row.ours]
    ratios = {row.entry: row.ratio_to_ours.median for row in peers if row.ratio_to_ours}
    if not ratios:
        return None
    fastest = max(ratios, key=lambda name: ratios[name])
    absent = [row.entry for row in peers if row.entry not in ratios]
    without = f", {', '.join(absent)} not measured" if absent else ""
    return Found(1 / ratios[fastest], f" ({fastest}{without})")


H200, PEER = _whole("H200"), "notebook"
TARGETS = (
    Target("train end to end, frames cached, against compute alone", 0.98, "%", on_gpu, _derived("train/compute")),
    Target("train end to end, frames streamed, against compute alone", 0.98, "%", on_gpu, _derived("train/streamed")),
    # 90 % of bench/roofline.py's prediction for the compiled step: 174 and 64 images/s.
    Target("train on one H200, 768² crops", 157, "images/s", H200, rate("train", "fastseg")),
    Target("train on one A100, 768² crops", 58, "images/s", _whole("A100"), rate("train", "fastseg")),
    Target("step against the notebook project's recipe, same GPU, per pixel", 12, "×", on_gpu, times("compute", PEER)),
    Target("loader on one H200, stream, 2048×1024 → 768²", 2000, "images/s", H200, rate("loader", "fastseg")),
    Target("loader on one H200, cached, 2048×1024 → 768²", 6000, "images/s", H200, rate("loader", "fastseg, cached")),
    Target("loader against the notebook project's, same 2 CPU cores", 6, "×", _on_two_cores, times("loader", PEER)),
    Target("loader against the fastest peer, same 2 CPU cores", 1, "×", _on_two_cores, fastest_peer),
    Target(
        "loader with the default recipe's colors against plain crops",
        0.9,
        "%",
        _on_two_cores,
        _derived("loader/colors"),
    ),
    Target("packing against PNG decode + JPEG encode alone", 0.9, "%", lambda _: True, _derived("packing/bare")),
)
