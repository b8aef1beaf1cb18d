"""The schedule in closed form, what decays, and the average against a plain loop."""

import pytest
import torch

from changes import with_changes
from fastseg.config import Config, OptimConfig
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fastseg.training.optim import Average, build_optimizer, lr_at, peak_lr, warmup_epochs, with_accumulation


@pytest.fixture
def model() -> SegmentationNetwork:
    torch.manual_seed(0)
    return SegmentationNetwork("deeplabv3_mobilenet_v3_large", 4, IMAGENET_MEAN, IMAGENET_STD, aux=True)


def test_poly_with_warmup() -> None:
    config = OptimConfig(min_lr=0.01)
    rates = [lr_at(step, 100, 10, 0.1, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.001 + 0.099 * 0.5**0.9)
    assert rates[-1] == pytest.approx(0.001 + 0.099 * (1 / 90) ** 0.9)
    assert sorted(rates[10:], reverse=True) == rates[10:]
    assert lr_at(99, 100, 0, 0.1, OptimConfig(schedule="constant")) == 0.1


def test_a_warm_up_longer_than_the_run_is_a_tenth_of_it() -> None:
    assert warmup_epochs(OptimConfig(epochs=5, warmup=10)) == pytest.approx(0.5)
    assert warmup_epochs(OptimConfig(epochs=10, warmup=10)) == pytest.approx(1)
    assert warmup_epochs(OptimConfig(epochs=10, warmup=9.5)) == 9.5


def test_the_rate_grows_with_the_global_batch() -> None:
    assert peak_lr(OptimConfig(lr=0.01, lr_batch=8), 64) == pytest.approx(0.08)
    assert peak_lr(OptimConfig(lr=0.01, lr_batch=None), 64) == 0.01


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay(model: SegmentationNetwork, name: str) -> None:
    optimizer = build_optimizer(model, OptimConfig(name=name, weight_decay=0.1))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    for parameter_name, parameter in model.named_parameters():
        convolution = parameter.ndim == 4
        assert (id(parameter) in decayed) == convolution, parameter_name


def test_fused_sgd_equals_plain_sgd(model: SegmentationNetwork) -> None:
    config = OptimConfig(weight_decay=1e-3, momentum=0.9, lr=0.1)
    parameter = model.net.classifier[1].weight
    plain = torch.nn.Parameter(parameter.detach().clone())
    reference = torch.optim.SGD([plain], lr=0.1, momentum=0.9, weight_decay=1e-3, fused=False, foreach=False)
    optimizer = build_optimizer(model, config)
    for seed in range(3):
        plain.grad = torch.randn(plain.shape, generator=torch.Generator().manual_seed(seed))
        parameter.grad = torch.empty_like(parameter).copy_(plain.grad)  # in the memory order of the weights
        reference.step()
        optimizer.step()
    torch.testing.assert_close(parameter, plain)


@pytest.mark.parametrize(("name", "values"), [("sgd", 1), ("adamw", 2)])
def test_all_that_it_holds_is_there_before_the_first_step(model: SegmentationNetwork, name: str, values: int) -> None:
    """What is free for frames is measured before that; and the values are those with which torch begins."""
    optimizer = build_optimizer(model, OptimConfig(name=name, weight_decay=0.0))
    assert optimizer.state.keys() == set(model.parameters())
    for parameter, state in optimizer.state.items():
        assert sum(value.shape == parameter.shape for value in state.values()) == values
        assert not any(value.any() for value in state.values())


def test_fused_adamw_equals_plain_adamw(model: SegmentationNetwork) -> None:
    parameter = model.net.classifier[1].weight
    plain = torch.nn.Parameter(parameter.detach().clone())
    reference = torch.optim.AdamW([plain], lr=0.01, weight_decay=1e-3, fused=False, foreach=False)
    optimizer = build_optimizer(model, OptimConfig(name="adamw", weight_decay=1e-3, momentum=0.9, lr=0.01))
    for seed in range(3):
        plain.grad = torch.randn(plain.shape, generator=torch.Generator().manual_seed(seed))
        parameter.grad = torch.empty_like(parameter).copy_(plain.grad)
        reference.step()
        optimizer.step()
    torch.testing.assert_close(parameter, plain)


def test_a_skipped_first_step_leaves_no_trace(model: SegmentationNetwork) -> None:
    """torch's fused SGD would take memory that nobody wrote for its first momentum."""
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.0, lr=0.1))
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.inf)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    for p, b in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), b - 0.1)


def test_average_is_exponential(model: SegmentationNetwork) -> None:
    average = Average(model, 0.5)
    weight = model.net.classifier[4].bias
    expected = weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            weight.add_(1.0)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    torch.testing.assert_close(average.model.net.classifier[4].bias, expected)
    assert not average.model.training


def test_a_global_batch_is_made_up_of_parts(tiny: Config) -> None:
    wanted = with_changes(tiny, optim__global_batch=16)  # of 4 at a time
    assert [with_accumulation(wanted, world).optim.accumulate for world in (1, 2, 3, 4, 8)] == [4, 2, 1, 1, 1]
    assert with_accumulation(tiny, 2) is tiny
