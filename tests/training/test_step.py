"""One step on one rank and on two: the same losses and weights; and what a bad loss must not do."""

import copy
import dataclasses
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from fastseg.config import Config, DataConfig, Freeze, ModelConfig, OptimConfig
from fastseg.distributed.ranks import Ranks, joined_ranks
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, Logits, SegmentationNetwork
from fastseg.training.flops import step_flops
from fastseg.training.step import LossNetwork, StepMetrics, TrainStep, search_algorithms, use_sync_bn
from fastseg.training.trainer import mean_metrics

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
CONFIG = Config(
    data=DataConfig(batch=4),
    model=ModelConfig(arch="deeplabv3_mobilenet_v3_large", precision="fp32"),
    optim=OptimConfig(clip=None, aux=0.4),
)

RATE = 2.0
"""High enough to see the loss fall in three steps."""


def network(channels_last: bool = False) -> SegmentationNetwork:
    torch.manual_seed(0)
    return SegmentationNetwork("deeplabv3_mobilenet_v3_large", 5, IMAGENET_MEAN, IMAGENET_STD, True, channels_last)


def batch(size: int = 4, void_rows: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    image = torch.randint(0, 256, (size, 64, 64, 3), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 5, (size, 64, 64), dtype=torch.uint8, generator=generator)
    label[: size // 2, :void_rows] = 255  # the ranks' shares of labeled pixels differ
    return image, label


def frozen(step: TrainStep) -> TrainStep:
    """Batch norm and dropout as in evaluation: their statistics are a rank's own business."""
    nn.Module.train(step.model, False)
    step.model.train = lambda _mode=True: nn.Module.train(step.model, False)  # type: ignore[method-assign]
    # The auxiliary head speaks in training only; the flag alone is set.
    original = step.model.forward

    def forward(image: torch.Tensor) -> Logits:
        step.model.training = step.model.net.training = True
        try:
            return original(image)
        finally:
            step.model.training = False

    step.model.forward = forward  # type: ignore[method-assign]
    return step


def three_steps(step: TrainStep, image: torch.Tensor, label: torch.Tensor) -> list[list[float]]:
    return [step(image, label, RATE).tolist() for _ in range(3)]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def in_parts(parts: int) -> Config:
    return dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, accumulate=parts))


def run_rank(rank: int, folder: Path, port: str, weights: torch.Tensor | None, parts: int = 1) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with joined_ranks("cpu") as ranks:
        image, label = batch(void_rows=40)
        share = slice(2 * rank, 2 * rank + 2)
        step = frozen(TrainStep(network(), in_parts(parts), ranks, weights))
        losses = three_steps(step, image[share], label[share])
        stop = step(image[share], label[share], 0.0, stop=rank == 1)[-1].item()
        torch.save({"losses": losses, "stop": stop, "weights": step.model.state_dict()}, folder / f"{rank}.pt")


CLASS_WEIGHTS = torch.tensor([1.0, 0.2, 3.0, 0.5, 2.0])


@pytest.mark.parametrize(
    ("weights", "parts"), [(None, 1), (CLASS_WEIGHTS, 1), (CLASS_WEIGHTS, 2)], ids=["pixels", "classes", "in parts"]
)
def test_two_ranks_equal_one_with_twice_the_batch(weights: torch.Tensor | None, parts: int, tmp_path: Path) -> None:
    """Also where each goes through the network image by image, and only the last part's gradients are exchanged."""
    mp.spawn(run_rank, args=(tmp_path, free_port(), weights, parts), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    step = frozen(TrainStep(network(), CONFIG, ALONE, weights))
    expected = three_steps(step, *batch(void_rows=40))
    assert expected[0][0] != pytest.approx(expected[2][0], abs=1e-3)  # it does learn
    for losses in (first["losses"], second["losses"]):
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    for name, value in step.model.state_dict().items():
        torch.testing.assert_close(first["weights"][name], value, rtol=1e-3, atol=1e-5)
        assert torch.equal(first["weights"][name], second["weights"][name])
    assert first["stop"] == second["stop"] == 1  # one rank's wish is known to both


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_accumulated_gradients_equal_the_large_batch(parts: int, clip: float | None) -> None:
    """The parts differ in labeled pixels: a mean of their means would be another step."""
    image, label = batch(void_rows=60)
    ends = []
    for config in (CONFIG, in_parts(parts)):
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, clip=clip))
        step = frozen(TrainStep(network(), config, ALONE, CLASS_WEIGHTS))
        ends.append((three_steps(step, image, label), step.model.state_dict()))
    (expected, whole), (found, accumulated) = ends
    assert expected[0][0] != pytest.approx(expected[2][0], abs=1e-3)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    for name, value in whole.items():
        torch.testing.assert_close(accumulated[name], value, rtol=1e-3, atol=1e-5)


