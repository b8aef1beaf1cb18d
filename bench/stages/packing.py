"""Packing: source images and masks to a finished set of shards, beside the minimal work for it and peers' writers.

Imports nothing heavy: every packing starts processes that import this.
"""

import shutil
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from PIL import Image

from bench import peers
from bench.runner.results import Row
from bench.runner.runner import Entry
from bench.runner.worker import Benchmark
from bench.stages import Request
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.records import Codec
from fastseg.packing.sources import DataSet, open_source
from fastseg.parallel import ordered_map
from fastseg.shards.images import encode_jpeg, load_image
from fastseg.shards.tar import SPLITS

BARE = "bare PNG decode + JPEG encode"
"""By Pillow alone."""
FASTER_BARE = "bare PNG decode by kornia-rs + JPEG encode"
TASKS = 128
"""Minimum frames of a step, so that starting the worker processes, once per data set, weighs little."""


def entries(request: Request) -> list[Entry]:
    """Return fastseg's entry, then its two costliest parts alone, then the peers' writers with the same encoders."""
    assert request.frames is not None
    tasks = 1 if request.quick else TASKS
    settings = {"source": str(request.frames.source), "workers": request.cores, "tasks": tasks}
    return [
        Entry("packing", "fastseg", "frames/s", f"{__name__}:Packing", settings),
        Entry("packing", BARE, "frames/s", f"{__name__}:Bare", settings),
        Entry("packing", FASTER_BARE, "frames/s", f"{__name__}:Bare", settings | {"decoder": "kornia-rs"}),
        *(_writer(name, settings) for name in peers.writers() if request.takes(name)),
    ]


def _writer(name: str, settings: dict[str, Any]) -> Entry:
    """Return the entry of a peer's writer."""
    module, codec = peers.load(name), Codec()
    settings = {"peer": name, **settings, "quality": codec.quality, "chroma": codec.chroma}
    return Entry(
        *("packing", f"{module.WRITER}, bytes encoded as ours", "frames/s", "bench.peers._writing:Writing", settings),
        requires=(module.REQUIRES[0], "Pillow", "kornia_rs"),
        python=peers.interpreter(module),
    )


def at_least(tasks: int, source: Path) -> DataSet:
    """Return the source's samples, repeated under other keys until there are ``tasks`` of them."""
    found = open_source(source)
    repeated = islice(cycle(found.samples), max(tasks, len(found.samples)))
    samples = (replace(sample, key=f"{sample.key}-{i:04}") for i, sample in enumerate(repeated))
    return replace(found, samples=tuple(sorted(samples, key=lambda sample: (SPLITS.index(sample.split), sample.key))))


class Packing(Benchmark):
    """A benchmark: each step packs all frames into a new folder."""

    def __init__(self, source: str, workers: int, tasks: int) -> None:
        self.source, self.workers = at_least(tasks, Path(source)), workers
        self.folder = Path(tempfile.mkdtemp(prefix="fastseg-packing-"))

    def step(self) -> int:
        """Pack; return the number of frames."""
        # Into the folder of the step before: if killed, it leaves only one set behind.
        shutil.rmtree(self.folder)
        pack(self.source, self.folder, PackOptions(), self.workers)
        return len(self.source.samples)

    def figures(self) -> dict[str, float]:
        """Return the bytes of a packed frame, image and mask."""
        size = sum(path.stat().st_size for path in self.folder.glob("*.tar"))
        return {"bytes_per_frame": size / len(self.source.samples)}

    def close(self) -> None:
        """Remove what was packed."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Bare(Benchmark):
    """A benchmark: each step decodes and encodes all frames' images in as many processes, and drops the bytes."""

    def __init__(self, source: str, workers: int, tasks: int, decoder: str = "Pillow") -> None:
        self.images = [sample.image.path for sample in at_least(tasks, Path(source)).samples]
        self.workers, self.decoder = workers, decoder

    def step(self) -> int:
        """Decode and encode; return the number of frames."""
        tasks = ((str(path), self.decoder) for path in self.images)
        deque(ordered_map(decode_and_encode, tasks, min(self.workers, len(self.images))), maxlen=0)
        return len(self.images)


def decode_and_encode(path: str, decoder: str) -> int:
    """Encode a PNG file as a shard's JPEG; return its size only, since sending the bytes costs time."""
    codec = Codec()
    # kornia-rs decodes plain PNGs for packing.
    image = Image.open(path) if decoder == "Pillow" else load_image(Path(path).read_bytes(), path)
    return len(encode_jpeg(image.convert("RGB"), codec.quality, codec.chroma))


def derived(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the share of packing's time that is unavoidable."""
    bare = next((row for row in rows if row.stage == "packing" and row.entry == BARE and row.ratio_to_ours), None)
    if bare is None or bare.ratio_to_ours is None:
        return []
    share = 1 / bare.ratio_to_ours.median
    sentence = f"Packing reaches {100 * share:.0f} % of the speed of decoding and encoding the images alone"
    return [{"name": "packing/bare", "value": share, "sentence": sentence}]
