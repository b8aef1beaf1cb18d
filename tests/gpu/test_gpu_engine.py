"""Who really decodes: the GPU, by its JPEG engine where it has one, and without a word of a library that gives up."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from gpu_sets import KINDS, pack_kind
from one_gpu import CUDA, DEVICE, needs_gpu

from commands import ROOT, environment

pytestmark = needs_gpu

WITH_ENGINE = ("A100", "A30", "H100", "H200", "H800", "GH200", "B200", "GB200", "B300", "GB300")
"""GPUs that NVIDIA's documentation gives a JPEG engine (https://docs.nvidia.com/cuda/nvjpeg)."""
SUSPICIOUS = ("warning", "error", "nvjpeg", "nvimgcodec", "nvimagecodec", "fallback", "falling back", "dali")
"""In what is said on stderr, in any case."""


class Decoded(NamedTuple):
    """What became of a set of one kind."""

    kind: str
    said: str
    """On stderr, by any library, past Python's own streams."""
    answer: dict[str, Any]


@pytest.fixture(scope="module", params=KINDS)
def decoded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoded:
    """A process of its own decodes the set: a crash is that kind's alone, and stderr is whole."""
    shards = pack_kind(request.param, tmp_path_factory.mktemp("engine"))
    script = Path(__file__).with_name("decode.py")
    done = subprocess.run(
        [sys.executable, str(script), str(DEVICE), str(shards)],
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests/helpers", script.parent)))},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    return Decoded(request.param, done.stderr, json.loads(done.stdout.splitlines()[-1]))


def test_nothing_is_said(decoded: Decoded) -> None:
    """A library that leaves the work to the CPU says so once, on stderr, if at all."""
    assert decoded.answer["frames"] == 3
    bad = [line for line in decoded.said.splitlines() if any(word in line.lower() for word in SUSPICIOUS)]
    assert not bad


@pytest.mark.skipif(not CUDA, reason="of a GPU's decoder")
def test_the_gpu_decodes(decoded: Decoded) -> None:
    """Where DALI finds no nvJPEG, "mixed" decodes on the CPU without a word. PNGs it decodes there anyway."""
    assert decoded.answer["nvjpeg"] or decoded.kind == "png"
    assert decoded.answer["engine"] != "cpu" or decoded.kind == "png"


@pytest.mark.skipif(not CUDA, reason="of a GPU's decoder")
def test_the_jpeg_engine_works(decoded: Decoded) -> None:
    """Where the GPU has one. nvJPEG reaches it by libnvcuvid, which containers have only if they ask for it:
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video."""
    name = torch.cuda.get_device_name(DEVICE)
    words = name.replace("-", " ").split()
    if decoded.kind == "png" or "MIG" in words or not any(word in WITH_ENGINE for word in words):
        pytest.skip(f"{name} decodes no {decoded.kind} by an engine")
    assert decoded.answer["nvcuvid"]
    if decoded.answer["engine"] == "unknown":
        pytest.skip("the driver does not tell how busy the JPEG engine is")
    assert decoded.answer["engine"] == "hardware"
