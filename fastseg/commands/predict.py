"""Predict images, folders and videos: ``fastseg-predict ckpt.pt street.jpg --out predictions``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from fastseg.cli_help import parse, shown_as
from fastseg.deploy.output_paths import check_absent, disambiguate
from fastseg.deploy.predict_io import KINDS, Input, Outputs, find_inputs
from fastseg.deploy.video import Video, probe_videos
from fastseg.errors import UserError, one_line, run_command, unwind_on_signals
from fastseg.files import check_writable
from fastseg.model.checkpoint_file import resolve_checkpoint
from fastseg.progress import show_progress
from fastseg.report.overlays import ALPHA


@dataclass(frozen=True)
class Options:
    """Predict images, folders and videos: overlays with the input's size and name.

    Example: fastseg-predict runs/cityscapes photos clip.mp4 --out predictions
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, checkpoint, .safetensors or hf://USER/NAME."""
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, shown_as("PATH…")]
    """Images, videos, and folders, which are searched recursively."""
    out: Path = Path("predictions")
    """Folder for results. Videos are MPEG-4 part 2, which browsers do not show."""
    masks: Annotated[bool, shown_as("")] = False
    """Also write PNGs of train ids, in the classes' colors."""
    probabilities: Annotated[bool, shown_as("")] = False
    """Also write .npz files: float16, classes × height × width, and the classes' names."""
    no_overlays: Annotated[bool, shown_as("")] = False
    """Write no overlays."""
    overwrite: Annotated[bool, shown_as("")] = False
    """Replace existing results."""
    white: Annotated[int | None, shown_as("N")] = None
    """White of 16-bit images. Default: training's, else 65535."""
    alpha: Annotated[float, tyro.conf.arg(metavar="A")] = ALPHA
    """Weight of the colors in overlays, 0 to 1."""
    contours: Annotated[bool, shown_as("")] = False
    """Outline the classes in overlays."""
    no_legend: Annotated[bool, shown_as("")] = False
    """Do not name the classes in overlays."""
    tta: Annotated[bool, shown_as("")] = False
    """Average over six scales (0.5 to 1.75), mirrored too: better, for 17 times the work."""
    window: Annotated[tuple[int, int] | None, shown_as("H W")] = None
    """Size of sliding windows, averaged where they overlap."""
    tile: Annotated[int | None, shown_as("N")] = None
    """Cut larger pictures into overlapping tiles of N×N pixels. Default: those that need over 6 GiB."""
    batch: Annotated[int | None, shown_as("N")] = None
    """Pictures of one size at a time. Default: GPU 8, CPU 1."""
    threads: Annotated[int | None, shown_as("N")] = None
    """Threads that decode, and that write. Default: cores, 8 at most."""
    device: str = "auto"
    """auto (a GPU if any), cuda, cuda:1, … or cpu."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: the fastest that the hardware has."""
    quiet: Annotated[bool, shown_as("")] = False
    """Say nothing but what could not be predicted."""


def main() -> None:
    """Run the command ``fastseg-predict``."""
    run_command(_main)


def _main() -> None:
    options = parse(Options, overlay="alpha", accuracy="tta", speed="batch")
    for name in ("batch", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be 1 or more")
    if not options.paths:
        raise UserError("there is nothing to predict; name images, videos, or folders of them after the checkpoint")
    if options.no_overlays and not (options.masks or options.probabilities):
        raise UserError("--no-overlays leaves nothing to write; add --masks or --probabilities")
    if options.white is not None and not 1 <= options.white <= 65535:
        raise UserError(f"--white is {options.white}; it must be from 1 to 65535")
    if not 0 <= options.alpha <= 1:
        raise UserError(f"--alpha is {options.alpha}; it must be from 0 (the image alone) to 1 (the colors alone)")
    unwind_on_signals()  # no half a file is left
    console = Console(stderr=True, markup=False, highlight=False)

    def skip(sentence: str) -> None:
        console.print(f"skipped: {one_line(sentence)}", soft_wrap=True)

    predict(options, find_inputs(options.paths, options.out, skip), console)


def predict(options: Options, inputs: list[Input], console: Console) -> None:
    """Predict all ``inputs``; raise :class:`UserError` at the end if some of them could not be."""
    complaints: list[str] = []

    def complain(sentence: str) -> None:
        complaints.append(sentence)
        console.print(f"error: {one_line(sentence)}", soft_wrap=True)

    checkpoint = resolve_checkpoint(options.checkpoint, options.paths)
    outputs = Outputs(
        *(options.out, (), not options.no_overlays, options.masks, options.probabilities),
        *(options.alpha, not options.no_legend, options.contours),
    )
    videos = probe_videos(inputs, complain)
    files = _planned(options, outputs, [file for file in inputs if not file.is_video or file.path in videos], videos)
    # torch takes seconds to import: errors are found before.
    from fastseg.deploy.predict_files import Job, predict_images, predict_videos
    from fastseg.deploy.predictor import load
    from fastseg.parallel import cpu_threads

    predictor = load(
        checkpoint, options.device, options.precision, tta=options.tta, window=options.window, tile=options.tile
    )
    outputs = replace(outputs, classes=predictor.classes)
    images, clips = [file for file in files if not file.is_video], [file for file in files if file.is_video]
    batch = options.batch or (8 if predictor.device.type == "cuda" else 1)
    total, done = len(images) + sum(video.frames for video in videos.values()), 0
    with show_progress("predicting", "pictures") as show:

        def tell(more: int, fewer: int = 0) -> None:
            nonlocal done, total
            done, total = done + more, total - fewer
            if max(total, done):
                show(done, max(total, done))

        threads = options.threads or min(cpu_threads(1), 8)
        job = Job(predictor, outputs, batch, threads, tell, lambda fewer: tell(0, fewer), complain, options.white)
        tell(0)
        predict_images(job, images)
        predict_videos(job, clips, videos)
    if complaints:
        rest = f"; the others are in {options.out}" if len(complaints) < len(inputs) else ""
        raise UserError(f"{len(complaints)} of {len(inputs)} files could not be predicted, see above{rest}")
    counts = [f"{n} {kind}{'s' * (n > 1)}" for n, kind in ((len(images), "image"), (len(clips), "video")) if n]
    if not options.quiet:
        console.print(f"done: {' and '.join(counts)}, in {options.out}", soft_wrap=True)


def _planned(options: Options, outputs: Outputs, files: list[Input], videos: dict[Path, Video]) -> list[Input]:
    """Return the files with names whose results differ. Raises :class:`UserError` if these cannot be written."""
    check_writable(options.out, "--out")
    for kind in KINDS:
        if getattr(outputs, kind):
            check_writable(options.out / kind, "--out")
    files = disambiguate(outputs, files, videos)
    if not options.overwrite:
        check_absent(outputs, files, videos)
    return files


if __name__ == "__main__":
    main()
