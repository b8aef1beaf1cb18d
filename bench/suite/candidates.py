"""Ours with exactly one candidate optimization added, to see what each one would buy: the counterpart of ablation.

``FASTSEG_CANDIDATES=NAME`` measures only that one, ``FASTSEG_CANDIDATES=-NAME`` all others: bench/gpu.sh measures apart
what takes minutes to compile, since a contest begins when all are compiled.
"""

import os
from dataclasses import replace
from typing import Any

from bench import candidates
from bench.suite.contest import Contestant
from bench.suite.request import Request
from bench.suite.stages import compute, scaling
from bench.suite.stages.compute import Ours, alone, set_backends
from bench.suite.stages.scaling import RankedSteps
from bench.suite.steps import Steps, recipe


def contestants(request: Request, stage: str) -> list[Contestant]:
    """Ours as it is, then with one candidate after the other; none where no candidate changes anything."""
    if stage == "compute":
        plain = compute.contestants(replace(request, peers=()))
        factory = f"{__name__}:open_changed"
    elif stage == "scaling" and (ranks := scaling.largest(request)) > 1:
        plain = [scaling.contestant(request, ranks, "fastseg")]
        factory = f"{__name__}:open_ranked"
    else:
        return []
    changed = [
        replace(plain[0], name=f"fastseg with {name}", factory=factory, settings=plain[0].settings | {"added": name})
        for name in candidates.fitting(request, stage)
        if _asked_for(name)
    ]
    return plain + changed if changed else []


def _asked_for(name: str) -> bool:
    chosen = os.environ.get("FASTSEG_CANDIDATES", "")
    return name != chosen[1:] if chosen.startswith("-") else chosen in ("", name)


def open_changed(device: str, arch: str, crop: list[int], batch: int, precision: str, added: str) -> Steps:
    """The step of the compute stage with one candidate."""
    set_backends()
    ours = Ours(recipe(arch, crop, batch, precision), alone(device))
    candidates.change(added)(ours)
    return ours.steps()


def open_ranked(added: str, **settings: Any) -> RankedSteps:
    """The step of the scaling stage with one candidate."""
    made = scaling.open_ranks(**settings)
    candidates.change(added)(made.ours)
    return made
