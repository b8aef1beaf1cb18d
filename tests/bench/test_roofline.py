"""The recipes' steps, lowered for GPUs that are not here: one graph, in the right memory orders, and no larger.

The figures below are what the step took when they were last looked at, and a little more. Where one falls, lower it;
where it grows, say why beside the change. What a GPU makes of the kernels nobody has measured.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.absent_gpu import GPUS
from bench.lowering import Kernel
from bench.roofline import category, correct_gathers, seconds

ROOT = Path(__file__).parents[2]


class Limits(NamedTuple):
    """The most that a step may take."""

    kernels: int
    gigabytes: float
    saved_gigabytes: float
    slow_convolutions: int
    """The heads' last convolutions, to as many channels as there are classes, forwards or backwards."""
    atomics: int
    """All of them in the backward pass of ASPP's pooled value, which is upsampled from one pixel."""


LIMITS = {
    "cityscapes": Limits(850, 99.5, 9.7, 2, 95_000_000),
    "demo": Limits(490, 1.58, 0.115, 2, 7_600_000),
}
"""One recipe of each network. Found with torch 2.14.1 and Triton 3.8.0: 837 and 476 kernels, 98.6 and 1.55 GB, 9.59 and
0.111 GB saved. Before batches were no longer counted and logits upsampled by products, cityscapes took 904, 101.0 and
10.1."""


def lower(recipe: str, gpu: str, folder: Path) -> dict:
    """What bench/roofline.py says, in a process of its own: it replaces parts of torch."""
    path = folder / "figures.json"
    command = [sys.executable, "bench/roofline.py", "--recipe", recipe, "--gpu", gpu, "--json", str(path), "--cubins"]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder / "triton"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False, env=environment)
    if "is unlike the one that bench/roofline.py knows" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr[-3000:]
    assert "a prediction, not a measurement" in done.stdout
    return json.loads(path.read_text())["figures"]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "gpu"), [("cityscapes", "H200"), ("cityscapes", "A100"), ("demo", "H200")])
def test_a_recipes_step_takes_no_more_than_it_did(recipe: str, gpu: str, tmp_path: Path) -> None:
    figures, limits = lower(recipe, gpu, tmp_path), LIMITS[recipe]
    assert figures["graphs"] == 2  # of the forward pass and of the backward pass, each in one piece
    assert figures["misordered_gradients"] == []
    assert len(figures["slow_convolutions"]) <= limits.slow_convolutions, figures["slow_convolutions"]
    for name in ("kernels", "gigabytes", "saved_gigabytes", "atomics"):
        assert figures[name] <= getattr(limits, name), name
    assert figures["triton_kernels"] > 50
    assert figures["failed_cubins"] == []


def test_a_step_that_is_not_compiled_is_refused() -> None:
    command = [sys.executable, "bench/roofline.py", "--recipe", "notebook"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --recipe is notebook, whose step is not compiled; take another\n",
    )


def test_a_kernel_takes_the_longer_of_its_parts() -> None:
    gpu = GPUS["H200"]._replace(bandwidth=1e12, rate=1e14)
    assert seconds(Kernel("forward", ["copy"], reads=3 * 10**9, writes=10**9), gpu) == pytest.approx(4e-3)
    assert seconds(Kernel("forward", ["tiny"], reads=8), gpu) == pytest.approx(2.5e-6)
    assert seconds(Kernel("backward", ["scatter"], reads=8, atomics=6 * 10**9), gpu) == pytest.approx(1e-2)
    both = {"dgrad": (10**12, 10**6), "wgrad": (10**6, 5 * 10**9)}
    assert seconds(Kernel("backward", ["convolution"], calls=both), gpu) == pytest.approx(1e-2 + 5e-3)


def test_kernels_are_told_apart_by_their_names() -> None:
    def named(*names: str, way: str = "forward", operators: tuple[str, ...] = ("aten.add",)) -> str:
        return category(Kernel(way, list(names), operators=list(operators)))

    assert named("triton_poi_fused__native_batch_norm_legit_functional_relu_3") == "batch norm, forward: values"
    assert named("triton_red_fused__native_batch_norm_legit_functional_3") == "batch norm, forward: statistics"
    assert named("triton_red_fused_native_batch_norm_backward_3", way="backward") == "batch norm, backward: sums"
    assert named("triton_per_fused__log_softmax_nll_loss2d_forward_7") == "loss, forward"
    assert named("triton_poi_fused__to_copy_1", operators=("prims.convert_element_type",)).startswith("casts")
    product = Kernel("backward", ["aten.mm.out"], calls={"product": (1, 1)})
    assert category(product) == "matrix product, backward"


def test_a_gather_reads_one_class() -> None:
    large = Kernel("forward", ["triton_red_fused_nll_loss2d_forward_1"], reads=19 * 10**8)
    small = Kernel("forward", ["triton_red_fused_nll_loss2d_forward_2"], reads=19)
    correct_gathers([large, small], 19)
    assert (large.reads, small.reads) == (10**8, 19)
