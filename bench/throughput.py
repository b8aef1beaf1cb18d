"""Measure images per second, fastseg beside its peers: python bench/throughput.py --help"""

import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

if __package__ in (None, ""):
    # Run as a script, sys.path starts with this folder, whose modules are not for the top level.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import tyro
from rich.console import Console
from rich.text import Text

from bench import peers
from bench.docs.plots import check_outputs, plot_throughput
from bench.docs.tables import measured, sentences, stage_table
from bench.runner.processes import ROOT
from bench.runner.results import Results, Row, group
from bench.runner.runner import Entry, Measurement, Runner, Tell, Timing, choose
from bench.stages import NETWORKS, READERS, STAGES, Request
from bench.stages.frames import Frames, FrameSize, Progress, frames_of_shards, procedural_frames
from fastseg.cli_help import command_name, shown_as
from fastseg.config import Arch
from fastseg.errors import UserError, run_command, unwind_on_signals
from fastseg.parallel import usable_cores

VARIANTS = {"ablate": "take away from", "candidates": "add to", "settings": "set in"}
"""Flag → verb: measure variants of fastseg from bench/variants instead of peers."""
PLAIN_LINES = 10.0
"""Seconds between two plain lines of progress."""


@dataclass(frozen=True)
class Options:
    """Measure loading, computing, training, packing and evaluating, fastseg beside its peers on the same work.

    Entries take turns in separate processes, all others stopped. Ctrl-C shows the results so far.

    Example: python bench/throughput.py --stages loader compute --json results.json --plot results.svg
    """

    stages: Annotated[tuple[str, ...] | None, shown_as("STAGE ...")] = None
    """Stages: loader, compute, train, packing, evaluation, scaling, startup. Default: all that this machine can run."""
    peers: Annotated[tuple[str, ...], shown_as("NAME ...")] = ("all",)
    """all, none, or names of files below bench/peers."""
    shards: Annotated[Path | None, shown_as("DIR")] = None
    """Packed set of the frames. Default: Cityscapes or procedural."""
    sizes: Annotated[tuple[str, ...] | None, shown_as("WxH ...")] = None
    """Sizes of procedural frames for the loader; -420: 4:2:0 JPEGs."""
    frames: Annotated[int | None, shown_as("N")] = None
    """Number of frames that all entries read. Default: 32."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPU if there is one."""
    crop: Annotated[tuple[int, int] | None, shown_as("H W")] = None
    """Training crop, pixels. Default: 768 768; 256 256 for networks on a CPU."""
    scale: Annotated[tuple[float, float], shown_as("LOW HIGH")] = (0.5, 2.0)
    """Ratio by which frames are resized before the crop."""
    colors: bool = True
    """Change colors as the default recipe does."""
    batch: Annotated[int | None, shown_as("N")] = None
    """Images per step and rank. Default: 8; a network on a CPU 4."""
    arch: Annotated[Arch | None, shown_as("NAME")] = None
    """torchvision's network. Default: deeplabv3_resnet50; deeplabv3_mobilenet_v3_large on a CPU."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of fastseg's network."""
    ranks: Annotated[int | None, shown_as("N")] = None
    """Maximum gloo ranks of scaling. Default: one per GPU."""
    windows: Annotated[int | None, shown_as("N")] = None
    """Windows per entry. Default: 5."""
    seconds: Annotated[float | None, shown_as("S")] = None
    """Length of a window. Default: 3."""
    warmup: Annotated[float | None, shown_as("S")] = None
    """Warm-up before every window. Default: 1.5."""
    sweep: bool = True
    """Measure the best of several settings of each entry."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take two minutes on two cores."""
    ablate: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Instead of peers: without one optimization."""
    candidates: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Instead of peers: with one candidate."""
    settings: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Instead of peers: with one setting changed."""
    json: Annotated[Path | None, shown_as("FILE")] = None
    """Write environment, settings and results to this file."""
    plot: Annotated[Path | None, shown_as("FILE.png|svg")] = None
    """Plot the results."""
    markdown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the tables as Markdown."""

    def check(self) -> None:
        """Raise :class:`UserError` for errors that can be found before measuring."""
        chosen = tuple(name for name in self.peers if name not in ("all", "none"))
        for flag, names, known in (("--stages", self.stages or (), STAGES), ("--peers", chosen, peers.known())):
            for name in names:
                if name not in known:
                    raise UserError(f"{flag} has {name!r}; it must be of: {', '.join(known)}")
        self._check_sizes()
        given = [flag for flag in VARIANTS if getattr(self, flag)]
        if len(given) > 1:
            raise UserError(f"--{given[0]} and --{given[1]} are both given; measure them one after the other")
        for name, least in {"frames": 1, "batch": 2, "ranks": 1, "windows": 1, "seconds": 0.01, "warmup": 0}.items():
            value = getattr(self, name)
            if value is not None and not least <= value < 1e6:
                raise UserError(f"--{name} is {value}; it must be at least {least}")
        if self.crop and not all(16 <= side <= 8192 for side in self.crop):
            raise UserError(f"--crop is {self.crop[0]} {self.crop[1]}; each way it must be 16 to 8192 pixels")
        if not 0 < self.scale[0] <= self.scale[1] <= 16:
            raise UserError(f"--scale is {self.scale[0]} {self.scale[1]}; give a low and a high ratio up to 16")
        check_outputs(self.json, self.plot)

    def _check_sizes(self) -> None:
        for size in self.sizes or ():
            FrameSize.parse(size)
        others = {"stages": self.stages not in (None, ("loader",)), "shards": self.shards, "plot": self.plot}
        others |= {flag: getattr(self, flag) for flag in VARIANTS}
        for flag, given in others.items():
            if self.sizes and given:
                raise UserError(f"--sizes and --{flag} are both given; --sizes runs the loader stage on its own frames")

    @property
    def variants(self) -> str | None:
        """Return the requested one of :data:`VARIANTS`; None: the stages with their peers."""
        return next((flag for flag in VARIANTS if getattr(self, flag)), None)

    @property
    def frame_count(self) -> int:
        """Return the number of frames that all entries read."""
        return self.frames or (8 if self.quick else 32)

    def timing(self) -> Timing:
        """Return the durations of the measurements."""
        usual = Timing(windows=3, seconds=0.5, warmup=0.2, together=usable_cores()) if self.quick else Timing()
        given = {name: getattr(self, name) for name in ("windows", "seconds", "warmup")}
        return replace(usual, **{name: value for name, value in given.items() if value is not None})

    def request(self, device: str, stage: str) -> Request:
        """Return a stage's request, without the frames."""
        small = stage in NETWORKS and device == "cpu"
        side = (128 if self.quick else 256) if small else 768
        named = tuple(peers.known()) if "all" in self.peers else tuple(name for name in self.peers if name != "none")
        return Request(
            device=device,
            crop=self.crop or (side, side),
            scale=self.scale,
            colors=self.colors,
            batch=self.batch or (4 if small else 8),
            arch=self.arch or ("deeplabv3_mobilenet_v3_large" if device == "cpu" else "deeplabv3_resnet50"),
            peers=named,
            cores=usable_cores(),
            ranks=self.ranks,
            quick=self.quick,
            precision=self.precision,
        )


