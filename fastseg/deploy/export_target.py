"""Check an export's target and requirements before importing torch, which takes seconds."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fastseg.errors import UserError
from fastseg.files import check_writable_file

OURS = "library_name: fastseg"
"""Line that marks a README.md as written by fastseg."""


OPSET = 20
"""Default ONNX opset (2023): onnxruntime from 1.17 on reads it."""
OLDEST_OPSET = 18
"""Oldest one that torch's exporter writes."""
CARD = "huggingface_hub"
"""Package that writes the model card beside every format."""


class Kind(NamedTuple):
    """Properties of a format."""

    suffix: str
    needs: tuple[str, ...]
    """Required modules of the ``export`` extra."""


KINDS = {
    "onnx": Kind(".onnx", ("onnx", "onnxruntime", "onnxscript")),
    "torch-export": Kind(".pt2", ()),
    "safetensors": Kind(".safetensors", ()),
}


def check_installed(name: str) -> None:
    """Refuse a format whose libraries are not installed. Raises :class:`UserError`."""
    if missing := [module for module in (*KINDS[name].needs, CARD) if find_spec(module) is None]:
        raise UserError(
            f"--to {name} needs {' and '.join(missing)}; install what is missing with: "
            "pip install 'fastseg-deeplab[export]'"
        )


def check_opset(opset: int) -> None:
    """Refuse an ONNX opset that torch does not write or onnx does not know. Raises :class:`UserError`."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UserError(f"--opset is {opset}; it must be from {OLDEST_OPSET} to {newest}, with this version of onnx")


def target(checkpoint: Path, to: str, out: Path | None, overwrite: bool) -> Path:
    """Return the file to write. Raises :class:`UserError` if it or its card cannot be or must not be written."""
    suffix = KINDS[to].suffix
    path = out or checkpoint.with_name(f"{checkpoint.stem}-{to}") / f"{checkpoint.stem}{suffix}"
    if path.suffix != suffix:
        raise UserError(f"--out is {path}; a file of {to} ends in {suffix}")
    check_writable_file(path, "--out")
    card = path.with_name("README.md")
    for file in (path, card):
        if file.exists() and not overwrite:
            raise UserError(f"{file} exists; --overwrite replaces it, --out FILE writes elsewhere")
    if card.exists() and OURS not in card.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{card} is no model card of fastseg's and stays; give --out a file in another folder")
    return path
