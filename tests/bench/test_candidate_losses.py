"""The candidate loss computes what the plain loss computes, values and gradients."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.variants.candidates import fused_loss
from fastseg.labels import IGNORE
from fastseg.model import loss as plain_loss
from fastseg.model.network import Logits

ROOT = Path(__file__).parents[2]


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


@pytest.mark.slow
def test_loss_in_one_kernel() -> None:
    """In a process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_the_kernel() -> None:
    """What the test above runs: float32, to a relative 1e-5; strides even, odd and none; what compilers rely on."""
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
    torch.library.opcheck(fused_loss.upsampled_cross_entropy, (low.out, label))
    half = Logits(low.out.bfloat16(), None)
    expected_half, found_half = (
        torch.autograd.grad(module.segmentation_loss(half, label)[0], low.out)[0] for module in (plain_loss, fused_loss)
    )
    torch.testing.assert_close(found_half, expected_half, rtol=2**-8, atol=1e-5)
    void = fused_loss.segmentation_loss(low, torch.full_like(label, IGNORE))
    assert void.tolist() == [0, 0, 0, 0]


if __name__ == "__main__":
    check_the_kernel()
