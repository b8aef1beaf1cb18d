"""Loading: from records or files to batches ready to train on, as the default recipe has them; fastseg whole and by
parts, then the peers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import peers
from bench.runner.results import Row
from bench.runner.runner import Entry
from bench.runner.worker import Benchmark
from bench.stages import Request
from bench.stages.frames import Frames, Work

SETS = {"jpg-tif": "fastseg", "jpg-png": "fastseg, PNG masks", "png-tif": "fastseg, PNG images"}
"""Codecs of image and mask → the entry that reads them."""
PLAIN = "fastseg, plain crops"
"""The entry without changes of color."""
WAY: dict[str, dict[str, Any]] = {"cuda": {"way": "stream"}, "cpu": {"way": "cpu"}}
"""Settings of fastseg's loader on a device."""
QUICK = ("notebook", "torchvision_v2", "nvimagecodec")
"""Peers of a quick run."""
PARTS = {
    "read": "fastseg: reading and cutting alone",
    "image": "fastseg: … and decoding images",
    "mask": "fastseg: … and decoding masks",
}
"""Parts of fastseg's loader, each with those before it, except that images and masks are decoded alone."""


def entries(request: Request) -> list[Entry]:
    """Return fastseg's entries for every kind of shards, its parts, and the peers that take part."""
    assert request.frames is not None
    settings = settings_of(request)
    takes = [name for name in peers.loaders() if request.takes(name)]
    if request.quick or request.size:
        compared = [ours("fastseg", settings | WAY[request.device])]
        compared += [] if request.quick else _plain(request, settings)
        return compared + [_peer(name, request, settings) for name in takes]
    ways = ["stream", "cpu"] if request.device == "cuda" else ["cpu"]
    found = [
        ours(f"{name}{' on the CPU' * (way == 'cpu' != request.device)}", settings | {"codecs": codecs, "way": way})
        for way in ways
        for codecs, name in SETS.items()
    ]
    found.append(ours("fastseg, cached", settings | WAY[request.device] | {"cached": True}))
    found += _plain(request, settings)
    found += [ours(name, settings | {"part": part}, "open_part") for part, name in PARTS.items()]
    return found + [_peer(name, request, settings) for name in takes]


def settings_of(request: Request) -> dict[str, Any]:
    """Return frames and work as settings for this stage's factories."""
    assert request.frames is not None
    work = {"crop": request.crop, "scale": request.scale, "colors": request.colors}
    work |= {"batch": request.batch, "device": request.device}
    return {"root": str(request.frames.root), "work": work, "threads": request.cores}


def _plain(request: Request, settings: dict[str, Any]) -> list[Entry]:
    """Return fastseg's entry without changes of color, unless all have none."""
    work = settings["work"] | {"colors": False}
    return [ours(PLAIN, settings | WAY[request.device] | {"work": work})] if request.colors else []


def ours(name: str, settings: dict[str, Any], factory: str = "open_ours") -> Entry:
    """Return one of fastseg's entries."""
    return Entry("loader", name, "images/s", f"{__name__}:{factory}", settings)


def _peer(name: str, request: Request, settings: dict[str, Any]) -> Entry:
    module = peers.load(name)
    absent = "left out by --quick" if request.quick and name not in QUICK else None
    candidates = () if absent else tuple(module.candidates(request.cores, request.device))
    factory = f"{__name__}:open_peer"
    settings = {key: settings[key] for key in ("root", "work")} | {"peer": name}
    title, python = module.NAME, peers.interpreter(module)
    return Entry(
        "loader", title, "images/s", factory, settings, candidates, module.REQUIRES, absent=absent, python=python
    )


