"""Starting up, in whole processes: from Enter to the first training step of the demo, and ``--help``.

A unit is a start, so that a rate's inverse is the time that a user waits. The first start of a window warms the files'
caches and does not count. The table's cores miss what was killed.
"""

import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.runner.processes import ROOT, end
from bench.runner.results import Row
from bench.runner.runner import Entry
from bench.runner.worker import Benchmark
from bench.stages import Request
from bench.stages.frames import procedural_frames

FIRST_STEP, HELP = "fastseg, first step", "fastseg: --help"
FRAMES, SIZE = 48, (512, 256)
"""Training frames, and their width and height, of the set that ``make demo`` makes."""
SCRIPT = "fastseg/train.py"


def entries(request: Request) -> list[Entry]:
    """Return the entries; the demo's frames are made now if they are not in the cache."""
    settings = {"shards": str(procedural_frames(FRAMES, SIZE).shards()), "device": request.device}
    return [
        Entry("startup", FIRST_STEP, "starts/s", f"{__name__}:FirstStep", settings),
        Entry("startup", HELP, "starts/s", f"{__name__}:Help", {}),
    ]


def derived(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the seconds of each."""
    rates = {row.entry: row.spread.median for row in rows if row.stage == "startup" and row.windows}
    said = {FIRST_STEP: "from Enter to the first step of the demo", HELP: f"`python {SCRIPT} --help`"}
    names = {FIRST_STEP: "startup/first step", HELP: "startup/help"}
    return [
        {"name": names[entry], "value": 1 / rate, "sentence": f"{said[entry]} takes {1 / rate:.2f} s"}
        for entry, rate in rates.items()
    ]


class FirstStep(Benchmark):
    """A benchmark: each step starts a training of the recipe ``demo``, and kills it when its first step is logged."""

    def __init__(self, shards: str, device: str) -> None:
        """Train on ``shards`` on cuda or cpu."""
        self.runs = Path(tempfile.mkdtemp(prefix="fastseg-startup-"))
        launch = ("-m", "torch.distributed.run", SCRIPT, "--gpus", "1", "--recipe", "demo", "--device", device)
        config = ("--shards", shards, "--runs", str(self.runs), "--resume", "never", "--log-every", "1")
        self.command = [sys.executable, *launch, *config]

    def step(self) -> int:
        """Start, wait for the line of the first step, and end all processes; raise RuntimeError if it does not come."""
        shutil.rmtree(self.runs)
        process = subprocess.Popen(
            self.command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        assert process.stderr is not None
        last: deque[str] = deque(maxlen=80)
        try:
            for line in process.stderr:
                last.append(line)
                if line.startswith("step 1/"):
                    return 1
        finally:
            end(process.pid, "")
            process.communicate()
        raise RuntimeError(f"the training ended before its first step:\n{''.join(last)}")

    def close(self) -> None:
        """Remove the run."""
        shutil.rmtree(self.runs, ignore_errors=True)


class Help(Benchmark):
    """A benchmark: each step runs the training script with ``--help``."""

    def step(self) -> int:
        """Run it to its end."""
        subprocess.run([sys.executable, SCRIPT, "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        return 1
