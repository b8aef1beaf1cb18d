"""fastseg's targets against the committed results: each a figure or a ratio within one run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.docs.sizes import lead_over_peers, shown_size
from bench.docs.tables import number, table
from bench.runner.machine import hardware, on_gpu
from bench.runner.results import Results, Row

Where = dict[str, str]
"""A run's environment."""
NOT_YET = "not yet measured"
FRAME, CROP = [1024, 2048], [768, 768]
"""Height and width of the frames and crops of the targets, pixels."""
LARGE = "2048x1024"
"""The same frames in a run over several sizes."""


class Found(NamedTuple):
    """The value of a target in one run."""

    value: float
    note: str = ""


@dataclass(frozen=True)
class Target:
    """A value to reach, or not to exceed."""

    what: str
    limit: float
    unit: str
    """Unit: % for a share, × for a ratio, images/s or s."""
    counts: Callable[[Where], bool]
    """Whether the target applies to a machine."""
    find: Callable[[Results], Found | None]
    most: bool = False
    """Whether the limit is the most that is allowed."""

    def met(self, value: float) -> bool:
        """Return whether a value meets the target."""
        return value <= self.limit if self.most else value >= self.limit

    def shown(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{100 * value:.1f} %" if self.unit == "%" else f"{number(value)}{self._unit}"

    @property
    def shown_limit(self) -> str:
        """Return the limit with its unit, not rounded."""
        limit = f"{100 * self.limit:g} %" if self.unit == "%" else f"{self.limit:,g}{self._unit}"
        return f"{'≤' if self.most else '≥'} {limit}"

    @property
    def _unit(self) -> str:
        return f"{' ' * (self.unit != '×')}{self.unit}"


def target_table(runs: Sequence[tuple[Path, Results]]) -> str:
    """Return the targets, a line for each machine that measured one, or a line that none has.

    If several runs of a machine did, the one that measured longest counts.
    """
    rows = []
    for target in TARGETS:
        rows += list(_rows(target, runs)) or [(target.what, target.shown_limit, NOT_YET, "–")]
    return table(("target", "limit", "measured", "met"), rows, left=(0, 3))


def _rows(target: Target, runs: Sequence[tuple[Path, Results]]) -> Iterator[tuple[str, ...]]:
    seen = set()
    for path, results in sorted(runs, key=lambda run: -_seconds(run[1])):
        known = hardware(results.environment)
        if known not in seen and target.counts(results.environment) and (found := target.find(results)):
            seen.add(known)
            machine = f"[{known}](../bench/results/{path.name})"
            met = "yes" if target.met(found.value) else "**no**"
            yield target.what, target.shown_limit, f"{target.shown(found.value)}{found.note}, {machine}", met


def _seconds(results: Results) -> float:
    """Return how long each entry was measured."""
    timing = results.settings.get("timing", {})
    return float(timing.get("windows", 0) * timing.get("seconds", 0))


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
        # A run over several sizes of frames derives it for each, which is another target.
        figures = (figure for figure in results.derived if figure["name"] == name and "size" not in figure)
        return next((Found(float(figure["value"])) for figure in figures), None)

    return find


def _row(results: Results, stage: str, entry: str, crop: list[int] | None = CROP) -> Row | None:
    """Return a row measured on crops of that size, or any, and, for the loader, on the targets' frames; else None."""
    frames = results.settings.get("frames") or {}
    for row in results.results:
        measured = (row.settings.get("work") or row.settings).get("crop")
        if (row.stage, row.entry) == (stage, entry) and row.windows and crop in (None, measured):
            return row if stage != "loader" or frames.get("size") == FRAME else None
    return None


def rate(stage: str, entry: str) -> Callable[[Results], Found | None]:
    """Return a function that finds an entry's speed."""

    def find(results: Results) -> Found | None:
        row = _row(results, stage, entry)
        return Found(row.spread.median) if row else None

    return find


def times(stage: str, entry: str, crop: list[int] | None = CROP) -> Callable[[Results], Found | None]:
    """Return a function that finds fastseg's speed over an entry's, on crops of that size or any."""

    def find(results: Results) -> Found | None:
        row = _row(results, stage, entry, crop)
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


def lead(*, colors: bool) -> Callable[[Results], Found | None]:
    """Return a function that finds fastseg's lead on frames of several sizes: the least with colors; plain on large."""

    def find(results: Results) -> Found | None:
        leads = lead_over_peers(results)
        work: dict[str, Any] = next((row.settings["work"] for row in results.results if row.size), {})
        if not leads or work["colors"] != colors:
            return None
        size = min(leads, key=lambda size: leads[size]) if colors else LARGE
        return Found(leads[size], f" ({shown_size(size)})" if colors else "")

    return find


H200, PEER, TORCHVISION, COMMAND = _whole("H200"), "notebook", "torchvision reference", "evaluation/command"
TARGETS = (
    Target("train end to end, frames cached, against compute alone", 0.98, "%", on_gpu, _derived("train/compute")),
    Target("train end to end, frames streamed, against compute alone", 0.98, "%", on_gpu, _derived("train/streamed")),
    # 90 % of bench/roofline.py's prediction for the compiled step: 174 and 64 images/s.
    Target("train on one H200, 768² crops", 157, "images/s", H200, rate("train", "fastseg")),
    Target("train on one A100, 768² crops", 58, "images/s", _whole("A100"), rate("train", "fastseg")),
    Target("step against the notebook project's recipe, same GPU, per pixel", 12, "×", on_gpu, times("compute", PEER)),
    Target("loader on one H200, stream, 2048×1024 → 768²", 2000, "images/s", H200, rate("loader", "fastseg")),
    Target("loader on one H200, cached, 2048×1024 → 768²", 6000, "images/s", H200, rate("loader", "fastseg, cached")),
    Target("loader against the notebook project's", 6, "×", _on_two_cores, times("loader", PEER)),
    Target("loader against the fastest peer", 1.5, "×", _on_two_cores, fastest_peer),
    Target("… on frames of six kinds, the least", 1.2, "×", _on_two_cores, lead(colors=True)),
    Target("… plain crops of large frames", 1.8, "×", _on_two_cores, lead(colors=False)),
    Target("loader with the recipe's colors against plain crops", 0.9, "%", _on_two_cores, _derived("loader/colors")),
    Target("packing against PNG decode + JPEG encode alone", 1.3, "%", _on_two_cores, _derived("packing/bare")),
    Target("step against torchvision's", 1, "×", _on_two_cores, times("compute", TORCHVISION, crop=None)),
    Target("whole loop against compute alone", 0.97, "%", _on_two_cores, _derived("train/compute")),
    Target("evaluation by fastseg-eval, time over the trainer's", 1.15, "×", _on_two_cores, _derived(COMMAND), True),
    Target("inference, all threads against one", 1, "×", _on_two_cores, _derived("inference/idle")),
    Target("… time over one thread's on busy cores", 1.3, "×", _on_two_cores, _derived("inference/busy"), True),
    Target("from Enter to the demo's first step", 8, "s", _on_two_cores, _derived("startup/first step"), True),
    Target("`--help`", 0.5, "s", _on_two_cores, _derived("startup/help"), True),
)
