"""The frames that all entries share, in every format that one of them reads, and the work on them.

The same frames lie below one folder as the source PNGs, as single JPEGs and TIFFs and as shards of several codecs. The
JPEGs that peers read are plain: with fastseg's restart markers, decoders take up to a fifth longer (see "Restart
Markers" in libjpeg-turbo's README), which only cutting makes up for. The frames come from a set of shards, or are
procedural, and are cached for later calls. Imports nothing heavy at the top: a peer's environment may lack
what packing needs.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.config import AugmentConfig
from fastseg.data.augment import Window, color_matrix, sample_color, sample_crop, sample_rng
from fastseg.errors import UserError

CODECS = ("jpg-tif", "jpg-png", "png-tif", "plain-tif", "plain-png")
"""Image and mask of the sets of shards; plain: JPEGs without restart markers, which cannot be cut."""
SHARDS = 4
"""Shards of the train split in each set: for readers that distribute work by shards."""
DONE = "done"
VERSION = 2

Colors = NDArray[np.float64] | None
"""The 3×4 matrix that changes (R, G, B, 1), 0–255; None: colors stay."""


class Drawn(NamedTuple):
    """The crop that a sample shows."""

    window: Window
    """The part of the frame, and its position in the crop."""
    colors: Colors
    """The change of the window's colors; the padding keeps its own."""


Draw = Callable[[tuple[int, int]], Drawn]
"""Draws the crop of a frame of (height, width) pixels."""
Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""


@dataclass(frozen=True)
class Work:
    """The work of every loader: resize by a random ratio, crop, flip, change colors, pad, and return batches."""

    crop: tuple[int, int] = (768, 768)
    """Height and width of the crops, pixels."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the ratio by which frames are resized before the crop."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    colors: bool = True
    """Whether colors change at random, as the default recipe has them change."""
    batch: int = 8
    """Samples in a batch."""
    fill: tuple[int, int, int] = (124, 116, 104)
    """RGB of the padding; labels are padded with 255."""
    device: str = "cpu"
    """Device of the finished batches: cpu or cuda."""
    seed: int = 0

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Work":
        """Build it from its fields as JSON has them, lists for tuples."""
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in document.items()}
        return cls(**fields)

    @property
    def augment(self) -> AugmentConfig:
        """Return the same as fastseg's settings."""
        default = AugmentConfig(crop=self.crop, scale=self.scale, flip=self.flip)
        return default if self.colors else replace(default, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)

    def draw(self, rng: np.random.Generator) -> Draw:
        """Return a draw from ``rng``, for loaders with a stream of samples per worker."""
        config = self.augment

        def draw(frame: tuple[int, int]) -> Drawn:
            window = sample_crop(rng, frame, config)
            return Drawn(window, color_matrix(*sample_color(rng, config)) if self.colors else None)

        return draw

    def draw_for(self, epoch: int, sample: int) -> Draw:
        """Return the draw of one sample of one epoch, for loaders that know them."""
        return self.draw(sample_rng(self.seed, epoch, sample))


@dataclass(frozen=True)
class Frames:
    """A finished folder of frames; raises :class:`UserError` on first use if it is not one."""

    root: Path

    @cached_property
    def about(self) -> dict[str, Any]:
        """Return keys (of train, in order), val (number), size (height, width of the first), classes (number)."""
        try:
            return json.loads((self.root / DONE).read_text())
        except (OSError, ValueError):
            raise UserError(f"{self.root} holds no finished frames; remove it and start the benchmark again") from None

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the names of the training frames, in order."""
        return tuple(self.about["keys"])

    @property
    def source(self) -> Path:
        """Return the data set: ``{train,val}/{images,masks}/KEY.png`` (train ids, 255 = ignored), classes.json."""
        return self.root / "source"

    @property
    def plain(self) -> Path:
        """Return the folder of the training frames with plain JPEGs for images."""
        return self.root / "plain"

    def image(self, key: str, suffix: str = "jpg") -> Path:
        """Return a training image's path: ``png``, the source; ``jpg``, a plain JPEG of fastseg's quality."""
        return (self.source if suffix == "png" else self.plain) / "train/images" / f"{key}.{suffix}"

    def mask(self, key: str, suffix: str = "png") -> Path:
        """Return the path of its mask of train ids: ``png``, the source; ``tif``, as in the shards."""
        return self.source / "train/masks" / f"{key}.png" if suffix == "png" else self.root / "tif" / f"{key}.tif"

    def shards(self, codecs: str = "jpg-tif") -> Path:
        """Return the set of shards of one of :data:`CODECS`."""
        return self.root / "shards" / codecs


def frames_of_shards(
    shards: Path,
    count: int = 32,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Frames:
    """Return the first ``count`` training frames (a quarter as many of val) of a set of shards, or all it has.

    Raises :class:`UserError` if ``shards`` is no finished set or its train split has no masks.
    """
    from bench.stages.frame_files import write_from_shards
    from fastseg.shards.manifest import read_manifest

    manifest = read_manifest(shards)
    if not manifest.split("train").labeled:
        raise UserError(f"the split 'train' of {shards} has no masks; name a labeled set with --shards")
    made_from = {"shards": manifest.digest(), "count": count}
    return _frames(made_from, partial(write_from_shards, shards, manifest, count), cache, workers, progress)


def procedural_frames(
    count: int = 32,
    size: tuple[int, int] = (2048, 1024),
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    own: bool = False,
) -> Frames:
    """Return ``count`` procedural scenes of ``size`` (width, height) for training, and a quarter as many for val.

    ``own``: images are JPEGs as users have them, with halved chroma and without restart markers, packed as they are.
    """
    from bench.stages.frame_files import write_scenes

    made_from = {"scenes": size, "count": count} | ({"own": True} if own else {})
    return _frames(made_from, partial(write_scenes, count, size), cache, workers, progress)


class FrameSize(NamedTuple):
    """A size of procedural frames, as ``--sizes`` of bench/throughput.py names it."""

    width: int
    height: int
    own: bool
    """Whether images are users' own JPEGs (:func:`procedural_frames`)."""

    @classmethod
    def parse(cls, text: str) -> "FrameSize":
        """Read "2048x1024" or, for users' own JPEGs, "2048x1024-420"; raise :class:`UserError` for anything else."""
        match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})(-420)?", text)
        size = cls(int(match[1]), int(match[2]), bool(match[3])) if match else None
        if not (size and 64 <= size.width <= 8192 and 32 <= size.height <= 4096):
            raise UserError(
                f"--sizes has {text!r}; give sizes as 512x256, from 64x32 to 8192x4096, with -420 for users' own JPEGs"
            )
        return size

    @property
    def crop(self) -> tuple[int, int]:
        """Return height and width of the crops: 768², except that CamVid's frames are shown in their own size."""
        return (360, 480) if (self.width, self.height) == (480, 360) else (768, 768)


