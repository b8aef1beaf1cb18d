"""What a step needs and what processors can do."""

import pytest
import torch

from fastseg.training.flops import datasheet_peak, measured_peak, step_flops

ARCH = "deeplabv3_mobilenet_v3_large"
CPU = torch.device("cpu")


def test_operations_of_a_step() -> None:
    """The known figure of DeepLabv3-R50 at 768², and what has to be in proportion."""
    known = step_flops("deeplabv3_resnet50", 19, 2, (768, 768), aux=True)
    assert known == pytest.approx(2 * 2.336e12, rel=1e-3)
    one, two = (step_flops(ARCH, 19, batch, (64, 64), aux=True) for batch in (2, 4))
    assert two == 2 * one
    assert step_flops(ARCH, 19, 2, (64, 64), aux=False) < one


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A10G", 70),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA RTX A1000", None),
    ],
)
def test_datasheet_peaks(gpu: str, peak: float | None) -> None:
    assert datasheet_peak(gpu) == peak


def test_measured_peak_leaves_the_settings() -> None:
    torch.set_float32_matmul_precision("highest")
    assert measured_peak(CPU, "fp32") > 0
    assert torch.get_float32_matmul_precision() == "highest"
