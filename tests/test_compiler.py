"""Machines on which nothing can be compiled: said before the ranks start, and survived where nobody asked for it."""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import commands
import fastseg.compiler
from fastseg.compiler import compile_fails, compiler_problem, describe_failure
from fastseg.config import ModelConfig
from fastseg.distributed.ranks import Ranks
from fastseg.training.compiled import CompiledNetwork, check_compiler

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
CURE = "install a compiler and Python's headers (Debian: apt install g++ python3-dev)"
WITHOUT_HEADERS = """#!/usr/bin/env bash
kept=(); for argument in "$@"; do case $argument in -I*/include/python3*) ;; *) kept+=("$argument");; esac; done
exec g++ "${kept[@]}"
"""


@pytest.fixture
def headless(tmp_path: Path) -> Path:
    """A compiler that is not told where Python's headers are, as if there were none."""
    path = tmp_path / "g++-without-headers"
    path.write_text(WITHOUT_HEADERS)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("cuda", [True, False])
def test_this_machine_lacks_nothing(cuda: bool) -> None:
    assert compiler_problem(cuda) is None


@pytest.mark.parametrize(
    ("cuda", "environment", "says"),
    [
        (True, {"PATH": "/empty"}, "there is no gcc or clang on PATH"),
        (False, {"PATH": "/empty"}, "there is no g++ on PATH"),
        (True, {"CC": "no-such-cc"}, "CC is 'no-such-cc', and there is no such compiler here; unset it, or"),
        (
            False,
            {"CXX": "no-such-cxx -O1"},
            "CXX is 'no-such-cxx -O1', and there is no such compiler here; unset it, or",
        ),
        (False, {"CXX": ""}, "CXX is '', and there is no such compiler here"),
    ],
)
def test_a_missing_compiler_is_seen(
    cuda: bool, environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    problem = compiler_problem(cuda)
    assert problem is not None
    assert problem.startswith(says)
    assert problem.endswith(CURE)


def test_missing_headers_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastseg.compiler.sysconfig, "get_path", lambda *_: str(tmp_path / "include"))
    problem = compiler_problem(True)
    assert problem is not None
    assert problem.startswith(f"the headers of Python 3.{sys.version_info.minor} are not in {tmp_path}/include; ")
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("C_INCLUDE_PATH", f"/nowhere:{tmp_path}")
    assert compiler_problem(True) is None


def test_looking_needs_no_torch() -> None:
    ask = "import sys; from fastseg.compiler import *; compiler_problem(True); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", ask], check=False).returncode == 0


def test_a_missing_triton_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastseg.compiler, "find_spec", lambda _name: None)
    assert str(compiler_problem(True)).startswith("Triton, which compiles for the GPU, is not installed")
    assert compiler_problem(False) is None


@pytest.mark.slow
def test_the_trial_compiles_for_real(headless: Path) -> None:
    assert why_it_fails("cpu") == "None"
    assert "fatal error: Python.h: No such file" in why_it_fails("cpu", CXX=str(headless))


def why_it_fails(device: str, **environment: str) -> str:
    """What the trial says of a device."""
    ask = f"from fastseg.compiler import compile_fails; print(compile_fails({device!r}))"
    # Started anew: torch reads CXX when it is imported.
    return commands.typed("python", "-c", ask, **environment).stdout.removesuffix("\n")


@pytest.mark.parametrize(
    ("device", "cxx", "says"),
    [("cpu", "false", "No working C++ compiler"), ("cuda:77", "g++", "")],
    ids=["a compiler that fails", "no such GPU"],
)
def test_the_trial_says_why_it_fails(device: str, cxx: str, says: str) -> None:
    reason = why_it_fails(device, CXX=cxx)
    assert reason not in ("", "None")
    assert says in reason
    assert "\n" not in reason
    assert len(reason) <= 300


def test_a_trial_that_hangs_or_crashes_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's process itself: a torch that sleeps, and one that is killed, stand first on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(600)\n")
    begin = time.monotonic()
    assert compile_fails("cpu", seconds=2) == "torch.compile was not done with a small network in 2 s"
    assert time.monotonic() - begin < 60
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    assert compile_fails("cpu") == "torch.compile's process was ended by SIGSEGV"


def test_a_failure_is_one_line() -> None:
    error = RuntimeError(
        "CppCompileError: C++ compile error\n\nCommand:\ng++ a b\n\nOutput:\nx.h:1: fatal error: no y\n"
    )
    assert describe_failure(error) == "RuntimeError: x.h:1: fatal error: no y"
    assert describe_failure(ValueError()) == "ValueError"


FLAGS = ["--device", "cpu", "--recipe", "demo", "--data.batch", "2", "--data.crop", "64", "64", "--data.threads", "1"]
FLAGS += ["--optim.epochs", "1", "--optim.warmup", "0", "--name", "r"]


def train(
    shards: Path, runs: Path, *more: str, program: Sequence[str] = ("-m", "fastseg.commands.train"), **environment: str
) -> subprocess.CompletedProcess:
    words = (*FLAGS, "--shards", shards, "--runs", runs, *more)
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(runs / "inductor")
    # Started anew: torch reads CXX when it is imported, and the ranks inherit what was imported.
    return commands.typed("python", *program, *words, timeout=600, **environment)


