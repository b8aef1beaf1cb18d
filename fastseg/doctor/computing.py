"""Check torch: its operators, torch.compile, and the exchange between ranks."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from fastseg.doctor.rows import Request, Row, broken, ok, warning

GRADIENTS = 168_000_000
"""Bytes of gradients that the ranks sum in every step of deeplabv3_resnet50."""
LATER = "run this again when the machine is less busy; if it fails again, train with --model.no-compile"
COMPILING = 38.0
"""Seconds that torch.compile may take for a small network."""
SLOW = 0.05
"""Seconds for the exchange on GPUs above which it takes longer than a whole step."""


def torch_works(_request: Request) -> list[Row]:
    """Check that torch and torchvision work together."""
    from fastseg.libraries import import_problem

    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9]])
        kept = torchvision.ops.nms(boxes, torch.tensor([1.0, 0.5]), 0.5).tolist()
    except (ImportError, OSError, RuntimeError) as error:
        problem = import_problem(error) or f"torch or torchvision fails ({' '.join(str(error).split())[:300]})"
        what, _, cure = problem.partition("; ")
        return broken("torch", what, cure or "reinstall torch and torchvision from one source")
    if kept != [0]:
        return broken("torch", "torchvision computes wrongly", "reinstall torch and torchvision from one source")
    return ok("torch", f"{torch.__version__} and torchvision {torchvision.__version__} work together")


def compiling(_request: Request) -> list[Row]:
    """Check torch.compile on a convolution and its backward pass, which training wants on a GPU."""
    from fastseg.compiler import compile_fails, compiler_problem
    from fastseg.device import cuda_works

    device = "cuda" if cuda_works() else "cpu"
    began = time.monotonic()
    problem = compiler_problem(device == "cuda") or compile_fails(device, COMPILING)
    seconds = time.monotonic() - began
    if problem is None:
        return ok("torch.compile", f"compiles for {device}, in {seconds:.0f} s")
    if device == "cpu" and seconds >= COMPILING:
        return ok("torch.compile", f"a compiler is here; a trial was given up after {seconds:.0f} s (it is for GPUs)")
    what, _, cure = problem.rpartition("; ")
    need = "the step runs uncompiled, slower" if device == "cuda" else "it is wanted on GPUs only"
    return warning(
        "torch.compile",
        f"{what or problem}: {need}",
        cure if what else LATER,
    )


def ranks(_request: Request) -> list[Row]:
    """Measure how long summing a step's gradients takes, by one process per GPU, or by two on the CPU."""
    import torch

    from fastseg.device import cuda_works

    count = torch.cuda.device_count() if cuda_works() else 0
    device, world, by = ("cuda", count, "NCCL") if count > 1 else ("cpu", 2, "gloo")
    with TemporaryDirectory(prefix="fastseg-doctor-") as folder:
        answer = Path(folder) / "answer.json"
        launcher = [
            sys.executable,
            "-m",
            "fastseg.distributed.launcher",
            "--standalone",
            "--nproc-per-node",
            str(world),
        ]
        command = [*launcher, "-m", "fastseg.doctor.exchange", device, str(answer)]
        kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment = {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        code, said = _launch(command, environment)
        result = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
    if code or not result.get("right"):
        raised = re.search(r"^(?:\[rank\d+\]: *)?(?:error|[\w.]*Error): (.+)", said, re.MULTILINE)
        reason = raised[1] if raised else said.strip().rpartition("\n")[2] or "another sum"
        return broken(
            "ranks",
            f"{world} processes cannot add up by {by} ({reason[:300]})",
            "try NCCL_SOCKET_IFNAME=lo and GLOO_SOCKET_IFNAME=lo on a single machine, see that its own name can be "
            "resolved (getent hosts $(hostname)), and read the output of NCCL_DEBUG=INFO",
        )
    ms = 1000 * result["seconds"] * GRADIENTS / result["bytes"]
    found = f"{world} {'GPUs' if device == 'cuda' else 'CPU ranks'} add up a step's gradients (168 MB) in {ms:.1f} ms"
    if device == "cuda" and ms > 1000 * SLOW:
        cure = "look at nvidia-smi topo -m: GPUs should reach each other by NVLink or PCIe (NCCL_P2P_DISABLE unset)"
        return warning("ranks", f"{found}, longer than the step itself", cure)
    return ok("ranks", f"{found}, by {by}")


def _launch(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a launcher; return its exit code and what it and its ranks wrote to stderr."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    try:
        _, said = process.communicate()
        return process.returncode, said
    finally:
        if process.poll() is None:  # this check is being stopped: the launcher stops its ranks
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(2.0)
