"""Variants of fastseg to measure instead of peers, each with one change, made only in its entry's process.

``ablation`` removes an optimization, ``candidates`` adds one that has not been measured on a GPU, ``settings`` changes
a setting. Each has ``changes(request, stage)``: the part of a variant's name after "fastseg" → the factory of its
benchmark ("module:function") and the changes to its settings; empty if nothing can be changed.
"""

import importlib
from dataclasses import replace
from typing import Any

from bench.runner.runner import Entry
from bench.stages import Request

MODULES = {"ablate": "ablation", "candidates": "candidates", "settings": "settings"}
"""Flag of bench/throughput.py → module."""
Changes = dict[str, tuple[str, dict[str, Any]]]


def entries(flag: str, request: Request, stage: str) -> list[Entry]:
    """Return fastseg unchanged, then its variants; empty for a stage without variants."""
    changes: Changes = importlib.import_module(f"bench.variants.{MODULES[flag]}").changes(request, stage)
    if not changes:
        return []
    plain = _plain(request, stage)
    changed = [
        replace(plain, name=f"{plain.name}{name}", factory=factory, settings=plain.settings | settings)
        for name, (factory, settings) in changes.items()
    ]
    return [plain, *changed]


def _plain(request: Request, stage: str) -> Entry:
    """Return fastseg unchanged."""
    from bench.stages import compute, loader, scaling

    if stage == "loader":
        return loader.ours("fastseg", loader.settings_of(request) | loader.WAY[request.device])
    if stage == "compute":
        return compute.entries(replace(request, peers=()))[0]
    return scaling.entry(request, scaling.largest(request), "fastseg")
