"""A profile of the loop on the benchmark's frames: ``python -m bench.suite.profiled DEVICE FILE [SHARDS]``.

Trains some 40 steps, writes profile.json to FILE and leaves nothing else behind.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.suite.frames import Frames, frames_of_shards, procedural_frames
from bench.suite.options import ROOT, Options, frame_count, frame_source
from fastseg.errors import UserError, run_command, unwind_on_sigterm
from fastseg.files import write_atomic

STEPS = 40
"""Enough to decode resident frames (an epoch), warm up and profile."""
SMALL = ("--model.arch", "deeplabv3_mobilenet_v3_large", "--data.crop", "128", "128")
"""On a CPU."""
SCRIPT = "fastseg/train.py"


def main() -> None:
    """Train, and keep the profile however the training ends."""
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in ("cuda", "cpu"):
        raise UserError("bench.suite.profiled takes cuda or cpu, a file to write and perhaps a set of shards")
    device, file, shards = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) == 4 else None
    unwind_on_sigterm()
    frames = _frames(Options(shards=shards, quick=device == "cpu"))
    options = flags(device, len(frames.keys))
    with TemporaryDirectory(prefix="fastseg-profile-") as runs:
        places = ["--shards", str(frames.shards()), "--runs", runs, "--name", "profile"]
        try:
            code = subprocess.run([sys.executable, SCRIPT, *options, *places], cwd=ROOT, check=False).returncode
        finally:
            _keep(Path(runs) / "profile/profile/profile.json", file, options)
    sys.exit(code if code >= 0 else 128 - code)  # of a signal, as a shell says it


def flags(device: str, frames: int) -> list[str]:
    """How to train about :data:`STEPS` steps on so many frames, without an evaluation but the last."""
    batch = 4 if device == "cpu" else 8
    epochs = max(2, STEPS // max(1, frames // batch))
    named = {"gpus": 1, "device": device, "model.weights": "none", "data.batch": batch, "optim.epochs": epochs}
    never = {"eval-every": 1e6, "save-every": 1e6}
    words = [word for name, value in {**named, **never}.items() for word in (f"--{name}", str(value))]
    return ["--profile", *words, *(SMALL if device == "cpu" else ())]


def _frames(options: Options) -> Frames:
    """Those that bench/throughput.py takes."""
    source, count = frame_source(options)[0], frame_count(options)
    return frames_of_shards(source, count) if source else procedural_frames(count)


def _keep(profile: Path, file: Path, options: list[str]) -> None:
    """A copy, which does not say where files lie on this machine."""
    if profile.exists():
        document = json.loads(profile.read_text(encoding="utf-8"))
        document["environment"]["command"] = " ".join([SCRIPT, *options])
        write_atomic(file, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
