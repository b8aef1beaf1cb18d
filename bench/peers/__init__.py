"""The peers: a small file for each, the real library used as its own documentation recommends.

A loader's peer ``bench/peers/NAME.py`` has, some of it imported from here,

- ``NAME``, as tables show it; ``REQUIRES``, the distributions that it needs; perhaps ``ENVIRONMENT``, the environment
  variable that names another Python interpreter to run it with, and ``PREFETCH``, the finished batches that each of its
  workers holds, if not two;
- ``candidates(cores, device) -> list[dict]``: the settings worth trying, the usual best first;
- ``prepare(frames)``: converts the frames to the library's own format, once;
- ``batches(frames, work, **settings)``: endless (image, label), ready to train on: uint8 N×H×W×3 and N×H×W unless
  its docstring says otherwise, on ``work.device``;
- ``sample(image, mask, draw, work, **settings)``: the work that ``batches`` does for one sample, from the encoded bytes
  of image and mask to (image, label); ``draw`` gets the frame's (height, width) and returns the window to show and the
  matrix that changes its colors, applied by _colors.py.

A peer that converts a data set first is one of packing, too (_writing.py), if it has ``WRITER``, its name there, and
``write(encode, pairs, folder, workers)``, which by as many processes writes ``encode(paths)`` of each pair of PNG files
into an empty folder.

Peers import their libraries inside their functions, so that listing them needs none. Files that begin with an
underscore are shared by several; ``step_…`` are peers of the training step.
"""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fastseg.errors import UserError

if TYPE_CHECKING:
    from bench.stages.frames import Frames

STEP = "step_"


def known() -> list[str]:
    """Return the names of all peers, from their files."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def loaders() -> list[str]:
    """Return the names of the peers that are loaders."""
    return [name for name in known() if not name.startswith(STEP)]


def writers() -> list[str]:
    """Return the names of the peers that convert a data set."""
    return [name for name in loaders() if hasattr(load(name), "write")]


def load(name: str) -> ModuleType:
    """Return the peer called ``name``; raise :class:`UserError` for any other name."""
    if name not in known():
        raise UserError(f"there is no peer {name!r}; choose from: {', '.join(known())}")
    return importlib.import_module(f"bench.peers.{name}")


def worker_counts(cores: int) -> list[int]:
    """Return numbers of worker processes or threads to try: one per core, and half as many more."""
    return [cores, cores + max(cores // 2, 1)]


def by_workers(cores: int, _device: str = "cpu") -> list[dict[str, Any]]:
    """Return candidates that differ in the number of workers."""
    return [{"workers": workers} for workers in worker_counts(cores)]


def by_workers_and_masks(cores: int, _device: str = "cpu") -> list[dict[str, Any]]:
    """Return candidates that differ in the number of workers and in how masks are stored."""
    return [{"workers": workers, "masks": masks} for workers in worker_counts(cores) for masks in ("tif", "png")]


def nothing(_frames: "Frames") -> None:
    """Prepare nothing: the peer reads the frames as they are."""


def interpreter(peer: ModuleType) -> str:
    """Return the peer's Python: this one, unless the variable ``peer.ENVIRONMENT`` names another."""
    return os.environ.get(getattr(peer, "ENVIRONMENT", ""), "") or sys.executable
