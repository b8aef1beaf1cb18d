"""Candidate optimizations compute what the plain version computes, values and gradients, and do what they are for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.segmentation import deeplabv3_resnet50
from torchvision.models.segmentation.deeplabv3 import ASPP

import commands
from bench import variants
from bench.runner.runner import Runner, Timing
from bench.stages import Request
from bench.stages.compute import Ours, alone
from bench.stages.steps import recipe
from bench.variants import candidates
from bench.variants.candidates import space_to_batch, wide_aspp
from fastseg.training.flops import step_flops

ARCH = "deeplabv3_mobilenet_v3_large"
ON_CPU = ["ASPP as one product", "dilation by folding"]


def request(device: str = "cpu", arch: str = ARCH, **parts: object) -> Request:
    return replace(Request(device, (64, 64), (0.5, 2.0), 2, arch, (), 1, precision="fp32"), **parts)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def same_learning(plain: nn.Module, changed: nn.Module, shape: tuple[int, ...], random: torch.Generator) -> None:
    """Outputs, input's and parameters' gradients and running statistics, in float64 to a relative 1e-9."""
    changed.load_state_dict(plain.state_dict())
    image = torch.randn(shape, generator=random).double().contiguous(memory_format=torch.channels_last)
    found = []
    for net in (plain, changed):
        given = image.clone().requires_grad_()
        torch.manual_seed(0)  # dropout
        result = net(given)
        outputs = tuple(result.values()) if isinstance(result, dict) else (result,)
        sum((output.square().mean() for output in outputs), torch.zeros(())).backward()
        gradients = {name: p.grad for name, p in net.named_parameters()}
        found.append((outputs, given.grad, gradients, dict(net.named_buffers())))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=4, aux_loss=True).double().train()


@pytest.mark.parametrize(("crop", "folded"), [((64, 64), 3), ((48, 32), 2), ((40, 48), 0)])
def test_dilation_by_folding(crop: tuple[int, int], folded: int, random: torch.Generator) -> None:
    """Runs of dilation 2, 2 and 4: all, those of 2, none of them divide the crop's maps."""
    plain, changed = resnet().backbone, resnet().backbone
    before = changed.layer3[1].conv2.weight
    for layer in (changed.layer3, changed.layer4):
        space_to_batch.fold_runs(layer, *map(space_to_batch.side, crop))
    hooks = [len(block._forward_pre_hooks) for layer in (changed.layer3, changed.layer4) for block in layer]
    assert sum(hooks) == folded
    dilated = [m for m in changed.modules() if isinstance(m, nn.Conv2d) and m.dilation != (1, 1)]
    assert len(dilated) == {3: 0, 2: 2, 0: 8}[folded]
    assert changed.layer3[1].conv2.weight is before
    same_learning(plain, changed, (2, 3, *crop), random)


def test_folding_keeps_the_memory_order(random: torch.Generator) -> None:
    x = torch.randn(2, 3, 8, 12, generator=random).contiguous(memory_format=torch.channels_last)
    folded = space_to_batch.fold(x, 4)
    assert folded.shape == (32, 3, 2, 3)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(folded[(1 * 4 + 2) * 2 + 1, :, 1, 2], x[1, :, 1 * 4 + 1, 2 * 4 + 2])
    assert torch.equal(space_to_batch.unfold(folded, 4), x)


@pytest.mark.parametrize("side", [(7, 40), (16, 16), (13, 37)])
def test_aspp_as_one_product(side: tuple[int, int], random: torch.Generator) -> None:
    """Maps below, between and above the rates 12, 24, 36."""
    plain, changed = (nn.Sequential(ASPP(6, (12, 24, 36), 5)).double().train() for _ in range(2))
    wide_aspp.widen(changed)
    same_learning(plain, changed, (2, 6, *side), random)


def test_aspp_leaves_out_what_reads_padding() -> None:
    """On a map of 16×16 one product of 11 taps of 27, and the 1×1 branch."""
    taps = [len(wide_aspp._live_taps(branch[0], 16, 16)) for branch in ASPP(6, (12, 24, 36), 5).convs[:-1]]
    assert taps == [1, 9, 1, 1]


