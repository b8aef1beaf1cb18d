"""Profile the training loop on the bench's frames: ``python -m bench.stages.profile_step DEVICE FILE [SHARDS]``.

Trains some 40 steps, writes profile.json to FILE, then adds the time of each part of the network alone ("stages").
Leaves nothing else behind.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bench.runner.processes import ROOT
from bench.runner.results import write_json
from bench.stages.compute import set_backends
from bench.stages.network_parts import measure_parts
from bench.throughput import Options, find_frames
from fastseg.commands.train import parse
from fastseg.errors import UserError, run_command, unwind_on_signals
from fastseg.shards.manifest import read_manifest

STEPS = 40
"""Number of steps, enough to decode cached frames (an epoch), warm up and profile."""
SMALL = ("--model.arch", "deeplabv3_mobilenet_v3_large", "--data.crop", "128", "128")
"""Flags on a CPU."""
SCRIPT = "fastseg/train.py"


def main() -> None:
    """Train, and keep the profile however the training ends."""
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in ("cuda", "cpu"):
        raise UserError("bench.stages.profile_step takes cuda or cpu, a file to write and perhaps a set of shards")
    device, file, shards = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) == 4 else None
    unwind_on_signals()
    frames = find_frames(Options(shards=shards, quick=device == "cpu"))
    options = flags(device, len(frames.keys))
    with TemporaryDirectory(prefix="fastseg-profile-") as runs:
        where = ["--shards", str(frames.shards()), "--runs", runs, "--name", "profile"]
        try:
            code = subprocess.run([sys.executable, SCRIPT, *options, *where], cwd=ROOT, check=False).returncode
        finally:
            _keep(Path(runs) / "profile/profile/profile.json", file, options)
    if code == 0:
        classes = len(read_manifest(frames.shards()).classes)
        _add_parts(file, options, classes, torch.device("cuda:0" if device == "cuda" else "cpu"))
    sys.exit(code if code >= 0 else 128 - code)  # a signal, as shells do


def flags(device: str, frames: int) -> list[str]:
    """Return flags that train about :data:`STEPS` steps on ``frames`` frames, with only the final evaluation."""
    batch = 4 if device == "cpu" else 8
    epochs = max(2, STEPS // max(1, frames // batch))
    named = {"gpus": 1, "device": device, "model.weights": "none", "data.batch": batch, "optim.epochs": epochs}
    never = {"eval-every": 1e6, "save-every": 1e6}
    words = [word for name, value in {**named, **never}.items() for word in (f"--{name}", str(value))]
    return ["--profile", *words, *(SMALL if device == "cpu" else ())]


def _keep(profile: Path, file: Path, options: list[str]) -> None:
    """Keep a copy without this machine's paths."""
    if profile.exists():
        document = json.loads(profile.read_text(encoding="utf-8"))
        document["environment"]["command"] = " ".join([SCRIPT, *options])
        write_json(file, document)


def _add_parts(file: Path, options: list[str], classes: int, device: torch.device) -> None:
    """Measure the network's parts, which takes minutes to compile, and add them to the profile."""
    set_backends()
    document = json.loads(file.read_text(encoding="utf-8"))
    write_json(file, document | {"stages": measure_parts(parse(options)[1], classes, device)})


if __name__ == "__main__":
    run_command(main)