def test_ranks_exchange_nothing_but_the_last_part(monkeypatch: pytest.MonkeyPatch) -> None:
    step = TrainStep(network(), in_parts(4), ALONE)
    inside, forward = [], step._forward
    state = {"alone": False}

    @contextmanager
    def no_sync() -> Iterator[None]:
        state["alone"] = True
        yield
        state["alone"] = False

    def noted(*parts: torch.Tensor) -> torch.Tensor:
        inside.append(state["alone"])
        return forward(*parts)

    monkeypatch.setattr(step.network, "no_sync", no_sync)
    monkeypatch.setattr(step, "_forward", noted)
    step(*batch(8), 0.01)
    assert inside == [True, True, True, False]


def test_a_bad_part_leaves_the_weights() -> None:
    """Though the last part's loss is finite."""
    model = network()
    step = frozen(TrainStep(model, in_parts(2), ALONE))
    before = copy.deepcopy(dict(model.named_parameters()))
    forward, calls = step._forward, iter(range(2))

    def broken(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return forward(image, label) * (torch.nan if next(calls) == 0 else 1)

    step._forward = broken  # type: ignore[method-assign]
    assert not step(*batch(), 0.1)[0].isfinite()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("what", ["backbone", "norms"])
def test_what_is_frozen_stays(what: Freeze) -> None:
    model = network()
    model.freeze(what)
    before = copy.deepcopy(model.state_dict())
    step = TrainStep(model, CONFIG, ALONE)
    three_steps(step, *batch())
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, value in model.state_dict().items():
        frozen_part = name.startswith("net.backbone.") if what == "backbone" else name.rpartition(".")[0] in norms
        assert torch.equal(value, before[name]) == (frozen_part or name.endswith("num_batches_tracked")), name


def test_a_frozen_backbone_takes_fewer_flops() -> None:
    sizes = ("deeplabv3_mobilenet_v3_large", 5, 2, (64, 64), True)
    whole, frozen_backbone = step_flops(*sizes), step_flops(*sizes, "backbone")
    assert step_flops(*sizes, "norms") == whole
    assert 0 < frozen_backbone < 0.9 * whole


def test_equals_a_plain_loop() -> None:
    """Against the textbook: mean cross-entropies, plain SGD, no wrapper of ours."""
    model, reference = network(), network()
    step = frozen(TrainStep(model, dataclasses.replace(CONFIG, optim=OptimConfig(weight_decay=0.0)), ALONE))
    image, label = batch(void_rows=10)
    losses = three_steps(step, image, label)
    optimizer = torch.optim.SGD(reference.parameters(), lr=RATE, momentum=0.9)
    for loss in losses:
        reference.eval()
        reference.training = reference.net.training = True
        logits = reference(image)
        main, aux = (
            nn.functional.cross_entropy(
                nn.functional.interpolate(x, size=(64, 64), mode="bilinear"), label.long(), ignore_index=255
            )
            for x in logits
        )
        optimizer.zero_grad()
        (main + 0.4 * aux).backward()
        optimizer.step()
        total = main + 0.4 * aux
        assert loss[:3] == pytest.approx([total.item(), main.item(), aux.item()], rel=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_loss_that_is_not_finite_leaves_the_weights(name: str) -> None:
    model = network()
    step = TrainStep(model, dataclasses.replace(CONFIG, optim=OptimConfig(name=name, clip=1.0)), ALONE)
    image, label = batch()
    step(image, label, 0.01)
    before = copy.deepcopy(dict(model.named_parameters()))
    with torch.no_grad():
        model.mean.fill_(float("nan"))
    numbers = step(image, label, 0.01)
    assert not numbers[0].isfinite()
    for parameter_name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[parameter_name])


def test_a_gradient_that_is_not_finite_leaves_the_weights() -> None:
    model = network()
    step = TrainStep(model, CONFIG, ALONE)  # without clipping
    before = copy.deepcopy(dict(model.named_parameters()))
    model.net.classifier[1].weight.register_hook(lambda gradient: gradient * torch.inf)
    found = StepMetrics(*step(*batch(), 0.1).tolist())
    assert np.isfinite(found.loss)
    assert not np.isfinite(found.gradient_norm)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_the_mean_norm_is_of_steps_that_were_not_skipped() -> None:
    """With fp16 one that overflows would make the line's gradient_norm null."""
    steps = [StepMetrics(1.0, 1.0, 0.0, 2.0, 0.0), StepMetrics(3.0, 3.0, 0.0, math.inf, 0.0)]
    assert mean_metrics(steps) == StepMetrics(2.0, 2.0, 0.0, 2.0, 0.0)
    assert math.isnan(mean_metrics(steps[1:]).gradient_norm)


def test_network_and_loss_compile_to_one_graph() -> None:
    network_and_loss = LossNetwork(network(channels_last=True), OptimConfig(dice=0.5), torch.full((5,), 0.5)).eval()
    network_and_loss.model.net.training = True  # the auxiliary head too, without dropout
    compiled = torch.compile(network_and_loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*batch()), network_and_loss(*batch()), rtol=1e-4, atol=1e-2)


