"""The benchmark's stages: peers do the work that ours does, variants too, and every entry runs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import peers, variants
from bench.peers import step_notebook, step_torchvision
from bench.runner.processes import ROOT, process_tree
from bench.runner.results import Row, Spread
from bench.runner.runner import Entry, Runner, Timing
from bench.runner.worker import build
from bench.stages import Request, compute, evaluation, inference, packing, scaling, startup, train
from bench.stages.compute import Ours, alone
from bench.stages.frames import Frames
from bench.stages.steps import normalized, recipe
from bench.variants import ablation
from fastseg.config import Config
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD
from fastseg.training.step import StepMetrics

ARCH = "deeplabv3_mobilenet_v3_large"
CROP = [64, 64]
SMALL = {"device": "cpu", "arch": ARCH, "crop": CROP, "batch": 2, "precision": "fp32"}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Networks this small wait longer for a second thread than it saves."""
    torch.set_num_threads(1)


@pytest.fixture
def request_(frames: Frames) -> Request:
    return Request(
        "cpu", (64, 64), (0.5, 2.0), 2, ARCH, ("step_notebook", "step_torchvision"), 1, frames, precision="fp32"
    )


def benchmark(entry: Entry) -> object:
    """Built as the worker does, from what travels as JSON."""
    chosen = entry.settings | (entry.candidates[-1] if entry.candidates else {})
    return build(json.loads(json.dumps({"factory": entry.factory, "settings": chosen})))


def without_dropout(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def ours(aux: float = 0.4, part: str | None = None) -> Ours:
    config = recipe(ARCH, CROP, 2, "fp32")
    config = replace(config, optim=replace(config.optim, aux=aux))
    if part in ablation.SWITCHES:
        config = replace(config, model=replace(config.model, **ablation.SWITCHES[part]))
    made = Ours(config, alone("cpu"))
    if part in ablation.REPLACEMENTS:
        ablation.REPLACEMENTS[part](made)
    without_dropout(made.state.model)
    return made


def learnt(made: Ours) -> list[dict[str, torch.Tensor]]:
    """The weights, and their average."""
    assert made.state.average
    return [made.state.model.state_dict(), made.state.average.model.state_dict()]


@pytest.mark.parametrize(
    ("make", "aux"),
    [
        (lambda: step_notebook.Step(ARCH, CPU), 0.0),
        (lambda: step_torchvision.Step(ARCH, CPU, "fp32"), 0.5),
    ],
    ids=["notebook", "torchvision"],
)
def test_step_peers_do_our_work(make: Callable[[], step_notebook.Step | step_torchvision.Step], aux: float) -> None:
    """The same weights and batch: the same loss, and the same gradient of every parameter."""
    mine, peer = ours(aux), make()
    peer.model.load_state_dict(mine.state.model.net.state_dict())
    without_dropout(peer.model)
    theirs = peer.train(*normalized(mine.image, mine.label))
    found = StepMetrics(*mine.state.train_step(mine.image, mine.label, 1e-4).tolist())
    assert found.loss == pytest.approx(found.main_loss + aux * found.aux_loss, rel=1e-6)
    assert found.loss == pytest.approx(theirs, rel=1e-5)
    norm = found.gradient_norm
    assert norm > 0
    expected = dict(mine.state.model.net.named_parameters())
    for name, parameter in peer.model.named_parameters():
        assert parameter.grad is not None
        distance = (parameter.grad - expected[name].grad).norm()
        # One activation that rounds to the other side of its kink turns a gradient by up to 2 %.
        assert distance <= 0.05 * expected[name].grad.norm() + 1e-6 * norm, name


@pytest.mark.parametrize("part", [*ablation.SWITCHES, *ablation.REPLACEMENTS])
def test_variants_learn_the_same(part: str) -> None:
    """What is taken away costs time at most: two steps end at the same weights and averages."""
    whole, variant = ours(), ours(part=part)
    for made in (whole, variant):
        for _ in range(2):
            made.train()
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    for expected, found in zip(learnt(whole), learnt(variant), strict=True):
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-3, msg=name)


