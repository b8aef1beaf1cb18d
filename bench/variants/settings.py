"""fastseg with one setting changed at a time: the GPU decoder's options, threads and batches ahead (loader); images per
step (compute). The defaults are chosen by these measurements.

A crop's JPEG can be cut before it is decoded (the default), decoded in the crop's region, or decoded whole: only the
last occupies every unit of the GPU's JPEG engine, so the engine's share is swept for that too.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

from bench.stages import Request, compute
from bench.stages.loader import Batches, open_ours
from bench.variants import Changes
from bench.variants.loader_ablation import _whole_frames

THREADS = (1, 4, 8, 16)
PREFETCH = (1, 2, 3)
BATCHES = {"cuda": (4, 8, 16, 32), "cpu": (2, 4, 8)}
ENGINE = (0.0, 0.5, 0.8, 1.0)
"""Shares of a batch for the GPU's JPEG engine; DALI's default is 0.65."""
ENTIRE = {"codecs": "plain-tif", "whole": True}
"""JPEGs without restart markers, decoded whole before the window is taken."""


def changes(request: Request, stage: str) -> Changes:
    """Return the changes of settings for a stage; empty if there are none."""
    if stage == "loader":
        factory, found = f"{__name__}:open_changed", loader_changes(request)
    elif stage == "compute":
        sizes = [batch for batch in BATCHES[request.device] if batch != request.batch]
        factory, found = f"{compute.__name__}:open_ours", {f"batch {batch}": {"batch": batch} for batch in sizes}
    else:
        return {}
    return {f", {name}": (factory, settings) for name, settings in found.items()}


def loader_changes(request: Request) -> dict[str, dict[str, Any]]:
    """Return name → settings of :func:`open_changed` that apply to the device."""
    usual = signature(open_ours).parameters["prefetch"].default
    changes: dict[str, dict[str, Any]] = {
        "JPEGs not cut": {"codecs": "plain-tif"},
        "whole frames decoded": ENTIRE,
        **{f"{threads} threads": {"threads": threads} for threads in THREADS if threads < request.cores},
        **{f"{batches} batches ahead": {"prefetch": batches} for batches in PREFETCH if batches != usual},
    }
    if request.device != "cuda":
        return changes
    assert request.frames is not None
    height, width = request.frames.about["size"]
    decoder = {
        **{f"hw_decoder_load={share}": {"hw_decoder_load": share} for share in ENGINE},
        "hybrid_huffman_threshold=1": {"hybrid_huffman_threshold": 1},
        "memory for a frame allocated ahead": {"preallocate_width_hint": width, "preallocate_height_hint": height},
        # 4:4:4 has no chroma to interpolate, but a decoder might refuse to be asked for it.
        "jpeg_fancy_upsampling=False": {"jpeg_fancy_upsampling": False},
    }
    changes |= {name: {"decoder": told} for name, told in decoder.items()}
    for share in (0.0, 1.0):
        told = {"hw_decoder_load": share}
        changes[f"whole frames decoded, hw_decoder_load={share}"] = ENTIRE | {"decoder": told}
    return changes


def open_changed(decoder: dict[str, Any] | None = None, whole: bool = False, **settings: Any) -> Batches:
    """Build fastseg's batches; ``decoder``: arguments of DALI's "mixed" decoders; ``whole``: decode whole frames."""
    if decoder:
        _tell_decoder(decoder)
    if whole:
        _whole_frames()
    return open_ours(**settings)


def _tell_decoder(arguments: dict[str, Any]) -> None:
    """Pass arguments to the decoders of this process alone."""
    from fastseg.data import dali_graph

    usual: Callable[[str, str], dict[str, Any]] = dali_graph._decoder

    def told(device: str, codec: str) -> dict[str, Any]:
        given = usual(device, codec)
        return given | arguments if given["device"] == "mixed" else given

    dali_graph._decoder = told
