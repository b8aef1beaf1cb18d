"""The step on the GPU: compiled, in fewer bits, beside its plain self."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from one_gpu import ALONE, CUDA, DEVICE, full_precision, needs_gpu, without_dropout

from fastseg.config import Config, DataConfig, ModelConfig, OptimConfig
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fastseg.training.flops import datasheet_peak
from fastseg.training.step import TrainStep

pytestmark = needs_gpu

ARCH = "deeplabv3_resnet50" if CUDA else "deeplabv3_mobilenet_v3_large"
CONFIG = Config(
    data=DataConfig(batch=4),
    model=ModelConfig(weights="none", precision="fp32", compile=False),
    optim=OptimConfig(clip=None),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Of a CPU, where it rehearses: threads of networks this small wait longer for each other than they save."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """What one test has compiled does not count towards another's limit of recompilations."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def make_step(**model: object) -> TrainStep:
    torch.manual_seed(0)
    network = SegmentationNetwork(ARCH, 5, IMAGENET_MEAN, IMAGENET_STD, True)
    without_dropout(network)
    return TrainStep(network.to(DEVICE), replace(CONFIG, model=replace(CONFIG.model, **model)), ALONE)


def frozen(step: TrainStep) -> TrainStep:
    """Batch norm as in evaluation. Statistics of four crops make the gradient of a fresh ResNet-50 chaotic: weights
    changed by a millionth turn it by 4.6 %, in bf16 it points anywhere; frozen, by 0.013 % and 0.8 % (on a CPU)."""
    step.model.eval()
    step.model.training = step.model.net.training = True  # the modules' own flags: the auxiliary head speaks
    return step


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    image = torch.randint(0, 256, (4, 96, 96, 3), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 5, (4, 96, 96), dtype=torch.uint8, generator=generator)
    label[:2, :30] = 255
    return image.to(DEVICE), label.to(DEVICE)


def gradient(step: TrainStep) -> torch.Tensor:
    """Of all parameters, one after the other."""
    return torch.cat([p.grad.flatten().float() for p in step.model.parameters() if p.grad is not None])


def assert_alike(step: TrainStep, plain: TrainStep, loss: float, turned: float) -> None:
    """The same losses and gradient, as shares of the plain step's."""
    found, expected = step(*batch(), 0.0), plain(*batch(), 0.0)
    torch.testing.assert_close(found[:3], expected[:3], rtol=loss, atol=0.0)
    assert (gradient(step) - gradient(plain)).norm() <= turned * gradient(plain).norm()
    assert gradient(plain).norm() > 0


@full_precision()
def test_compiled_computes_what_eager_does() -> None:
    """In float32: losses to a part in ten thousand, the gradient to half a hundredth of its length."""
    assert_alike(frozen(make_step(compile=True)), frozen(make_step()), loss=1e-4, turned=0.005)


@full_precision()
def test_compiled_batch_norm_computes_what_eager_does() -> None:
    """In float32, with statistics of the batch: losses to a thousandth, the gradient's length to a twentieth."""
    compiled, eager = make_step(compile=True), make_step()
    found, expected = compiled(*batch(), 0.0), eager(*batch(), 0.0)
    torch.testing.assert_close(found[:3], expected[:3], rtol=1e-3, atol=0.0)
    torch.testing.assert_close(found[3], expected[3], rtol=0.05, atol=0.0)
    statistics, own = (dict(step.model.net.named_buffers()) for step in (eager, compiled))
    for name, value in statistics.items():
        torch.testing.assert_close(own[name], value, rtol=0.01, atol=1e-3, msg=name)


@full_precision()
def test_bf16_is_close_to_fp32() -> None:
    """Losses to a hundredth, the gradient to a twentieth of its length."""
    assert_alike(frozen(make_step(precision="bf16")), frozen(make_step()), loss=0.01, turned=0.05)


def test_fp16_survives_an_overflow() -> None:
    """A gradient beyond the range of 16 bits changes no weight; the scale falls, and training goes on."""
    step = make_step(precision="fp16")
    step(*batch(), 0.01)
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    step.scaler.update(2.0**80)
    loss, _, _, norm, _ = step(*batch(), 0.01).tolist()
    assert torch.tensor(loss).isfinite()
    assert not torch.tensor(norm).isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True))
    assert step.scaler.get_scale() == 2.0**79
    step.scaler.update(2.0**10)
    again = step(*batch(), 0.01)
    assert again.isfinite().all()
    assert any(not torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_loss_that_is_not_finite_leaves_the_weights(name: str) -> None:
    """The fused optimizers of the device heed ``found_inf``."""
    torch.manual_seed(0)
    network = SegmentationNetwork(ARCH, 5, IMAGENET_MEAN, IMAGENET_STD, True).to(DEVICE)
    step = TrainStep(network, replace(CONFIG, optim=OptimConfig(name=name)), ALONE)  # type: ignore[arg-type]
    step(*batch(), 0.01)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    network.mean.fill_(float("nan"))
    assert not step(*batch(), 0.01)[0].isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_the_gpus_peak_is_in_the_table() -> None:
    """Without it no share of the datasheet's peak can be said."""
    name = torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else "NVIDIA H200"
    assert datasheet_peak(name), (
        f"{name!r} is missing from DATASHEET in fastseg/training/flops.py (or is a part of a GPU)"
    )