def test_variants_lack_their_part() -> None:
    assert ours().state.train_step.optimizer.defaults["fused"]
    assert not ours(part="fused optimizer").state.train_step.optimizer.defaults["fused"]
    weight = "backbone.0.0.weight"
    assert ours().state.model.net.state_dict()[weight].is_contiguous(memory_format=torch.channels_last)
    assert ours(part="channels_last").state.model.net.state_dict()[weight].is_contiguous()


def test_a_bad_step_is_skipped_by_the_host_too() -> None:
    made = ours(part="skipping on the device")
    before = [parameter.detach().clone() for parameter in made.state.model.parameters()]
    made.state.model.net.classifier[1].weight.register_hook(lambda gradient: gradient * torch.inf)
    made.train()
    assert all(torch.equal(a, b) for a, b in zip(before, made.state.model.parameters(), strict=True))


def test_evaluation_peer_finds_our_matrix(frames: Frames) -> None:
    """The same weights on the same lossless frames: the same predictions but for a few ties."""
    config = recipe(ARCH, CROP, 2, "fp32")
    png = Config(shards=str(frames.shards("png-tif")), data=config.data, model=config.model)
    val = frames.about["val"]
    mine = evaluation.Evaluation(png, alone("cpu"), val)
    mine.model.mean.copy_(torch.tensor(IMAGENET_MEAN))
    mine.model.std.copy_(torch.tensor(IMAGENET_STD))
    peer = step_notebook.Evaluation(frames.source / "val", CPU, ARCH, mine.classes, 1, 0)
    weights = mine.model.net.state_dict()
    peer.model.load_state_dict({name: weights[name] for name in peer.model.state_dict()})
    assert mine.step() == sum(peer.step() for _ in range(val)) == val
    assert mine.matrix.sum() > 0
    theirs = peer.metric.confmat
    assert isinstance(theirs, torch.Tensor)
    differing = (mine.matrix - theirs).abs().sum() / 2
    assert differing <= 0.001 * mine.matrix.sum()


@pytest.mark.parametrize("stage", [compute, train, evaluation, inference, packing])
def test_every_entry_runs(stage: object, request_: Request) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    entries = stage.entries(request_)  # type: ignore[attr-defined]
    assert entries[0].ours
    for entry in entries:
        made = benchmark(entry)
        assert all(made.step() > 0 for _ in range(2))  # type: ignore[attr-defined]
        assert all(value >= 0 for value in made.figures().values())  # type: ignore[attr-defined]
        made.close()  # type: ignore[attr-defined]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_gpu_trains_streamed_too(request_: Request) -> None:
    """Where frames would be cached; built here, it streams."""
    assert train.STREAMED not in [c.name for c in train.entries(request_)]
    streamed = next(c for c in train.entries(replace(request_, device="cuda")) if c.name == train.STREAMED)
    made = benchmark(replace(streamed, settings=streamed.settings | {"device": "cpu"}))
    assert isinstance(made, train.Train)
    assert made.trainer.config.data.cache_frames == "off"
    assert not made.trainer.loader.cached
    assert made.step() == request_.batch


def test_an_evaluation_goes_on_where_the_last_stretch_ended(frames: Frames) -> None:
    """Any number of frames a step, over and over."""
    config = recipe(ARCH, CROP, 2, "fp32")
    made = evaluation.Evaluation(Config(str(frames.shards()), data=config.data, model=config.model), alone("cpu"), 3)
    assert [made.step(), made.step()] == [3, 3]
    labeled = int(made.matrix.sum())
    made = evaluation.Evaluation(Config(str(frames.shards()), data=config.data, model=config.model), alone("cpu"), 1)
    assert sum(made.step() for _ in range(6)) == 6
    assert int(made.matrix.sum()) == labeled


