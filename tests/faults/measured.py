"""Commands whose memory is bounded and measured, one after the other, forked from a process that has imported all."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from forked import become, text

ROOT = Path(__file__).parent.parent.parent
IMPORTED = (
    "fastseg.commands.train",
    "fastseg.commands.evaluate",
    "fastseg.commands.predict",
    "fastseg.commands.export",
    "fastseg.training.run",
    "fastseg.evaluation.evaluator",
    "fastseg.deploy.predict_files",
    "fastseg.deploy.model_card",
    "fastseg.deploy.export_formats",
    "tools.make_shards",
    "loaded",
)
LONGEST = 300
"""Seconds after which a run that hangs is killed (SIGALRM)."""
SPARE = 6 << 30
"""Bytes of address space that a run may take beside the imports' before its allocations fail."""


@dataclass(frozen=True)
class Ended:
    """How a run went."""

    code: int
    """Exit code; below 0 the signal."""
    stdout: str
    stderr: str
    peak: int
    """Most memory it held, bytes; the imports alone hold some 0.4 GB."""


class Runner:
    """Runs the commands, and ``fastseg.load`` (loaded.py), without the seconds of their imports."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def run(self, module: str, *arguments: object, folder: Path, **environment: str) -> Ended:
        """Run the command of ``module`` in ``folder`` to its end."""
        words = [str(word) for word in arguments]
        request = {"module": module, "words": words, "folder": str(folder), "environment": environment}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)


def _serve() -> None:
    for name in IMPORTED:
        import_module(name)
    for line in sys.stdin:
        files = [os.memfd_create(name) for name in ("stdout", "stderr")]
        child = os.fork()
        if child == 0:
            become(partial(_call, json.loads(line)), *files, LONGEST)
        _, status, used = os.wait4(child, 0)
        out, err = (text(file) for file in files)
        ended = Ended(os.waitstatus_to_exitcode(status), out, err, used.ru_maxrss * 1024)
        print(json.dumps(asdict(ended)), flush=True)


def _call(request: dict[str, Any]) -> None:
    """Call the command's entry where and as it was asked for, its memory bounded."""
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.argv = [request["module"], *request["words"]]
    sys.modules[request["module"]].main()


if __name__ == "__main__":
    _serve()
