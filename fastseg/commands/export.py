"""Export a checkpoint's network: ``fastseg-export ckpt.pt --to onnx``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from fastseg.cli_help import parse, shown_as
from fastseg.deploy.export_target import check_installed, target
from fastseg.errors import UserError, one_line, run_command
from fastseg.files import atomic_path, write_atomic
from fastseg.model.checkpoint_file import check_checkpoint

if TYPE_CHECKING:
    from fastseg.deploy.model_card import Description


@dataclass(frozen=True)
class Options:
    """Export a network with normalization and upsampling, for images of any size, and check the file.

    Example: fastseg-export runs/cityscapes/checkpoints/best.pt --to onnx
    """

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT")]
    """Checkpoint of a training run. Averaged weights are used if it has them."""
    to: Literal["onnx", "torch-export", "safetensors"]
    """onnx and torch-export: bytes N×H×W×3 to class ids and logits; safetensors: the weights, for torchvision."""
    out: Annotated[Path | None, shown_as("FILE")] = None
    """File to write, its model card beside it. Default: CKPT-FORMAT/CKPT.SUFFIX beside the checkpoint."""
    overwrite: bool = False
    """Replace what an earlier export wrote."""
    images: Annotated[tuple[Path, ...], shown_as("PATH")] = ()
    """Images to compare file and checkpoint on. Default: from the checkpoint's shards, or noise without them."""
    license: str = "unknown"
    """License for the model card, by the Hugging Face hub's names: apache-2.0, cc-by-nc-4.0, …"""
    quiet: bool = False
    """Say nothing but errors."""


def main() -> None:
    """Run the command ``fastseg-export``."""
    run_command(_main)


def _main() -> None:
    options = parse(Options, check="images", card="license")
    export(options, Console(markup=False, highlight=False, soft_wrap=True, quiet=options.quiet))


def export(options: Options, console: Console) -> Path:
    """Write the file, read it back, compare, and only then give it its name; return that."""
    check_checkpoint(options.checkpoint)
    check_installed(options.to)
    out = target(options.checkpoint, options.to, options.out, options.overwrite)
    if missing := [path for path in options.images if not path.is_file()]:
        raise UserError(f"--images names {missing[0]}, which is no file; name images")
    # torch takes seconds to import: errors are found before.
    from fastseg.deploy.export_formats import FORMATS, check_parity, comparison_images
    from fastseg.deploy.model_card import INPUT, OUTPUTS, WEIGHTS, describe, model_card
    from fastseg.model import checkpoint
    from fastseg.model.network import restore_model

    saved, format = checkpoint.load(options.checkpoint), FORMATS[options.to]
    about, model = describe(saved, options.checkpoint), restore_model(saved)
    if options.to == "safetensors" and model.stretch_to:
        raise UserError(
            f"{options.checkpoint} was trained on stretched frames (--data.resize stretch), which weights alone do not "
            "tell torchvision; use --to onnx or torch-export, which stretch frames themselves"
        )
    batches, source = comparison_images(options.images, saved["shards"])
    contract = WEIGHTS if options.to == "safetensors" else f"{INPUT}; {OUTPUTS}"
    with atomic_path(out) as temporary:
        console.print(f"writing {one_line(str(out))}")
        format.write(model, temporary, about.metadata(contract))
        differences = check_parity(model, format.read(temporary), batches, str(out))
    card = model_card(about, out, options.to, differences, source, options.license)
    write_atomic(out.with_name("README.md"), card)
    for difference in differences:
        console.print(f"compared on {one_line(source)}, {difference.describe()}")
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    console.print(f"{one_line(str(out))}: {size}, {_summary(about)}; README.md is its model card")
    return out


def _summary(about: "Description") -> str:
    score = "not evaluated" if about.score is None else f"{100 * about.score:.2f} % mIoU"
    return f"{about.arch}, {len(about.classes)} classes, step {about.step}, {score}"


if __name__ == "__main__":
    main()