def test_packing_has_frames_enough(request_: Request) -> None:
    """The same for both entries, whose keys a set may hold."""
    settings = [c.settings for c in packing.entries(request_)]
    assert settings[0] == settings[1]
    assert settings[0]["tasks"] == packing.TASKS
    folder = Path(settings[0]["source"])
    alone_, repeated = packing.at_least(1, folder).samples, packing.at_least(20, folder).samples
    assert (len(alone_), len(repeated)) == (7, 20)
    assert len({(sample.split, sample.key) for sample in repeated}) == 20
    assert {sample.image for sample in repeated} == {sample.image for sample in alone_}


WRITES = """
import json, sys
from pathlib import Path
from bench.peers._writing import Writing
from bench.stages import packing
from bench.stages.frames import Frames
frames = Frames(Path(sys.argv[1]))
written = Writing(**json.loads(sys.argv[2]))
assert written.step() == len(written.pairs) == packing.TASKS
key = frames.keys[0]
stored = written.encode((str(frames.image(key, "png")), str(frames.mask(key, "png"))))
assert stored["mask"] == frames.mask(key, "tif").read_bytes()
chunks = b"".join(path.read_bytes() for path in written.folder.glob("*.bin"))
assert stored["image"] in chunks
assert stored["mask"] in chunks
written.close()
assert not written.folder.exists()
"""


