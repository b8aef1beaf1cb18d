"""The loss against torch's own cross-entropy."""

import math

import pytest
import torch
import torch.nn.functional as F

from fastseg.model.deeplab import Logits
from fastseg.model.loss import segmentation_loss


@pytest.fixture
def logits() -> Logits:
    generator = torch.Generator().manual_seed(0)
    out, aux = (torch.randn(2, 5, 6, 8, generator=generator, requires_grad=True) for _ in range(2))
    return Logits(out, aux)


@pytest.fixture
def label() -> torch.Tensor:
    label = torch.randint(0, 5, (2, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    label[0, :20] = 255
    return label


def reference(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    full = F.interpolate(logits, size=label.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(full, label.long(), ignore_index=255)


def test_equals_cross_entropy(logits: Logits, label: torch.Tensor) -> None:
    main, pixels, aux, aux_pixels = segmentation_loss(logits, label)
    assert pixels == aux_pixels == (label != 255).sum()
    torch.testing.assert_close(main / pixels, reference(logits.out, label))
    torch.testing.assert_close(aux / pixels, reference(logits.aux, label))
    (main / pixels).backward()
    got, logits.out.grad = logits.out.grad, None
    reference(logits.out, label).backward()
    torch.testing.assert_close(got, logits.out.grad)


def test_without_an_auxiliary_head(logits: Logits, label: torch.Tensor) -> None:
    assert segmentation_loss(Logits(logits.out, None), label)[2:].tolist() == [0, 0]


def test_an_all_void_batch_is_no_nan(logits: Logits, label: torch.Tensor) -> None:
    numbers = segmentation_loss(logits, torch.full_like(label, 255), ohem=0.7)
    assert numbers.tolist() == [0, 0, 0, 0]
    numbers.sum().backward()
    assert logits.out.grad.abs().sum() == 0


def test_ohem_counts_hard_pixels_only(logits: Logits, label: torch.Tensor) -> None:
    full = F.interpolate(logits.out, size=label.shape[1:], mode="bilinear", align_corners=False)
    losses = F.cross_entropy(full, label.long(), ignore_index=255, reduction="none")
    hard = (losses > -math.log(0.2)) & (label != 255)
    assert losses.numel() // 16 < hard.sum() < (label != 255).sum()
    main, pixels, _, aux_pixels = segmentation_loss(logits, label, ohem=0.2)
    assert pixels == hard.sum()
    assert aux_pixels == (label != 255).sum()
    torch.testing.assert_close(main, losses[hard].sum())


def test_ohem_keeps_a_sixteenth(logits: Logits, label: torch.Tensor) -> None:
    pixels = segmentation_loss(logits, label, ohem=1e-6)[1]  # nothing is that hard
    assert pixels == label.numel() // 16
