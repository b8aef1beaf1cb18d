"""Write frames in a peer's format: the counterpart of packing, for the peers that convert a data set first.

They store the bytes that they are given, so that they get what fastseg's shards hold: each image decoded from PNG and
encoded as JPEG, each mask as TIFF, by fastseg's own functions. They neither check nor count anything.
"""

import shutil
import tempfile
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from bench import peers
from bench.runner.worker import Benchmark

Paths = tuple[str, str]
"""PNG files of an image and its mask of train ids."""


def encode_pair(paths: Paths, quality: int, chroma: str) -> dict[str, Any]:
    """Decode image and mask, and encode them as in fastseg's shards."""
    from fastseg.shards.images import encode_jpeg, encode_tiff, load_image

    image, mask = (load_image(Path(path).read_bytes(), path) for path in paths)
    return {"image": encode_jpeg(image.convert("RGB"), quality, chroma), "mask": encode_tiff(mask)}


class Writing(Benchmark):
    """A benchmark: each step encodes all frames and writes them to a new folder in a peer's format."""

    def __init__(self, peer: str, source: str, workers: int, tasks: int, quality: int, chroma: str) -> None:
        images = sorted(Path(source).glob("*/images/*.png"))
        pairs = [(str(image), str(image.parent.parent / "masks" / image.name)) for image in images]
        self.pairs = list(islice(cycle(pairs), max(tasks, len(pairs))))
        self.write, self.workers = peers.load(peer).write, workers
        self.encode = partial(encode_pair, quality=quality, chroma=chroma)
        self.folder = Path(tempfile.mkdtemp(prefix="fastseg-writing-"))

    def step(self) -> int:
        """Encode and write; return the number of frames."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.write(self.encode, self.pairs, self.folder, self.workers)
        return len(self.pairs)

    def figures(self) -> dict[str, float]:
        """Return the bytes of a stored frame, image and mask."""
        size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        return {"bytes_per_frame": size / len(self.pairs)}

    def close(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self.folder, ignore_errors=True)
