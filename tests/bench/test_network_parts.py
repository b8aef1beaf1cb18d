"""The network's parts: together they are the network, in values and in operations."""

import pytest
import torch

from bench.stages.network_parts import measure_parts, part_flops, parts_of, walk
from changes import with_changes
from fastseg.config import Config, DataConfig, ModelConfig, OptimConfig
from fastseg.model.architectures import ARCHITECTURES
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fastseg.training.flops import run_flops
from fastseg.training.step import LossNetwork

SMALL = Config(
    data=DataConfig(batch=2, crop=(64, 64)),
    model=ModelConfig(arch="deeplabv3_mobilenet_v3_large", weights="none", precision="fp32"),
)
HEADS = ["ASPP", "rest of the head", "auxiliary head", "loss"]
PARTS = {
    "deeplabv3_resnet50": ["stem", "layer1", "layer2", "layer3", "layer4", *HEADS],
    "deeplabv3_resnet101": ["stem", "layer1", "layer2", "layer3", "layer4", *HEADS],
    "deeplabv3_mobilenet_v3_large": [
        *("stem", "blocks 2–3", "block 4", "blocks 5–6", "blocks 7–12", "blocks 13–16"),
        *HEADS,
    ],
}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("aux", [None, 0.0])
def test_operations_of_the_parts_are_the_steps(arch: str, aux: float | None) -> None:
    config = with_changes(SMALL, model__arch=arch, optim__aux=aux)
    counts = part_flops(config, 19)
    if aux is None:
        assert list(counts) == PARTS.get(arch, ["network and loss"])
    else:
        assert "auxiliary head" not in counts
    assert sum(counts.values()) == run_flops(config, 19)
    assert all(counts[name] > 0 for name in counts if name != "loss")


@pytest.mark.parametrize("arch", ["deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large"])
@pytest.mark.parametrize("aux", [True, False])
def test_parts_compose_to_the_network(arch: str, aux: bool) -> None:
    """Bit for bit; without dropout, which draws."""
    torch.manual_seed(0)
    network = LossNetwork(SegmentationNetwork(arch, 5, IMAGENET_MEAN, IMAGENET_STD, aux), OptimConfig(dice=0.5)).eval()
    network.model.net.training = True  # the auxiliary head speaks in training only
    image = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    label = torch.randint(0, 5, (2, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = network(image, label)
        *_, (part, inputs, out) = walk(parts_of(network), image, label)
    assert part.name == "loss"
    assert len(inputs) == (3 if aux else 2)
    assert torch.equal(out, expected)


@pytest.mark.slow
def test_parts_are_measured_and_leave_no_trace() -> None:
    before = torch.get_rng_state()
    rows = measure_parts(SMALL, 19, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert [row["stage"] for row in rows] == PARTS[SMALL.model.arch]
    for row in rows:
        assert row["ms"] > 0
        assert row["tflops"] == pytest.approx(1000 * row["tflop"] / row["ms"])
        assert row["mfu"] is None  # nobody publishes a CPU's peak
