"""Candidate losses compute what the plain loss computes, values and gradients, and do what they are for."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.variants.candidates import chunked_loss, fused_loss
from fastseg.labels import IGNORE
from fastseg.model import loss as plain_loss
from fastseg.model.network import Logits

ROOT = Path(__file__).parents[2]
SHAPES = [(2, 19, 6, 8, 48, 64), (1, 5, 3, 4, 24, 32), (2, 3, 5, 7, 33, 50), (1, 4, 1, 1, 9, 5), (3, 2, 9, 8, 9, 8)]
"""N, C, h, w, H, W: strides whole, broken, a single logit, none."""


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def batch(shape: tuple[int, ...], random: torch.Generator) -> tuple[Logits, Tensor]:
    """Logits of both heads, and labels of which a third is ignored."""
    n, c, h, w, height, width = shape
    out, aux = (torch.randn(n, c, h, w, generator=random).mul(3).requires_grad_() for _ in range(2))
    label = torch.randint(0, c, (n, height, width), dtype=torch.uint8, generator=random)
    label[torch.rand(n, height, width, generator=random) < 0.3] = IGNORE
    return Logits(out, aux), label


def numbers_and_gradients(loss: Callable[..., Tensor], logits: Logits, label: Tensor) -> tuple[Tensor, ...]:
    numbers = loss(logits, label)
    assert logits.aux is not None
    weighed = numbers[0] / numbers[1] + 0.4 * numbers[2] / numbers[3]
    return numbers.detach(), *torch.autograd.grad(weighed, (logits.out, logits.aux))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("elements", [1, 2**9, 2**20], ids="chunks of {}".format)
def test_loss_in_chunks(
    shape: tuple[int, ...],
    elements: int,
    random: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks of a row, of a few, of all; float32, to a relative 1e-5."""
    monkeypatch.setitem(chunked_loss.ELEMENTS, "cpu", elements)
    logits, label = batch(shape, random)
    expected, found = (
        numbers_and_gradients(module.segmentation_loss, logits, label) for module in (plain_loss, chunked_loss)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_in_chunks_in_double_precision(shape: tuple[int, ...], random: torch.Generator) -> None:
    logits, label = batch(shape, random)
    small = logits.out.detach().double().requires_grad_()
    full = F.interpolate(small, size=shape[4:], mode="bilinear", align_corners=False)
    expected = F.cross_entropy(full, label.long(), ignore_index=IGNORE, reduction="sum")
    found, gradient = chunked_loss.sum_and_gradient(small.detach(), label)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, small)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("small", "large"), [(6, 48), (5, 33), (1, 7), (8, 8), (7, 3)])
def test_upsampling_has_torchs_weights(small: int, large: int, random: torch.Generator) -> None:
    values = torch.randint(-8, 8, (1, 1, small, 1), generator=random).double()  # sums of which are exact
    expected = F.interpolate(values, size=(large, 1), mode="bilinear", align_corners=False)
    weights = chunked_loss.upsampling(small, large, values)
    torch.testing.assert_close(weights @ values[0, 0], expected[0, 0], rtol=0, atol=1e-14)
    assert torch.equal(weights.sum(1), torch.ones(large).double())


class Largest(TorchDispatchMode):
    """The most elements of a floating tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **kwargs or {})
        for found in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(found, Tensor) and found.is_floating_point():
                self.elements = max(self.elements, found.numel())
        return result


def test_full_size_logits_never_exist(random: torch.Generator) -> None:
    shape = (2, 19, 16, 16, 256, 256)
    logits, label = batch(shape, random)
    largest = {}
    for module in (plain_loss, chunked_loss):
        with Largest() as mode:
            numbers_and_gradients(module.segmentation_loss, logits, label)
        largest[module] = mode.elements
    full = 2 * 19 * 256 * 256
    assert largest[plain_loss] >= full
    assert largest[chunked_loss] <= max(chunked_loss.ELEMENTS["cpu"], full // 16)


def test_loss_in_chunks_can_be_compiled(random: torch.Generator) -> None:
    """In one graph, forward and backward, under autocast."""
    logits, label = batch((2, 5, 4, 4, 32, 32), random)
    low = Logits(logits.out.bfloat16(), None)
    torch.compiler.reset()
    compiled = torch.compile(chunked_loss.segmentation_loss, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = (loss(low, label) for loss in (plain_loss.segmentation_loss, compiled))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(numbers[0], logits.out)[0] for numbers in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=2**-8, atol=1e-3)


def test_an_all_void_batch_has_no_loss(random: torch.Generator) -> None:
    logits, label = batch(SHAPES[0], random)
    numbers = chunked_loss.segmentation_loss(logits, torch.full_like(label, IGNORE))
    assert numbers.tolist() == [0, 0, 0, 0]
    numbers.sum().backward()
    assert logits.out.grad is not None
    assert logits.out.grad.abs().sum() == 0


def test_loss_in_one_kernel_falls_back(random: torch.Generator) -> None:
    """To chunks, where strides are broken; the kernel itself could not run here."""
    logits, label = batch(SHAPES[2], random)
    found = fused_loss.segmentation_loss(logits, label)
    torch.testing.assert_close(found, plain_loss.segmentation_loss(logits, label), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_loss_in_one_kernel() -> None:
    """In a process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_the_kernel() -> None:
    """What the test above runs: float32, to a relative 1e-5; strides even, odd and none; what compilers rely on."""
    from bench.variants.candidates._cells import upsampled_cross_entropy

    random = torch.Generator().manual_seed(0)
    shapes = [(2, 19, 2, 3, 16, 24), (1, 5, 2, 3, 6, 9), (2, 3, 1, 3, 4, 12), (1, 2, 3, 3, 3, 3), (1, 4, 1, 2, 16, 32)]
    for shape in shapes:
        logits, label = batch(shape, random)
        permuted = Logits(logits.out.contiguous(memory_format=torch.channels_last), logits.aux)
        expected, found = (
            numbers_and_gradients(module.segmentation_loss, permuted, label) for module in (plain_loss, fused_loss)
        )
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7, msg=str(shape))
    low, label = batch((1, 3, 2, 3, 4, 6), random)
    torch.library.opcheck(upsampled_cross_entropy, (low.out, label))
    half = Logits(low.out.bfloat16(), None)
    expected_half, found_half = (
        torch.autograd.grad(module.segmentation_loss(half, label)[0], low.out)[0] for module in (plain_loss, fused_loss)
    )
    torch.testing.assert_close(found_half, expected_half, rtol=2**-8, atol=1e-5)
    void = fused_loss.segmentation_loss(low, torch.full_like(label, IGNORE))
    assert void.tolist() == [0, 0, 0, 0]


if __name__ == "__main__":
    check_the_kernel()
