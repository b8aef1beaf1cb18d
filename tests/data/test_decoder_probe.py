"""The trial of the GPU's decoder, in a process of its own: stubs in its place end as badly as a GPU may."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from commands import ROOT, run, typed
from fastseg.data import decoder_probe
from fastseg.data.decoder_probe import ProbeResult, choose_decoder, probe_gpu_decoder
from fastseg.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
STUB = """
import os, signal, sys, time
import torch
import fastseg.data.decoder_probe as probe

def stub(device_index, shards, split):
    for number, batch in enumerate(probe.decoded_by_cpu(shards, split)):
        {ending}
        yield batch

probe.decoded_by_gpu = stub
probe.engine_in_use = lambda *_: "cuda kernels"
probe.may_use_gpu = lambda device: True
probe.TIMEOUT = {timeout}
"""
"""A sitecustomize.py: every Python process on this machine believes that it has a GPU, with this decoder."""
ENDINGS = {
    "works": ("pass", ""),
    "crashes": ("os.kill(os.getpid(), signal.SIGSEGV)", "it crashed (SIGSEGV)"),
    "hangs": ("time.sleep(1000)", "it did not answer within 5 seconds"),
    "falls back": (
        "print('[Warning] [nvimgcodec] could not decode, falling back to the host', file=sys.stderr)",
        "it falls back to the CPU ([Warning] [nvimgcodec] could not decode, falling back to the host)",
    ),
    "differs": (
        "batch = batch._replace(image=batch.image.flip(0) if number else batch.image + 3)",
        "its pixels differ from the CPU's by",
    ),
    "shifts masks": ("batch = batch._replace(label=batch.label.roll(1, -1))", "its masks differ from the CPU's"),
    "raises": ("raise RuntimeError('nvImageCodec failure')", "it failed (nvImageCodec failure)"),
}


def timeout(ending: str) -> float:
    """Seconds for the probe's answer: few for one that never comes."""
    return 5.0 if ending == "hangs" else 60.0


@pytest.fixture(params=ENDINGS)
def stubbed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an ending, which every Python process that is started now produces."""
    (tmp_path / "site").mkdir()
    code = STUB.format(ending=ENDINGS[request.param][0], timeout=timeout(request.param))
    (tmp_path / "site" / "sitecustomize.py").write_text(code)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])  # which the probe's process inherits
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(ROOT)]))
    return request.param


def test_every_ending_is_an_answer(stubbed: str, shards: Path) -> None:
    code = "from fastseg.data.decoder_probe import *; print(repr(probe_gpu_decoder(0, {}, {!r})))"
    ask = code.format(timeout(stubbed), str(shards))
    done = run("python", "-c", ask, PYTHONPATH=os.environ["PYTHONPATH"])
    assert done.returncode == 0, done.stderr
    result = eval(done.stdout)  # a ProbeResult
    assert result.works == (stubbed == "works")
    assert result.reason.startswith(ENDINGS[stubbed][1])
    assert result.seconds > 0


def test_a_run_trains_whatever_the_gpus_decoder_does(stubbed: str, shards: Path, tmp_path: Path) -> None:
    """With one warning, and the verdict in environment.json and in the report."""
    flags = ("--recipe", "demo", "--gpus", "1", "--data.crop", "64", "64", "--data.batch", "2", "--data.threads", "1")
    command = ("fastseg-train", *flags, "--shards", shards, "--runs", tmp_path / "runs", "--optim.epochs", 1)
    last = ("--optim.warmup", 0, "--name", "probed")
    done = (typed if stubbed == "works" else run)(*command, *last, columns=200, PYTHONPATH=os.environ["PYTHONPATH"])
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    folder = tmp_path / "runs" / "probed"
    assert (folder / "checkpoints" / "last.pt").exists()
    decoder = json.loads((folder / "environment.json").read_text())["decoder"]
    if stubbed == "works":
        assert not warnings
        assert decoder == "the GPU (engine: cuda kernels)"
        return
    (warning,) = warnings
    assert warning.startswith(f"warning: the GPU's JPEG decoder is not used, since {ENDINGS[stubbed][1]}")
    assert "the CPU decodes instead" in warning
    assert decoder.startswith(f"the CPU, since {ENDINGS[stubbed][1]}")
    assert "the CPU, since it" in (folder / "report.html").read_text()


def test_without_a_gpu_the_probe_says_so(shards: Path) -> None:
    """Its process ends with torch's own sentence, not with a trace."""
    if torch.cuda.is_available():
        pytest.skip("here it would work")
    result = probe_gpu_decoder(0, 60.0, str(shards))
    assert not result.works
    assert result.reason.startswith("it failed (")


def test_nothing_is_tried_where_there_is_nothing_to_choose(monkeypatch: pytest.MonkeyPatch, shards: Path) -> None:
    monkeypatch.setattr(decoder_probe, "probe_gpu_decoder", None)
    assert choose_decoder("auto", CPU, "jpg", str(shards), "train") == ("cpu", "the CPU", "")
    assert choose_decoder("cpu", GPU, "jpg", str(shards), "train").processor == "cpu"
    assert choose_decoder("gpu", GPU, "jpg", str(shards), "train").processor == "gpu"
    # PNGs are decoded on the CPU by the GPU's graph, too.
    png = choose_decoder("auto", GPU, "png", str(shards), "train")
    assert png[:2] == ("gpu", "the CPU, since the shards hold PNGs")
    with pytest.raises(UserError, match="the decoder is gpu, but the work is done on the CPU; leave it at auto"):
        choose_decoder("gpu", CPU, "jpg", str(shards), "train")


def test_the_answer_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def answer(index: int, *_: object) -> ProbeResult:
        asked.append(index)
        return ProbeResult(False, reason="it is a test")

    monkeypatch.setattr(decoder_probe, "probe_gpu_decoder", answer)
    decoder_probe._probe_once.cache_clear()
    choices = {choose_decoder("auto", GPU, "jpg", "once", "train") for _ in range(3)}
    decoder_probe._probe_once.cache_clear()
    assert asked == [0]
    (choice,) = choices
    assert (choice.processor, choice.description) == ("cpu", "the CPU, since it is a test")


def test_a_set_is_drawn_where_there_is_none(tmp_path: Path) -> None:
    """Half of its JPEGs without, half with halved chroma, as users have them."""
    batches = list(decoder_probe.decoded_by_cpu(decoder_probe.draw_set(tmp_path), "train"))
    assert [batch.image.shape[1:3] for batch in batches] == [(512, 512), (512, 1024), (512, 1024)]
    assert batches[0].image.float().std() > 20


def test_the_flag_is_refused_without_a_gpu(shards: Path, tmp_path: Path) -> None:
    done = run(
        *("fastseg-train", "--shards", shards, "--recipe", "demo", "--gpus", "1", "--device", "cpu"),
        *("--runs", tmp_path, "--data.decoder", "gpu"),
    )
    assert done.returncode == 2
    assert "the decoder is gpu, but the work is done on the CPU; leave it at auto" in done.stderr