def test_an_all_void_batch_changes_no_weight_but_by_decay() -> None:
    model = network()
    step = TrainStep(model, dataclasses.replace(CONFIG, optim=OptimConfig(weight_decay=0.0)), ALONE)
    image, label = batch()
    before = copy.deepcopy(dict(model.named_parameters()))
    assert step(image, torch.full_like(label, 255), 0.1).tolist() == [0, 0, 0, 0, 0]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_clipping_bounds_the_step() -> None:
    model = network()
    config = dataclasses.replace(CONFIG, optim=OptimConfig(clip=0.01, weight_decay=0.0, momentum=0.0))
    step = TrainStep(model, config, ALONE)
    before = [p.detach().clone() for p in model.parameters()]
    norm = step(*batch(), 1.0)[2].item()
    moved = torch.stack([(p.detach() - b).norm() for p, b in zip(model.parameters(), before, strict=True)]).norm()
    assert norm > 0.01
    assert moved.item() == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("change", [{"channels_last": True}, {"precision": "bf16"}])
def test_memory_order_and_precision_change_the_loss_little(change: dict) -> None:
    def first_loss(model_config: ModelConfig, model: SegmentationNetwork) -> float:
        return frozen(TrainStep(model, dataclasses.replace(CONFIG, model=model_config), ALONE))(*batch(), 0.0)[0].item()

    plain = first_loss(CONFIG.model, network())
    model = network("channels_last" in change)
    changed = first_loss(dataclasses.replace(CONFIG.model, **change), model)
    assert changed == pytest.approx(plain, rel=1e-5 if "channels_last" in change else 2e-2)


def test_algorithms_are_searched_for_again_after_frames_of_many_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with search_algorithms(True):
        assert torch.backends.cudnn.benchmark
    with search_algorithms(False):
        assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    with search_algorithms(True):
        assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("wanted", "world", "device", "batch", "synced"),
    [
        *[(None, 2, "cuda", 4, True), (None, 2, "cuda", 8, False), (None, 1, "cuda", 4, False)],
        *[
            (None, 2, "cpu", 4, False),
            (True, 2, "cpu", 8, True),
            (True, 1, "cpu", 4, False),
            (False, 2, "cuda", 4, False),
        ],
    ],
)
def test_when_norms_are_synchronized(wanted: bool | None, world: int, device: str, batch: int, synced: bool) -> None:
    config = Config(data=DataConfig(batch=batch), model=ModelConfig(sync_bn=wanted))
    assert use_sync_bn(config, Ranks(0, world, 0, world, torch.device(device))) is synced


def test_the_compiler_has_a_ranks_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user has said how many; whoever started the ranks."""
    inductor = torch._inductor.config
    monkeypatch.setattr(inductor, "compile_threads", 32)
    monkeypatch.setattr("fastseg.training.compiled.usable_cores", lambda: 26)
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, compile=True))
    for set_by_user, local_world, threads in (("7", 8, 32), (None, 8, 3), (None, 64, 1)):
        if set_by_user:
            monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", set_by_user)
        else:
            monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
        step = TrainStep(network(), config, Ranks(0, 1, 0, local_world, torch.device("cpu")))
        assert inductor.compile_threads == threads
        assert step.network.untried
        assert step.config.model.compile