def test_compiling_that_was_asked_for_is_refused_before_the_ranks_start(shards: Path, tmp_path: Path) -> None:
    run = train(shards, tmp_path, "--model.compile", "--gpus", "2", CXX="no-such-cxx")
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        "error: --model.compile is given, but CXX is 'no-such-cxx', and there is no such compiler here; "
        f"unset it, or {CURE}; or leave --model.compile out"
    ]


@pytest.mark.slow
def test_compiling_that_was_asked_for_and_fails_ends_all_ranks_with_one_sentence(
    shards: Path, tmp_path: Path, headless: Path
) -> None:
    """Nothing is missing that could be seen before: the compiler runs, and fails."""
    run = train(shards, tmp_path, "--model.compile", "--gpus", "2", CXX=str(headless))
    assert run.returncode == 2, run.stderr
    assert run.stderr.count("error: ") == 2  # ours, and the compiler's in it
    assert "error: --model.compile is given, but torch.compile failed (" in run.stderr
    assert "Traceback" not in run.stderr


AS_ON_A_GPU = """
import os, torch
import torch._inductor.compile_fx
from torch._dynamo.backends.debugging import aot_eager
import fastseg.training.compiled as compiled
from fastseg.errors import run_command
from fastseg.commands.train import _main

compiled.wants_compiling = lambda config, device: config.compile is not False  # what None means on a GPU
def backend(graph, inputs, **_options):
    if os.environ["RANK"] in os.environ["FAILS_ON"].split():
        raise RuntimeError("this backend is broken")
    return aot_eager(graph, inputs)  # where Inductor would take minutes

torch._inductor.compile_fx.compile_fx = backend
run_command(_main)
"""


def train_as_on_a_gpu(shards: Path, runs: Path, fails_on: str, *more: str) -> subprocess.CompletedProcess:
    script = runs / "train.py"
    script.write_text(AS_ON_A_GPU)
    return train(shards, runs, "--gpus", "2", *more, program=[str(script)], FAILS_ON=fails_on)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails_on", "where", "sync_bn"),
    [
        ("1", "on rank 1 ", "True"),
        ("0 1", "", "True"),
        ("0 1", "", "False"),
        ("1", "on rank 1 ", "False"),
    ],
)
def test_ranks_go_on_uncompiled_together(shards: Path, tmp_path: Path, fails_on: str, where: str, sync_bn: str) -> None:
    """Where nobody asked for it: one warning, and the run trains to its end, whichever of two ranks cannot compile.

    With synchronized norms one would else wait for the other's statistics in the middle of its forward pass.
    """
    run = train_as_on_a_gpu(shards, tmp_path, fails_on, "--model.sync-bn", sync_bn, "--timeout", "60")
    assert run.returncode == 0, run.stderr
    reason = f"{where}torch.compile failed (RuntimeError: this backend is broken)"
    assert run.stderr.count("warning: the step runs uncompiled") == 1
    assert f"warning: the step runs uncompiled, which is slower: {reason}" in run.stderr
    assert "not compiled, on 2 ranks" in run.stderr
    environment = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert environment["step"] == f"not compiled: {reason}"


@pytest.mark.slow
def test_ranks_with_synchronized_norms_train_compiled(shards: Path, tmp_path: Path) -> None:
    """DDP, the norms' messages and the compiler's tracing together; the losses are those of the uncompiled step."""
    losses = {}
    for compiled in ("None", "False"):
        runs = tmp_path / compiled
        runs.mkdir()
        more = ("--model.sync-bn", "True", "--model.compile", compiled, "--log-every", "1", "--seed", "3")
        run = train_as_on_a_gpu(shards, runs, "", *more)
        assert run.returncode == 0, run.stderr
        assert "warning" not in run.stderr
        environment = json.loads((runs / "r" / "environment.json").read_text())
        assert environment["step"] == ("not compiled" if compiled == "False" else "compiled")
        records = [json.loads(line) for line in (runs / "r" / "metrics.jsonl").read_text().splitlines()]
        losses[compiled] = [record["loss"] for record in records if record["event"] == "train"]
    assert len(losses["None"]) > 1
    assert losses["None"][0] == pytest.approx(losses["False"][0], rel=1e-3)


def test_an_error_that_is_not_the_compilers_comes_again() -> None:
    class Broken(torch.nn.Module):
        def forward(self, _image: torch.Tensor, _label: torch.Tensor) -> torch.Tensor:
            raise ValueError("the network's own")

    network = CompiledNetwork(Broken(), dataclasses.replace(ModelConfig(), compile=None), ALONE)
    assert (network.compiled, network.untried, network.description) == (False, False, "not compiled")
    network.compiled = network.untried = True
    with pytest.raises(ValueError, match="the network's own"):
        network(torch.zeros(1), torch.zeros(1))
    assert network.description.startswith("not compiled: torch.compile failed (ValueError: the network's own")


def test_only_what_was_asked_for_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-cc")
    for wanted in (None, False):
        check_compiler(ModelConfig(compile=wanted), cuda=True)
    with pytest.raises(fastseg.errors.UserError, match=r"--model\.compile is given, but CC is 'no-such-cc'"):
        check_compiler(ModelConfig(compile=True), cuda=True)