def main() -> None:
    """Parse the command line, measure, and show the results; exit with 1 if an entry of fastseg failed."""
    options = tyro.cli(Options, prog=command_name())
    unwind_on_signals()
    options.check()
    device = find_device(options)
    requests = [*_sized(options, device)] if options.sizes else _usual(options, device)
    bench = Bench(options, options.timing(), device)
    stopped = bench.measure(_entries(options, requests))
    bench.write(requests)
    if stopped:
        print("interrupted; the results so far are shown", file=sys.stderr)
    sys.exit(stopped or int(any(measurement.entry.ours for measurement in bench.failures)))


def _usual(options: Options, device: str) -> list[tuple[str, Request]]:
    """Return the requested stages with their requests; all read the same frames."""
    asked = [(stage, options.request(device, stage)) for stage in _chosen_stages(options, device)]
    frames = find_frames(options) if any(stage in READERS for stage, _ in asked) else None
    return [(stage, replace(request, frames=frames if stage in READERS else None)) for stage, request in asked]


def _sized(options: Options, device: str) -> Iterator[tuple[str, Request]]:
    """Yield the loader stage with a request for each of --sizes."""
    for name in options.sizes or ():
        size = FrameSize.parse(name)
        with show_making() as show:
            frames = procedural_frames(options.frame_count, size[:2], progress=show, own=size.own)
        request = replace(options.request(device, "loader"), crop=options.crop or size.crop)
        yield "loader", replace(request, frames=frames, size=name)


