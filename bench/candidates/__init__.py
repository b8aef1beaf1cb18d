"""Optimizations of the compute side that nobody has measured on a GPU: each predicted, proven equal, ready to be tried.

``python bench/throughput.py --candidates --stages compute`` measures ours beside ours with each of them. One that pays
moves into fastseg and leaves this folder; one that does not leaves it too, and its figure goes into the list below.

A candidate ``bench/candidates/NAME.py`` has

- a docstring: what it does, the prediction with its arithmetic (one H100, crops of 768², batch 8, bf16), the source;
- ``STAGE``, compute or scaling;
- ``fits(request) -> bool``: whether it changes anything on that device and network;
- ``VARIANTS``: name, as the tables show it after "fastseg with" → function that gets the built step
  (:class:`bench.suite.stages.compute.Ours`) before its first batch and changes the objects of this process.

Names with an underscore belong to another candidate. The predictions set out from 18.7 TFLOP a step (8 × 2.336), which
take 38 ms at half of the datasheet's 989 TFLOP/s, and from 3.35 TB/s of memory.

Left out, by arithmetic:

- FP8 convolutions: torch has products in FP8 (``torch._scaled_mm``) but no convolution, and nine products for every
  3×3 convolution move more bytes than the arithmetic saves.
- ASPP as one small product per tap and useful rectangle: 27 products of 256 columns do 170 operations a byte, where
  the H100 needs 295 to keep busy; the 29 % of taps that read padding are paid for twice.
- ASPP's single product without the rows that a tap drops: 16 % of 9.6 ms are saved, and 1.9 ms lost to seven
  gradients of its input that have to be added up.
- CUDA graphs around the optimizer too: its fused update is a handful of launches, far behind the device already.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.suite.request import Request
    from bench.suite.stages.compute import Ours


def modules() -> list[ModuleType]:
    """All candidates, by their files."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]


def fitting(request: "Request", stage: str) -> list[str]:
    """Names of the variants that change something in ``stage`` there."""
    return [name for module in modules() if stage == module.STAGE and module.fits(request) for name in module.VARIANTS]


def change(name: str) -> "Callable[[Ours], None]":
    """What the variant of that name does to a step."""
    return {key: apply for module in modules() for key, apply in module.VARIANTS.items()}[name]