def test_writers_store_what_shards_hold(request_: Request) -> None:
    """In a process of its own: LitData forks, and a process full of threads must not."""
    asked = replace(request_, peers=tuple(peers.writers()))
    entries = {c.settings["peer"]: c for c in packing.entries(asked) if "peer" in c.settings}
    assert set(entries) == {"litdata", "streaming"}
    assert request_.frames is not None
    order = str(request_.frames.root), json.dumps(entries["litdata"].settings)
    done = subprocess.run([sys.executable, "-c", WRITES, *order], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_packing_cleans_up(request_: Request) -> None:
    made = benchmark(packing.entries(request_)[0])
    assert isinstance(made, packing.Packing)
    assert made.step() == len(made.source.samples) == packing.TASKS
    assert (made.folder / "manifest.json").exists()
    made.close()
    assert not made.folder.exists()


@pytest.mark.slow
def test_starts_are_whole_processes(request_: Request) -> None:
    assert request_.frames is not None
    made, before = startup.FirstStep(str(request_.frames.shards()), "cpu"), process_tree(os.getpid(), "")
    assert made.step() == 1
    assert process_tree(os.getpid(), "") <= before
    assert (made.runs / "demo/config.json").exists()
    made.close()
    assert not made.runs.exists()
    assert startup.Help().step() == 1
    failing = startup.FirstStep("no/such", "cpu")
    with pytest.raises(RuntimeError, match=r"ended before its first step:\n(.|\n)*no/such"):
        failing.step()
    failing.close()
    rows = [row("startup", 0.125, startup.FIRST_STEP), row("startup", 2.0, startup.HELP)]
    assert [figure["value"] for figure in startup.derived(rows)] == [8.0, 0.5]


def test_times_are_compared_window_by_window() -> None:
    rows = [row("inference", 8.0, inference.ALL), row("inference", 5.0, inference.ONE)]
    rows += [row("inference", 2.0, inference.ALL_BUSY), row("inference", 3.0, inference.ONE_BUSY)]
    assert [figure["value"] for figure in inference.derived(rows)] == [1.6, 1.5]
    rows = [row("evaluation", 5.0, evaluation.TRAINER), row("evaluation", 4.0, evaluation.COMMAND)]
    assert [figure["value"] for figure in evaluation.derived(rows)] == [1.25]


def test_other_jobs_end_with_the_entry(request_: Request) -> None:
    busy = next(entry for entry in inference.entries(request_) if entry.name == inference.ALL_BUSY)
    made = benchmark(busy)
    assert isinstance(made, inference.Inference)
    assert len(made.jobs) == request_.cores
    assert all(job.poll() is None for job in made.jobs)
    made.close()
    assert all(job.poll() is not None for job in made.jobs)


def test_peers_can_be_left_out(request_: Request) -> None:
    without = replace(request_, peers=())
    assert [c.name for c in compute.entries(without)] == ["fastseg"]
    assert [c.name for c in evaluation.entries(without)] == [evaluation.TRAINER, evaluation.COMMAND]


def test_ablation_lists_what_is_in_use(request_: Request) -> None:
    names = [c.name for c in variants.entries("ablate", request_, "compute")]
    assert names[0] == "fastseg"
    assert "fastseg without channels_last" in names
    assert "fastseg without compile" not in names  # not on a CPU
    assert "fastseg without mixed precision" not in names  # fp32 was asked for
    assert variants.entries("ablate", request_, "scaling") == []
    ranked = variants.entries("ablate", replace(request_, ranks=2), "scaling")
    assert [c.settings.get("without") for c in ranked] == [None, *ablation.DDP_OPTIONS]


@pytest.mark.slow
def test_ranks_scale_and_end(request_: Request) -> None:
    """Real ranks under torchrun, driven by the runner."""
    two = replace(request_, ranks=2)
    variant = variants.entries("ablate", two, "scaling")[1]
    runner = Runner([*scaling.entries(two), variant], Timing(windows=2, seconds=0.1, warmup=0.0, patience=120))
    runner.run()
    rows = runner.rows()
    assert [row.skipped for row in rows] == [None] * 3
    assert [row.settings["ranks"] for row in rows] == [1, 2, 2]


def row(stage: str, rate: float, entry: str = "fastseg", **parts: object) -> Row:
    return Row(stage, entry, "images/s", **{"settings": {}, "windows": (rate,) * 3} | parts)  # type: ignore[arg-type]


def test_what_rows_say_together() -> None:
    figures = {"tflops": 300.0, "mfu_datasheet": 0.3, "mfu_measured": 0.4, "peak_memory_bytes": 2.5e9}
    on_gpu, on_cpu = (row("compute", 50.0, figures=figures, settings={"device": d}) for d in ("cuda", "cpu"))
    said = [compute.derived([one])[0]["sentence"] for one in (on_gpu, on_cpu)]
    assert "300 TFLOP/s, 30 % of the datasheet's peak, 40 % of what matrix products" in said[0]
    assert said[1] == "The step computes 300 TFLOP/s; its memory peaks at 2.5 GB"
    loop = row("train", 0.0, windows=(49.0, 24.0, 48.0))
    assert train.derived([on_gpu, loop]) == []
    # The machine was half as fast in the second window, which no pair sees.
    share = train.derived([loop, row("train", 0.0, train.COMPUTE, windows=(50.0, 25.0, 50.0))])[0]
    assert share == {
        "name": "train/compute",
        "value": pytest.approx(0.96),
        "sentence": "The whole loop reaches 96 % of compute alone, window by window",
    }
    both = [loop, row("train", 40.0, train.STREAMED), row("train", 50.0, train.COMPUTE)]
    assert [(f["name"], round(f["value"], 2)) for f in train.derived(both)][1:] == [("train/streamed", 0.8)]
    bare = row("packing", 20.0, packing.BARE, ratio_to_ours=Spread(2.0, 2.0, 2.0))
    assert packing.derived([bare])[0]["value"] == 0.5
    ranks = [row("scaling", rate, f"fastseg, {n}", settings={"ranks": n}) for n, rate in ((1, 10.0), (2, 19.0))]
    assert scaling.derived(ranks)[0]["value"] == pytest.approx(0.95)
    assert scaling.derived(ranks[1:]) == []
    together = [compute.derived([on_gpu]), [share], packing.derived([bare]), scaling.derived(ranks)]
    assert not any(figure["sentence"].endswith(".") for found in together for figure in found)