def test_aspp_as_one_product_in_half_precision(random: torch.Generator) -> None:
    """Under autocast, results in its type; partial sums cost about as much as the rounding of the result."""
    plain, changed = (nn.Sequential(ASPP(64, (12, 24, 36), 8)).eval() for _ in range(2))
    changed.load_state_dict(plain.state_dict())
    wide_aspp.widen(changed)
    x = torch.randn(2, 64, 40, 40, generator=random)
    exact = plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(net(x).float() - exact).norm() / exact.norm() for net in (plain, changed)]
    assert 0 < errors[1] < 1.5 * errors[0] < 0.02


@pytest.mark.parametrize("name", candidates.fitting(request(), "compute"))
def test_changed_steps_learn_the_same(name: str) -> None:
    """The whole step of MobileNetV3, without dropout: two end at the same weights and count the same operations."""
    flops = step_flops(ARCH, 19, 2, (64, 64), aux=True)
    found = []
    for change in (lambda _: None, candidates.CANDIDATES[name].apply):
        made = Ours(recipe(ARCH, [64, 64], 2, "fp32"), alone("cpu"))
        for module in made.state.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        change(made)
        for _ in range(2):
            made.train()
        assert made.steps()._flops == flops
        found.append(made.state.model.state_dict())
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("change", ["folding", wide_aspp.widen])
def test_changed_layers_compile(change: str | Callable[[nn.Module], None], random: torch.Generator) -> None:
    """In one graph, with the same result."""
    layer = resnet().backbone.layer3[1:3] if change == "folding" else nn.Sequential(ASPP(6, (12, 24, 36), 5)).double()
    if isinstance(change, str):
        space_to_batch.fold_runs(layer, 16, 16)
    else:
        change(layer)
    x = torch.randn(2, 1024 if change == "folding" else 6, 16, 16, generator=random).double()
    torch.compiler.reset()
    compiled = torch.compile(layer.eval(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


def test_listed_is_what_can_run() -> None:
    on_cpu = [c.name for c in variants.entries("candidates", request(arch="deeplabv3_resnet50"), "compute")]
    assert on_cpu[0] == "fastseg"
    assert sorted(on_cpu[1:]) == [f"fastseg with {name}" for name in ON_CPU]
    big = request("cuda", "deeplabv3_resnet50", crop=(768, 768))
    on_gpu = [c.settings.get("added") for c in variants.entries("candidates", big, "compute")]
    assert {None, "max-autotune", "CUDA graphs", "dilation by folding"} < set(on_gpu)
    assert "dilation by folding" not in candidates.fitting(request(), "compute")  # MobileNetV3
    assert (
        variants.entries("candidates", request(), "loader")
        == variants.entries("candidates", request(), "scaling")
        == []
    )
    ranked = [c.settings.get("added") for c in variants.entries("candidates", request(ranks=2), "scaling")]
    assert ranked == [None, "bf16 gradients"]


@pytest.mark.slow
def test_ranks_with_candidates() -> None:
    """Real ranks under torchrun, driven by the runner."""
    runner = Runner(variants.entries("candidates", request(ranks=2), "scaling"), Timing(2, 0.1, 0.0, patience=120))
    runner.run()
    assert [row.skipped for row in runner.rows()] == [None] * 2


@pytest.mark.slow
def test_the_command_measures_candidates(tmp_path: Path) -> None:
    out = tmp_path / "candidates.json"
    flags = ("--candidates", "--stages", "compute", "--device", "cpu", "--crop", "32", "32", "--batch", "2")
    short = ("--windows", "1", "--seconds", "0.1", "--warmup", "0", "--json", out, "--plot", tmp_path / "bars.svg")
    command = (commands.BIN / "python", "bench/throughput.py")
    done = commands.run(*command, *flags, *short)
    assert done.returncode == 0, done.stderr
    assert "fastseg with ASPP as one product" in done.stdout
    assert out.exists()
    commands.refused(commands.run(*command, "--candidates", "--ablate"), "--ablate and --candidates are both given")
    commands.refused(
        commands.run(*command, "--candidates", "--stages", "packing"), "--candidates has nothing to add to"
    )
