"""The benchmark's sweeps: every setting is taken by who has to take it, and changes no batch."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from bench import variants
from bench.runner.runner import Entry
from bench.runner.worker import build
from bench.stages import Request
from bench.stages.frames import Frames
from fastseg.config import AugmentConfig
from fastseg.data import dali_graph
from fastseg.data import loader as loader_module
from fastseg.data.augment import Color


@pytest.fixture
def request_(frames: Frames) -> Request:
    return Request("cpu", (48, 64), (0.5, 2.0), 3, "deeplabv3_mobilenet_v3_large", (), 2, frames, precision="fp32")


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an entry replaces in this process comes back."""
    for name in ("_decoder", "_window"):
        monkeypatch.setattr(dali_graph, name, getattr(dali_graph, name))


def benchmark(entry: Entry) -> Any:
    """Built as the worker does, from what travels as JSON."""
    return build(json.loads(json.dumps({"factory": entry.factory, "settings": entry.settings})))


def test_every_loader_runs(request_: Request) -> None:
    found = variants.entries("settings", request_, "loader")
    names = [c.name for c in found]
    assert names[0] == "fastseg"
    assert "fastseg, whole frames decoded" in names
    assert len(set(names)) == len(names)
    assert not any("hw_decoder_load" in name for name in names)  # there is no such engine
    for entry in found:
        made = benchmark(entry)
        assert [made.step() for _ in range(2)] == [3, 3]
        made.close()


def test_batch_sizes_run(request_: Request) -> None:
    found = variants.entries("settings", replace(request_, batch=2, crop=(64, 64)), "compute")
    assert [c.name for c in found] == ["fastseg", "fastseg, batch 4", "fastseg, batch 8"]
    assert benchmark(found[1]).step() == 4


def test_nothing_to_set_elsewhere(request_: Request) -> None:
    assert variants.entries("settings", request_, "packing") == []


def on_gpu(request: Request) -> list[Entry]:
    return variants.entries("settings", replace(request, device="cuda", cores=16), "loader")


@pytest.mark.parametrize("engine", ["0.0", "0.5", "0.8", "1.0"])
def test_the_engines_share_is_swept(request_: Request, engine: str) -> None:
    names = [c.name for c in on_gpu(request_)]
    assert f"fastseg, hw_decoder_load={engine}" in names
    assert {"fastseg, 4 threads", "fastseg, 8 threads"} <= set(names)
    assert "fastseg, 16 threads" not in names  # ours already


def test_gpu_graphs_take_every_setting(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """DALI checks arguments when a graph is defined, for which it needs no GPU; running stops there."""
    defined: list[dict[str, Any]] = []
    decode = dali_graph.fn.decoders.image_slice, dali_graph.fn.decoders.image

    class Defined(Exception):
        pass

    def define(_reader: Any, source: Any, codec: str, augment: AugmentConfig, fill: Color, *rest: Any) -> None:
        _device, options = rest
        dali_graph.train_graph(source, augment, fill, "gpu", codec, **options | {"device_id": 0})
        raise Defined

    def noted(decoder: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            defined.append(options)
            return decoder(*arguments, **options)

        return call

    ones, usual = torch.ones, {name: getattr(dali_graph, name) for name in ("_decoder", "_window")}

    def ones_here(*size: int, **options: Any) -> torch.Tensor:
        return ones(*size, **options | {"device": "cpu"})

    monkeypatch.setattr(loader_module, "_by_graph", define)
    monkeypatch.setattr(torch, "ones", ones_here)
    monkeypatch.setattr(dali_graph.fn.decoders, "image_slice", noted(decode[0]))
    monkeypatch.setattr(dali_graph.fn.decoders, "image", noted(decode[1]))
    for entry in on_gpu(request_):
        for name, original in usual.items():
            monkeypatch.setattr(dali_graph, name, original)
        defined.clear()
        with pytest.raises(Defined):
            benchmark(entry)
        mixed = next(options for options in defined if options.get("device") == "mixed")
        for name, value in (entry.settings.get("decoder") or {}).items():
            assert mixed[name] == value
