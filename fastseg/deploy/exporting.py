"""Export a trained network: what ``fastseg-export`` and :func:`fastseg.export` do."""

import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from fastseg import hub
from fastseg.arguments import naming_arguments
from fastseg.cli_help import shown_as
from fastseg.deploy.export_target import KINDS, OPSET, check_installed, check_opset, target
from fastseg.errors import UserError, one_line
from fastseg.files import atomic_path, write_atomic
from fastseg.model.checkpoint_file import resolve_checkpoint

if TYPE_CHECKING:
    from fastseg.deploy.model_card import Description


@dataclass(frozen=True)
class Options:
    """Export a network with normalization and upsampling, for images of any size, and check the file.

    Example: fastseg-export runs/cityscapes --to onnx
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, checkpoint, .safetensors or hf://USER/NAME. Averaged weights are used if it has them."""
    to: Annotated[Literal["onnx", "torch-export", "safetensors"] | None, shown_as("FORMAT")] = None
    """onnx and torch-export: bytes N×H×W×3 to class ids and logits; safetensors: the weights, for torchvision."""
    out: Annotated[Path | None, shown_as("FILE")] = None
    """File to write, its model card beside it. Default: CKPT-FORMAT/CKPT.SUFFIX beside the checkpoint."""
    overwrite: bool = False
    """Replace what an earlier export wrote."""
    half: bool = False
    """Weights in float16, half as large; images are normalized and logits upsampled in float32."""
    opset: Annotated[int | None, shown_as("N")] = None
    """ONNX opset. Default: 20."""
    push: Annotated[str | None, shown_as("USER/NAME")] = None
    """Also put the weights (safetensors) and their card on the Hugging Face Hub; a new repository is private."""
    images: Annotated[tuple[Path, ...], shown_as("PATH")] = ()
    """Images to compare file and checkpoint on. Default: from the checkpoint's shards, or noise without them."""
    license: str = "unknown"
    """License for the model card, by the Hugging Face hub's names: apache-2.0, cc-by-nc-4.0, …"""
    json: bool = False
    """Print the file and how far it is from the checkpoint as JSON."""
    quiet: bool = False
    """Say nothing but errors."""


def export(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    to: Literal["onnx", "torch-export", "safetensors"] | None = None,
    half: bool = False,
    opset: int | None = None,
    push: str | None = None,
    images: Sequence[str | os.PathLike[str]] = (),
    license: str = "unknown",
    overwrite: bool = False,
) -> Path:
    """Export a trained network, compare the file with it, and return its path; a model card lies beside it.

    ``checkpoint``: whatever :func:`fastseg.load` takes. ``to``: default: by the suffix of ``out``. The others are the
    flags of ``fastseg-export``. Raises :class:`fastseg.UserError` if the file cannot be written or differs.
    """
    file = None if out is None else Path(out)
    suffixes = {kind.suffix: name for name, kind in KINDS.items()}
    with naming_arguments():
        chosen: Any = to or (suffixes.get(file.suffix) if file else None)
        options = Options(
            *(os.fspath(checkpoint), chosen, file, overwrite, half, opset, push, tuple(map(Path, images)), license)
        )
        return write_export(options, Console(markup=False, highlight=False, soft_wrap=True))


def write_export(options: Options, console: Console, tell: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Write the file, read it back, compare, and only then give it its name; return that.

    ``tell``: takes what ``--json`` prints.
    """
    path, to = resolve_checkpoint(options.checkpoint), check_format(options)
    check_installed(to)
    if options.opset is not None:
        check_opset(options.opset)
    # What comes from the Hub or with fastseg lies in no folder of the user's.
    beside = path if Path(options.checkpoint).exists() else Path(options.checkpoint.partition("@")[0]).name
    out = target(Path(beside), to, options.out, options.overwrite)
    if missing := [image for image in options.images if not image.is_file()]:
        raise UserError(f"--images names {missing[0]}, which is no file; name images")
    # torch takes seconds to import: errors are found before.
    from fastseg.deploy.export_formats import FORMATS, HALF_TOLERANCE, TOLERANCE, check_parity, comparison_images
    from fastseg.deploy.model_card import INPUT, OUTPUTS, WEIGHTS, describe, model_card
    from fastseg.model import checkpoint
    from fastseg.model.network import restore_model

    saved, format = checkpoint.load(path), FORMATS[to]
    about, model = describe(saved, path), restore_model(saved)
    if to == "safetensors" and model.stretch_to:
        raise UserError(
            f"{path} was trained on stretched frames (--data.resize stretch), which weights alone do not "
            "tell torchvision; use --to onnx, which stretches frames itself"
        )
    batches, source = comparison_images(options.images, saved["shards"])
    contract, exported = WEIGHTS if to == "safetensors" else f"{INPUT}; {OUTPUTS}", deepcopy(model)
    with atomic_path(out) as temporary:
        console.print(f"writing {one_line(str(out))}")
        format.write(
            exported.half() if options.half else exported, temporary, about.metadata(contract), options.opset or OPSET
        )
        tolerance = HALF_TOLERANCE if options.half else TOLERANCE
        differences = check_parity(model, format.read(temporary), batches, str(out), tolerance)
    card = model_card(about, out, to, differences, source, options.license)
    write_atomic(out.with_name("README.md"), card)
    for difference in differences:
        console.print(f"compared on {one_line(source)}, {difference.describe()}")
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    console.print(f"{one_line(str(out))}: {size}, {_summary(about)}; README.md is its model card")
    page = None
    if options.push:
        card = model_card(about, Path(hub.WEIGHTS), to, differences, source, options.license, options.push)
        page = hub.push(options.push, {hub.WEIGHTS: out, "README.md": card.encode()})
        console.print(f"pushed to {page}")
    if tell:
        compared = {"compared_on": source, "differences": [difference._asdict() for difference in differences]}
        tell({"file": str(out), "bytes": out.stat().st_size, "pushed": page, **compared})
    return out


def check_format(options: Options) -> str:
    """Return the format to write. Raises :class:`UserError` for flags that do not go together."""
    if options.push:
        hub.parse_address(options.push)
        hub.check_installed()
        if options.to not in (None, "safetensors"):
            raise UserError(f"--push puts safetensors on the Hub, not {options.to}; leave one of the two out")
        return "safetensors"
    if options.to is None:
        raise UserError("no format is named; add --to onnx, torch-export or safetensors, or --push USER/NAME")
    if options.opset is not None and options.to != "onnx":
        raise UserError(f"--opset {options.opset} is for --to onnx; leave it out")
    return options.to


def _summary(about: "Description") -> str:
    score = "not evaluated" if about.score is None else f"{100 * about.score:.2f} % mIoU"
    return f"{about.arch}, {len(about.classes)} classes, step {about.step}, {score}"
