"""Settings of an evaluation, made a command line by tyro."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastseg.config import Arch
from fastseg.errors import UserError
from fastseg.files import check_writable, check_writable_file
from fastseg.helpgroups import grouped
from fastseg.helptext import shown_as
from fastseg.torchfile import check_checkpoint


@grouped(accuracy="tta", result="save_predictions", speed="batch", damage="verify_shards")
@dataclass(frozen=True)
class Options:
    """Per-class IoU on whole frames; of two models, what differs and what is noise.

    Example: fastseg-eval runs/cityscapes/checkpoints/best.pt --tta --report runs/best_val
    """

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional, shown_as("CKPT")]
    """Checkpoint (averaged weights, if any), or two to compare."""
    baseline: Annotated[Literal["coco"] | None, shown_as("coco")] = None
    """Compare with torchvision's network as it comes."""
    arch: Annotated[Arch | None, shown_as("NAME")] = None
    """Of the baseline. Default: the checkpoint's, or a ResNet-50."""
    shards: Annotated[str | None, shown_as("DIR")] = None
    """Packed set (s3://, too). Default: what it was trained on."""
    split: str = "val"
    """Split to score; one without masks is only predicted."""
    max_images: Annotated[int | None, shown_as("N")] = None
    """Only the first so many frames."""
    tta: Annotated[bool, tyro.conf.FlagCreatePairsOff, shown_as("")] = False
    """Average over 6 scales from 0.5 to 1.75, each also mirrored: 17 times the work."""
    window: Annotated[tuple[int, int] | None, shown_as("H W")] = None
    """Look through sliding windows, which overlap by a third."""
    save_predictions: Annotated[Path | None, shown_as("DIR")] = None
    """Write PNGs as the Cityscapes server wants them; of a test split a zip, too."""
    official: Annotated[Path | None, shown_as("DIR")] = None
    """Also run cityscapesscripts; DIR holds gtFine/ or its zip."""
    report: Annotated[Path | None, shown_as("DIR")] = None
    """Write report.html there: scores, confusions, worst frames."""
    json: Annotated[Path | None, shown_as("FILE")] = None
    """Write scores and confusion matrix to this file."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff, shown_as("")] = False
    """Replace that file, and files in those folders."""
    batch: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Whole frames per GPU and step."""
    gpus: Annotated[int | None, shown_as("N")] = None
    """Processes, one per GPU or CPU share. Default: all GPUs."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPUs if there are any."""
    decoder: Literal["auto", "gpu", "cpu"] = "auto"
    """Who decodes JPEGs on a GPU's machine."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: the fastest that the hardware has."""
    verify_shards: Annotated[bool, tyro.conf.FlagConversionOff] = False
    """First compare files with their SHA-256."""
    max_bad_samples: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Damaged frames that may be left out."""

    @property
    def alone(self) -> bool:
        """Whether one checkpoint is evaluated, with nothing beside it."""
        return len(self.checkpoints) == 1 and not self.baseline


def check(options: Options) -> None:
    """Refuse what goes not together, and numbers that make no sense."""
    models = len(options.checkpoints) + bool(options.baseline)
    if not models:
        raise UserError("no checkpoint is named; fastseg-eval takes one, or two to compare: fastseg-eval CKPT")
    if models > 2:
        raise UserError(f"{models} models are named, the baseline included; fastseg-eval compares two")
    if options.arch and not options.baseline:
        raise UserError(f"--arch {options.arch} is of the baseline; add --baseline coco, or leave it out")
    if options.baseline and not options.checkpoints and not options.shards:
        raise UserError("the baseline alone knows no set of its own; name one with --shards DIR")
    for flag in ("save_predictions", "official", "report"):
        if not options.alone and getattr(options, flag):
            name = flag.replace("_", "-")
            raise UserError(f"--{name} goes with one checkpoint alone; leave it out, or the other model")
    for name, least in (("batch", 1), ("max_bad_samples", 0), ("max_images", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be {least} or more")


def check_files(options: Options) -> None:
    """Refuse files that are no checkpoints, and to write over what is there or where nothing can be written."""
    for i, path in enumerate(options.checkpoints):
        check_checkpoint(path, options.checkpoints[i + 1 :])
    if options.save_predictions:
        _check_folder(options.save_predictions, "--save-predictions", options.overwrite)
    if options.report and (options.report / "checkpoints").exists():
        raise UserError(
            f"--report is {options.report}, the folder of a run, whose records it would replace; name another"
        )
    if options.report:
        _check_folder(options.report, "--report", options.overwrite)
    if options.json:
        check_writable_file(options.json, "--json")
        if options.json.exists() and not options.overwrite:
            raise UserError(f"{options.json} exists; name another --json or add --overwrite")


def _check_folder(folder: Path, flag: str, overwrite: bool) -> None:
    """Refuse a folder with files in it unless ``overwrite``; ``flag`` is the one that named it."""
    check_writable(folder, flag)
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if found and not overwrite:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise UserError(f"{folder} holds files already ({found[0]}{more}); name another {flag} or add --overwrite")
