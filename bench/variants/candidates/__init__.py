"""Optimizations of the training step not yet measured on a GPU: each predicted, proven equal, ready to be tried.

``python bench/throughput.py --candidates --stages compute`` measures fastseg without and with each of them; with
``FASTSEG_CANDIDATES=NAME`` only that one, with ``FASTSEG_CANDIDATES=-NAME`` all others: bench/gpu.sh measures those
that take minutes to compile separately, since the runner begins when all are compiled. One that pays moves into
fastseg; one that does not is removed, and its figure goes into the list below.

The docstring of its module tells what each does, its prediction with the arithmetic (one H100, crops of 768², batch 8,
bf16), and the source. The predictions assume 18.7 TFLOP a step (8 × 2.336), which take 38 ms at half of the datasheet's
989 TFLOP/s, and 3.35 TB/s of memory bandwidth.

Left out, by arithmetic:

- FP8 convolutions: torch has products in FP8 (``torch._scaled_mm``) but no convolution, and nine products for every
  3×3 convolution move more bytes than the arithmetic saves.
- ASPP as one small product per tap and useful rectangle: 27 products of 256 columns do 170 operations a byte, where
  the H100 needs 295 to keep busy; the 29 % of taps that read padding are paid for twice.
- ASPP's single product without the rows that a tap drops: 16 % of 9.6 ms are saved, and 1.9 ms lost to seven
  gradients of its input that have to be added up.
- CUDA graphs around the optimizer too: its fused update is a handful of launches, far behind the device already.
- Fewer, larger messages between ranks than DDP's of 25 MB: only the last one shows, and a larger one shows longer.
- The loss in one Triton kernel, or in chunks of rows that stay in the cache (1.06× on a CPU, see
  bench/results/candidates-cpu-compute.json): since logits are upsampled by products, bench/roofline.py gives loss,
  upsampling and their gradients 0.75 of 46 ms on an H200. A kernel would save a half of that, less than a run can tell.
- ASPP without the taps that read padding at every pixel: 1.11× on a CPU at 256², but at 768² there are none, and its
  single product leaves them out, too.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.stages import Request, scaling
from bench.stages.compute import Ours, alone, set_backends
from bench.stages.scaling import RankedSteps
from bench.stages.steps import Steps, recipe
from bench.variants import Changes
from bench.variants.candidates import compile_modes, gradient_exchange, space_to_batch, wide_aspp


class Candidate(NamedTuple):
    """An optimization to try."""

    stage: str
    """Stage: compute or scaling."""
    apply: Callable[[Ours], None]
    """Changes a built step, before its first batch, and the objects of this process."""
    fits: Callable[[Request], bool] = lambda _: True
    """Whether it changes anything on that device and network."""


CANDIDATES = {
    "ASPP as one product": Candidate("compute", wide_aspp.apply),
    "dilation by folding": Candidate("compute", space_to_batch.apply, space_to_batch.fits),
    "CUDA graphs": Candidate("compute", compile_modes.replay, compile_modes.fits),
    "max-autotune": Candidate("compute", compile_modes.autotune, compile_modes.fits),
    "bf16 gradients": Candidate("scaling", gradient_exchange.compress),
}
"""Name, as the tables show it after "fastseg with" → candidate."""


def fitting(request: Request, stage: str) -> list[str]:
    """Return the names of the candidates that apply to ``stage`` of this request."""
    return [name for name, candidate in CANDIDATES.items() if stage == candidate.stage and candidate.fits(request)]


def changes(request: Request, stage: str) -> Changes:
    """Return the requested candidates that change something in a stage."""
    chosen = os.environ.get("FASTSEG_CANDIDATES", "")
    asked = [n for n in fitting(request, stage) if (n != chosen[1:] if chosen.startswith("-") else chosen in ("", n))]
    factory = f"{__name__}:{'open_changed' if stage == 'compute' else 'open_ranked'}"
    many = stage != "scaling" or scaling.largest(request) > 1
    return {f" with {name}": (factory, {"added": name}) for name in asked if many}


def open_changed(device: str, arch: str, crop: list[int], batch: int, precision: str, added: str) -> Steps:
    """Build the step of the compute stage with one candidate."""
    set_backends()
    ours = Ours(recipe(arch, crop, batch, precision), alone(device))
    CANDIDATES[added].apply(ours)
    return ours.steps()


def open_ranked(added: str, **settings: Any) -> RankedSteps:
    """Build the step of the scaling stage with one candidate."""
    made = scaling.open_ranks(**settings)
    CANDIDATES[added].apply(made.ours)
    return made