def derived(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return how much slower the notebook project is, what colors cost, and where a frame's time goes in fastseg."""
    rates = {row.entry: row.spread.median for row in rows if row.stage == "loader" and row.windows}
    found = []
    ratios = {row.entry: row.ratio_to_ours for row in rows if row.stage == "loader"}
    if notebook := ratios.get("notebook"):
        times = 1 / notebook.median
        found.append(
            {
                "name": "loader/notebook",
                "value": times,
                "sentence": f"ours loads {times:.1f}× what the notebook project does",
            }
        )
    if plain := ratios.get(PLAIN):
        share = 1 / plain.median
        sentence = f"with the default recipe's changes of color, ours loads {100 * share:.0f} % of the plain crops"
        found.append({"name": "loader/colors", "value": share, "sentence": sentence})
    # Times add up if all parts share the cores; a GPU works beside them.
    on_cpu = any(row.settings.get("way") == "cpu" and row.entry == "fastseg" for row in rows)
    if on_cpu and {"fastseg", *PARTS.values()} <= rates.keys():
        whole, read, image, mask = (1000 / rates[name] for name in ("fastseg", *PARTS.values()))
        spent = {
            "reading and cutting": read,
            "decoding the image": image - read,
            "decoding the mask": mask - read,
            "resizing and handing over": whole - image - mask + read,
        }
        slowest = max(spent, key=lambda part: spent[part])
        listed = ", ".join(f"{part} {milliseconds:.2f} ms" for part, milliseconds in spent.items())
        sentence = f"a frame takes {whole:.2f} ms: {listed}; the bottleneck is {slowest}"
        found.append({"name": "loader/parts", "value": spent[slowest] / whole, "parts": spent, "sentence": sentence})
    return found


class Batches(Benchmark):
    """A benchmark: one batch per step."""

    def __init__(self, batches: Iterator[int], warmup_steps: int) -> None:
        """Take ``batches``, which yields each one's number of images; ``warmup_steps`` empties the prefetch queues."""
        self._batches, self.warmup_steps = batches, warmup_steps

    def step(self) -> int:
        """Take the next batch; return its number of images."""
        return next(self._batches)

    def close(self) -> None:
        """Let the library stop its workers."""
        if hasattr(self._batches, "close"):
            self._batches.close()


def open_peer(root: str, work: dict[str, Any], peer: str, **settings: Any) -> Batches:
    """Build a peer's batches from the frames below ``root``."""
    module, frames, what = peers.load(peer), Frames(Path(root)), Work.from_json(work)
    module.prepare(frames)

    def images() -> Iterator[int]:
        for image, _label in module.batches(frames, what, **settings):
            yield len(image)

    # Each worker of a DataLoader holds two finished batches, if its peer does not change that.
    held = getattr(module, "PREFETCH", 2) * settings.get("workers", settings.get("threads", 1))
    return Batches(images(), held + 2)


def open_ours(
    root: str,
    work: dict[str, Any],
    threads: int,
    codecs: str = "jpg-tif",
    way: str = "cpu",
    prefetch: int = 2,
    cached: bool = False,
) -> Batches:
    """Build fastseg's training batches from one of :data:`SETS`; ``way``: stream (the GPU decodes) or cpu; ``cached``:
    from frames kept decoded in memory."""
    import torch

    from fastseg.data.frame_cache import allocate_arena
    from fastseg.data.loader import TrainLoader, open_files
    from fastseg.shards.manifest import read_manifest

    shards, what = Frames(Path(root)).shards(codecs), Work.from_json(work)
    manifest, device = read_manifest(shards), torch.device("cuda:0" if what.device == "cuda" else "cpu")
    loader = TrainLoader(
        open_files(shards, manifest, "train"),
        manifest.split("train"),
        what.augment,
        fill=what.fill,
        batch=what.batch,
        device=device,
        threads=threads,
        prefetch=prefetch,
        seed=0,
        decoder="gpu" if way == "stream" else "cpu",
        arena=allocate_arena(manifest.split("train"), device) if cached else None,
    )

    def images() -> Iterator[int]:
        while True:
            yield len(loader.next().image)

    # The first epoch decodes the frames to be cached.
    return Batches(images(), prefetch + 2 + cached * loader.steps_per_epoch)


def open_part(root: str, work: dict[str, Any], threads: int, part: str) -> Batches:
    """Build fastseg's batches up to one of :data:`PARTS`."""
    import torch

    from fastseg.data.loader import open_files
    from fastseg.data.loader_parts import loader_part
    from fastseg.shards.manifest import read_manifest

    shards, what = Frames(Path(root)).shards(), Work.from_json(work)
    device = torch.device("cuda:0" if what.device == "cuda" else "cpu")
    files = open_files(shards, read_manifest(shards), "train")
    run = loader_part(part, files, what.augment, batch=what.batch, device=device, threads=threads)

    def images() -> Iterator[int]:
        while True:
            run()
            yield what.batch

    return Batches(images(), 4)