def once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return ``folder``; if it is missing, ``build`` first fills a temporary folder that is then renamed."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            made = Path(temporary) / folder.name
            made.mkdir()
            build(made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # another process was faster
                    raise
    return folder


def _frames(
    made_from: dict[str, Any],
    write_source: Callable[..., None],
    cache: Path | None,
    workers: int | None,
    progress: Progress | None,
) -> Frames:
    """Return the frames that ``write_source(folder, workers, progress)`` writes, from the cache if possible."""
    if made_from["count"] < 1:
        raise UserError(f"--frames is {made_from['count']}; it must be at least 1")
    named = json.dumps([VERSION, made_from, _code()], sort_keys=True)
    home = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastseg/bench"
    show: Progress = progress or (lambda *_: None)

    def build(root: Path) -> None:
        write_source(root / "source", workers, show)
        _pack(root, workers, show, made_from.get("own", False))
        (root / DONE).write_text(json.dumps({"made_from": made_from, **_describe(root)}))

    return Frames(once(home / hashlib.sha256(named.encode()).hexdigest()[:16], build))


def _code() -> str:
    """Return a hash of the code that encodes frames: when it changes, so do the bytes that a benchmark reads."""
    from fastseg.packing import records
    from fastseg.shards import images, jpeg_tiles, tar

    files = [Path(str(module.__file__)).read_bytes() for module in (images, records, tar, jpeg_tiles)]
    return hashlib.sha256(b"".join(files)).hexdigest()


def _pack(root: Path, workers: int | None, show: Progress, own: bool) -> None:
    """Write plain JPEGs, the sets of shards, and the TIFFs of the training frames as files."""
    from bench.stages.frame_files import extract_masks, write_plain
    from fastseg.packing.pack import PackOptions, pack
    from fastseg.packing.records import Codec
    from fastseg.packing.sources import open_source

    write_plain(root / "source", root / "plain", "420" if own else Codec().chroma, workers, show)
    for name in CODECS:
        image, mask = name.split("-")
        source = open_source(root / ("plain" if image == "plain" or (own and image == "jpg") else "source"))
        per_shard = -(-sum(sample.split == "train" for sample in source.samples) // SHARDS)
        # Plain JPEGs are packed as they are.
        codec = Codec(image="png" if image == "png" else "jpg", mask=mask)  # type: ignore[arg-type]
        show_set = partial(show, f"shards {name}")
        pack(source, root / "shards" / name, PackOptions(codec, per_shard), workers, progress=show_set)
    extract_masks(root / "shards/jpg-tif", root / "tif")


def _describe(root: Path) -> dict[str, Any]:
    from fastseg.shards.manifest import read_manifest

    manifest = read_manifest(root / "shards" / CODECS[0])
    keys = sorted(path.stem for path in (root / "tif").iterdir())
    height, width, _ = manifest.split("train").sizes[0]
    val = manifest.splits["val"].samples if "val" in manifest.splits else 0
    return {"keys": keys, "val": val, "size": [height, width], "classes": len(manifest.classes)}
