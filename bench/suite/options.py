"""The command line of bench/throughput.py, and what it asks every stage to do."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from bench import peers
from bench.suite.contest import Timing
from bench.suite.frames import Frames
from bench.suite.plot import check_plot
from bench.suite.request import STAGES, Request
from fastseg.cli_help import shown_as
from fastseg.config import Arch
from fastseg.errors import UserError
from fastseg.files import check_writable_file
from fastseg.parallel import usable_cores

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ("compute", "train", "evaluation", "scaling")
"""Stages that run a network, with smaller defaults on a CPU."""
READERS = ("loader", "train", "packing", "evaluation")
"""Stages that read frames."""
VARIANTS = {
    "ablate": ("ablation", "take away from"),
    "candidates": ("candidates", "add to"),
    "settings": ("sweeps", "set in"),
}
"""Flag → the module below bench.suite that has variants of ours to measure instead of peers, and what it does."""


@dataclass(frozen=True)
class Options:
    """Measure loading, computing, training, packing and evaluating, ours beside its peers on the same work.

    Contestants take turns in processes of their own, all others stopped. Ctrl-C shows what has been measured so far.

    Example: python bench/throughput.py --stages loader compute --json results.json --plot results.svg
    """

    stages: Annotated[tuple[str, ...] | None, shown_as("STAGE ...")] = None
    """Of loader, compute, train, packing, evaluation, scaling. Default: all (scaling: with several ranks)."""
    peers: Annotated[tuple[str, ...], shown_as("NAME ...")] = ("all",)
    """all, none, or names of files below bench/peers."""
    shards: Annotated[Path | None, shown_as("DIR")] = None
    """Set of the frames. Default: the only one below shards/, or procedural streets of 2048x1024."""
    frames: Annotated[int | None, shown_as("N")] = None
    """How many frames all contestants read. Default: 32."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPU if there is one."""
    crop: Annotated[tuple[int, int] | None, shown_as("H W")] = None
    """Training crop, pixels. Default: 768 768; 256 256 for networks on a CPU."""
    scale: Annotated[tuple[float, float], shown_as("LOW HIGH")] = (0.5, 2.0)
    """Ratio by which frames are resized before the crop."""
    batch: Annotated[int | None, shown_as("N")] = None
    """Images per step and rank. Default: 8; 4 for networks on a CPU."""
    arch: Annotated[Arch | None, shown_as("NAME")] = None
    """torchvision's network. Default: deeplabv3_resnet50; deeplabv3_mobilenet_v3_large on a CPU."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of our network's products, as in training."""
    ranks: Annotated[int | None, shown_as("N")] = None
    """Gloo ranks on the CPU that scaling goes up to. Default: one rank for each GPU."""
    windows: Annotated[int | None, shown_as("N")] = None
    """Measurements of each contestant. Default: 5."""
    seconds: Annotated[float | None, shown_as("S")] = None
    """Length of a window. Default: 3."""
    warmup: Annotated[float | None, shown_as("S")] = None
    """Seconds before every window that do not count. Default: 1.5."""
    sweep: bool = True
    """Try several settings of each contestant first (workers, threads, …), and go on with its best."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Two minutes on two cores: few frames, short windows, small crops, fewer contestants, no sweep."""
    ablate: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """No peers: ours with one optimization taken away at a time."""
    candidates: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """No peers: ours with one candidate optimization added at a time."""
    settings: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """No peers: ours with one setting changed at a time (decoder, threads, images per step, …)."""
    json: Annotated[Path | None, shown_as("FILE")] = None
    """Write environment, settings and results there."""
    plot: Annotated[Path | None, shown_as("FILE.png|svg")] = None
    """Draw the results."""
    markdown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the tables as GitHub shows them."""


def check(options: Options) -> None:
    """:class:`UserError` for what can be known to fail before anything is measured."""
    _known("--stages", options.stages or (), STAGES)
    _known("--peers", tuple(name for name in options.peers if name not in ("all", "none")), peers.known())
    given = [flag for flag in VARIANTS if getattr(options, flag)]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} are both given; measure them one after the other")
    positive = {"frames": 1, "batch": 2, "ranks": 1, "windows": 1, "seconds": 0.01, "warmup": 0}
    for name, least in positive.items():
        value = getattr(options, name)
        if value is not None and not least <= value < 1e6:
            raise UserError(f"--{name} is {value}; it must be at least {least}")
    if options.crop and not all(16 <= side <= 8192 for side in options.crop):
        raise UserError(f"--crop is {options.crop[0]} {options.crop[1]}; each way it must be 16 to 8192 pixels")
    if not 0 < options.scale[0] <= options.scale[1] <= 16:
        raise UserError(f"--scale is {options.scale[0]} {options.scale[1]}; give a low and a high ratio up to 16")
    if options.plot:
        check_plot(options.plot)
    for flag, path in (("json", options.json), ("plot", options.plot)):
        if path:
            check_writable_file(path, f"--{flag}")


def variants(options: Options) -> str | None:
    """The one of :data:`VARIANTS` that is asked for; None: the stages with their peers."""
    return next((flag for flag in VARIANTS if getattr(options, flag)), None)


def device(options: Options) -> str:
    """cuda or cpu. Raises :class:`UserError` for a GPU that is here and cannot be used, as for one that is not here."""
    # torch takes seconds to import.
    from fastseg.device import count_gpus, require_gpus

    if options.device == "cpu":
        return "cpu"
    return "cuda" if (require_gpus() if options.device == "cuda" else count_gpus()) else "cpu"


def chosen_stages(options: Options, device: str) -> tuple[str, ...]:
    """The stages asked for, in the order in which they are run."""
    import torch

    several = (options.ranks or 0) > 1 or (device == "cuda" and torch.cuda.device_count() > 1)
    if options.stages and "scaling" in options.stages and not several:
        raise UserError("--stages has scaling, but there are not several GPUs; add --ranks 2 to scale on the CPU")
    left_out = [*["scaling"] * (not several), *["evaluation"] * options.quick]
    chosen = options.stages or tuple(stage for stage in STAGES if stage not in left_out)
    return tuple(stage for stage in STAGES if stage in chosen)


def timing(options: Options) -> Timing:
    """How long to measure."""
    quick = Timing(windows=3, seconds=0.5, warmup=0.2, together=usable_cores())
    usual = quick if options.quick else Timing()
    given = {name: getattr(options, name) for name in ("windows", "seconds", "warmup")}
    return replace(usual, **{name: value for name, value in given.items() if value is not None})


def sweep_timing(timing: Timing, device: str) -> Timing:
    """How long to measure each of the settings to choose from: three whole windows.

    One, or shorter ones, are a coin toss: a slow loader makes a few batches in them, which come in bursts.
    On a CPU they start side by side; a GPU's memory may not have room for several that tune themselves.
    """
    together = usable_cores() if device == "cpu" else timing.together
    return replace(timing, windows=3, together=together)


def request(options: Options, device: str, stage: str) -> Request:
    """What a stage is asked to measure, without the frames."""
    small = stage in NETWORKS and device == "cpu"
    side = (128 if options.quick else 256) if small else 768
    return Request(
        device=device,
        crop=options.crop or (side, side),
        scale=options.scale,
        batch=options.batch or (4 if small else 8),
        arch=options.arch or ("deeplabv3_mobilenet_v3_large" if device == "cpu" else "deeplabv3_resnet50"),
        peers=_peers(options.peers),
        cores=usable_cores(),
        ranks=options.ranks,
        quick=options.quick,
        precision=options.precision,
    )


def frame_count(options: Options) -> int:
    """How many frames all contestants read."""
    return options.frames or (8 if options.quick else 32)


def frame_source(options: Options) -> tuple[Path | None, str]:
    """The set of shards that the frames come from, None for procedural streets; and a line that says so."""
    if options.shards:
        return options.shards, f"frames from {options.shards}"
    sets = sorted(path.parent for path in (ROOT / "shards").glob("*/manifest.json"))
    usual = ROOT / "shards" / "cityscapes"
    found = usual if usual in sets else sets[0] if len(sets) == 1 else None
    if found:
        return found, f"frames from {found.relative_to(ROOT)} (--shards names another set)"
    why = f"there are {len(sets)} sets below shards/ and none is named" if sets else "there is no set below shards/"
    return None, f"procedural frames of 2048x1024: {why} (--shards DIR)"


def to_json(options: Options, timing: Timing, requests: dict[str, Request]) -> dict[str, Any]:
    """The settings of a run as numbers, strings, lists and None."""

    def plain(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}

    asked = {stage: {k: v for k, v in vars(r).items() if k != "frames"} for stage, r in requests.items()}
    found = next((_frames(options, r.frames) for r in requests.values() if r.frames), None)
    return {"options": plain(vars(options)), "timing": vars(timing), "stages": asked, "frames": found}


def _frames(options: Options, frames: Frames) -> dict[str, Any]:
    """Where the frames come from, how many there are to train on, and height and width of the first."""
    source, _ = frame_source(options)
    origin = source.resolve().name if source else "procedural"
    return {"origin": origin, "count": len(frames.keys), "size": frames.about["size"]}


def _known(flag: str, names: tuple[str, ...], known: Any) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{flag} has {name!r}; it must be of: {', '.join(known)}")


def _peers(names: tuple[str, ...]) -> tuple[str, ...]:
    if "all" in names:
        return tuple(peers.known())
    return tuple(name for name in names if name != "none")
