"""Weights in a .safetensors file, with all that the network needs beside them as its metadata."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fastseg.errors import UserError

EXPORT = "fastseg-export 2"
"""Version of the metadata (:meth:`fastseg.deploy.model_card.Description.metadata`)."""


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read what ``fastseg-export --to safetensors`` wrote, as the fields of a checkpoint, not yet checked.

    The format holds neither code nor anything compressed. Raises :class:`UserError` for other files.
    """
    try:
        with safe_open(path, "pt") as file:
            said, state = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no file of safetensors, or damaged ({error}); get it again") from None
    if said.get("format") != EXPORT:
        raise UserError(
            f"{path} has no metadata of fastseg's, so that its classes and its normalization are unknown; name what "
            "fastseg-export --to safetensors wrote"
        )
    try:
        return _document(said, state)
    except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); get it again") from None


def _document(said: dict[str, str], state: dict[str, Any]) -> dict[str, Any]:
    recipe, score, step = json.loads(said["recipe"]), json.loads(said["score"]), int(said["step"])
    name, _, digest = said["dataset"].removesuffix(")").rpartition(" (")
    return {
        "step": step,
        "arch": said["arch"],
        "model": state,
        "ema": state if said["weights"] == "ema" else None,
        "mean": [float(value) for value in said["mean"].split()],
        "std": [float(value) for value in said["std"].split()],
        "stretch_to": None,  # such networks are not exported as weights alone
        "classes": json.loads(said["classes"]),
        "shards": "",  # a folder of the machine that trained it
        "epoch": float(said["epochs"]),
        "config": {"name": said["name"], **recipe},
        "dataset": {"name": name, "digest": digest, **({"white": int(said["white"])} if "white" in said else {})},
        "versions": {"fastseg-deeplab": said["fastseg"]},
        "score": {"miou": score["mIoU"], "images": score["images"]} if score else None,
    }
