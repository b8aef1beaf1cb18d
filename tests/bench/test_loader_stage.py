"""The benchmark's loader stage: all of ours run, and variants hand over the same crops."""

import json

import pytest
import torch

from bench import variants
from bench.runner.results import Row, ratio_to_ours
from bench.runner.runner import Runner, Timing
from bench.runner.worker import build
from bench.stages import Request
from bench.stages import loader as stage
from bench.stages.frames import Frames, Work
from bench.variants import loader_ablation
from fastseg.data import dali_graph, loader, sampler
from fastseg.data.dali_graph import CpuResizer
from fastseg.data.loader import Batch, TrainLoader, open_files
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD
from fastseg.shards.manifest import read_manifest


@pytest.fixture
def request_(frames: Frames) -> Request:
    return Request("cpu", (48, 64), (0.5, 2.0), 3, "deeplabv3_resnet50", ("torchvision_v2",), 1, frames)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a variant replaces in this process comes back."""
    replaced = (
        (sampler, "read_ahead"),
        (loader, "_resized_on_cpu"),
        (dali_graph, "_window"),
        (CpuResizer, "__call__"),
    )
    for place, name in replaced:
        monkeypatch.setattr(place, name, getattr(place, name))


def test_every_entry_runs(request_: Request) -> None:
    found = stage.entries(request_)
    assert [c.name for c in found][:3] == [*stage.SETS.values()]
    assert len(found) == 9
    *ours, peer = found
    assert {c.name for c in found if not c.settings["work"]["colors"]} == {stage.PLAIN}
    for entry in ours:
        benchmark = build(json.loads(json.dumps({"factory": entry.factory, "settings": entry.settings})))
        assert [benchmark.step() for _ in range(3)] == [3, 3, 3]
        benchmark.close()
    # In a worker: a process full of DALI's threads must not fork.
    runner = Runner([peer.with_settings(peer.candidates[0])], Timing(windows=1, seconds=0.0, warmup=0.0, patience=120))
    runner.run()
    assert [row.skipped for row in runner.rows()] == [None]


def first_batch(frames: Frames, codecs: str = "jpg-tif") -> Batch:
    shards, work = frames.shards(codecs), Work(crop=(48, 64), batch=6)
    manifest = read_manifest(shards)
    files = open_files(shards, manifest, "train")
    split, cpu = manifest.split("train"), torch.device("cpu")
    return TrainLoader(
        files, split, work.augment, fill=work.fill, batch=6, device=cpu, threads=1, prefetch=1, seed=0
    ).next()


@pytest.mark.parametrize("part", loader_ablation.REPLACEMENTS)
def test_variants_hand_over_the_same(frames: Frames, part: str) -> None:
    ours = first_batch(frames)
    loader_ablation.REPLACEMENTS[part][0]()
    variant = first_batch(frames)
    image = variant.image
    if image.dtype == torch.float32:
        image = image * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    assert torch.equal(variant.label, ours.label) or (variant.label != ours.label).float().mean() < 0.02
    assert (image.float() - ours.image.float()).abs().mean() < 0.5


@pytest.mark.parametrize("codecs", ["jpg-png", "png-tif", "plain-tif"])
def test_other_codecs_show_the_same(frames: Frames, codecs: str) -> None:
    ours, other = first_batch(frames), first_batch(frames, codecs)
    assert torch.equal(other.label, ours.label)
    assert (other.image.float() - ours.image.float()).abs().mean() < 4  # JPEG's loss on noisy test frames


def test_the_ablation_takes_away_what_is_in_use(request_: Request) -> None:
    found = variants.entries("ablate", request_, "loader")
    names = [c.name for c in found]
    assert names[0] == "fastseg"
    assert "fastseg without resizing and coloring beside DALI" in names
    assert len(set(names)) == len(names) == 1 + len(loader_ablation.OTHER_SETTINGS) + len(loader_ablation.REPLACEMENTS)
    variant = build(json.loads(json.dumps({"factory": found[1].factory, "settings": found[1].settings})))
    assert variant.step() == 3


def test_the_bottleneck_has_a_name() -> None:
    rates = {"fastseg": 100.0, stage.PLAIN: 125.0, "notebook": 10.0}
    rates |= dict(zip(stage.PARTS.values(), (1000.0, 200.0, 500.0), strict=True))
    rows = [
        Row("loader", name, "images/s", {"way": "cpu"}, (rate,), ratio_to_ours((rate,), (100.0,)))
        for name, rate in rates.items()
    ]
    ratio, colors, parts = stage.derived(rows)
    assert ratio["value"] == pytest.approx(10)
    assert colors["value"] == pytest.approx(0.8)
    assert "80 %" in colors["sentence"]
    assert parts["parts"] == pytest.approx(
        {"reading and cutting": 1, "decoding the image": 4, "decoding the mask": 1, "resizing and handing over": 4}
    )
    assert "bottleneck" in parts["sentence"]