def find_device(options: Options) -> str:
    """Return cuda or cpu. Raises :class:`UserError` for a GPU that is missing or cannot be used."""
    # torch takes seconds to import.
    from fastseg.device import count_gpus, require_gpus

    if options.device == "cpu":
        return "cpu"
    return "cuda" if (require_gpus() if options.device == "cuda" else count_gpus()) else "cpu"


def _chosen_stages(options: Options, device: str) -> list[str]:
    """Return the requested stages, in the order in which they run."""
    import torch

    several = (options.ranks or 0) > 1 or (device == "cuda" and torch.cuda.device_count() > 1)
    if options.stages and "scaling" in options.stages and not several:
        raise UserError("--stages has scaling, but there are not several GPUs; add --ranks 2 to scale on the CPU")
    left_out = {"scaling": not several} | dict.fromkeys(("evaluation", "inference", "startup"), options.quick)
    return [stage for stage in STAGES if (stage in options.stages if options.stages else not left_out.get(stage))]


def frame_source(options: Options) -> tuple[Path | None, str]:
    """Return the set of shards of the frames, None for procedural streets, and a line about it."""
    if options.shards:
        return options.shards, f"frames from {options.shards}"
    usual = ROOT / "shards" / "cityscapes"
    if (usual / "manifest.json").exists():
        return usual, "frames from shards/cityscapes (--shards names another set)"
    return None, "procedural frames of 2048x1024: there is no shards/cityscapes (--shards names another set)"


@contextmanager
def show_line() -> Iterator[Tell]:
    """Yield a function that shows the current work on stderr: on one changing line, or on a plain one now and then."""
    console, last = Console(stderr=True), -PLAIN_LINES
    if console.is_terminal:
        with console.status("") as status:
            yield lambda text: status.update(Text(text))
        return

    def tell(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_LINES:
            last = time.monotonic()
            console.print(Text(text), soft_wrap=True)

    yield tell


def find_frames(options: Options) -> Frames:
    """Return the frames that all entries read, made now if they are not in the cache."""
    source, sentence = frame_source(options)
    print(sentence, file=sys.stderr)
    count = options.frame_count
    with show_making() as show:
        return frames_of_shards(source, count, progress=show) if source else procedural_frames(count, progress=show)


@contextmanager
def show_making() -> Iterator[Progress]:
    """Yield a function that shows how many frames have been made."""
    with show_line() as tell:
        yield lambda what, done, total: tell(f"making {what}: {done} of {total}")


def _entries(options: Options, requests: Sequence[tuple[str, Request]]) -> list[tuple[str, list[Entry]]]:
    """Return the entries of each stage; only the modules of requested stages are imported."""
    flag = options.variants
    if flag is None:
        return [
            (stage, [replace(entry, size=request.size) for entry in _module(stage).entries(request)])
            for stage, request in requests
        ]
    from bench import variants

    found = [(stage, variants.entries(flag, request, stage)) for stage, request in requests]
    if not any(entries for _, entries in found):
        names = ", ".join(stage for stage, _ in found)
        raise UserError(f"--{flag} has nothing to {VARIANTS[flag]} {names}; add --stages compute")
    return [(stage, entries) for stage, entries in found if entries]


def _module(stage: str) -> Any:
    return importlib.import_module(f"bench.stages.{stage}")


class Bench:
    """Measure stage by stage, and show each when it is done."""

    def __init__(self, options: Options, timing: Timing, device: str) -> None:
        self.options, self.timing = options, timing
        self.sweep_timing = sweep_timing(timing, device)
        # Tables keep their width through a pipe, too.
        self.console = Console() if sys.stdout.isatty() else Console(width=140)
        self.rows: list[Row] = []
        self.derived: list[dict[str, Any]] = []
        self.failures: list[Measurement] = []

    def measure(self, stages: Sequence[tuple[str, list[Entry]]]) -> int:
        """Measure all stages. Returns 0, or the exit code of the signal that interrupted it."""
        try:
            for stage, entries in stages:
                self._stage(stage, entries)
        except KeyboardInterrupt:
            return 130
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    def _stage(self, stage: str, entries: Sequence[Entry]) -> None:
        runner = Runner(entries, self.timing)
        try:
            with show_line() as tell:
                runner = Runner([self._settled(entry, tell) for entry in entries], self.timing, tell)
                runner.run()
        finally:
            rows = runner.rows()
            self.rows += rows
            self.failures += runner.failures
            derive = None if self.options.variants else getattr(_module(stage), "derived", None)
            size = entries[0].size
            derived = derive([row for row in self.rows if row.size == size]) if derive else []
            self.derived += [figure | {"size": size} for figure in derived] if size else derived
            self._show(rows, runner.failures, sentences(derived))

    def _settled(self, entry: Entry, tell: Tell) -> Entry:
        if not self.options.sweep or self.options.quick:
            return entry.with_settings(next(iter(entry.candidates), {}))
        return choose(entry, self.sweep_timing, tell)

    def _show(self, rows: Sequence[Row], failures: Sequence[Measurement], said: Sequence[str]) -> None:
        for text in (stage_table(rows, pad=not self.options.markdown), *said):
            self.console.print(Text(text), soft_wrap=True, end="\n\n")
        for measurement in failures:
            if measurement.traceback:
                print(f"{measurement.entry.stage}, {measurement.entry.name}:\n{measurement.traceback}", file=sys.stderr)

    def write(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Write the requested files."""
        if not (self.options.json or self.options.plot):
            return
        from bench.runner.machine import machine

        settings = settings_document(self.options, self.timing, requests)
        results = Results(machine(), settings, tuple(self.rows), tuple(self.derived))
        if self.options.json:
            results.write(self.options.json)
        if self.options.plot and measured(self.rows):
            plot_throughput(results, self.options.plot)


def sweep_timing(timing: Timing, device: str) -> Timing:
    """Return the durations for each candidate's measurement: three whole windows.

    A single or a shorter one is a coin toss: a slow loader makes only a few batches in it, in bursts. On a CPU
    candidates start at once; a GPU's memory may not have room for several that tune themselves.
    """
    return replace(timing, windows=3, together=usable_cores() if device == "cpu" else timing.together)


def settings_document(options: Options, timing: Timing, requests: Sequence[tuple[str, Request]]) -> dict[str, Any]:
    """Return the settings of a run as numbers, strings, lists and None."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    asked = {group(stage, r.size): {k: v for k, v in vars(r).items() if k != "frames"} for stage, r in requests}
    # With --sizes each row has its own.
    found = next((r.frames for _, r in requests if r.frames and not r.size), None)
    source = frame_source(options)[0]
    origin = source.resolve().name if source else "procedural"
    frames = found and {"origin": origin, "count": len(found.keys), "size": found.about["size"]}
    return {"options": plain, "timing": vars(timing), "stages": asked, "frames": frames}


if __name__ == "__main__":
    run_command(main)
