"""fastseg's loader without one of its optimizations, replaced in the entry's process by the usual implementation."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bench.stages import Request
from bench.stages.loader import Batches, open_ours
from bench.variants import Changes

OTHER_SETTINGS: dict[str, dict[str, Any]] = {
    "TIFF masks (PNG)": {"codecs": "jpg-png"},
    "JPEG images (PNG)": {"codecs": "png-tif"},
    "cutting JPEGs": {"codecs": "plain-tif"},
    "batches made ahead": {"prefetch": 1},
}
"""Name → settings of :func:`bench.stages.loader.open_ours`."""


WITH = {"cutting JPEGs nor decoding their window alone": "cutting JPEGs"}
"""Those of :data:`REPLACEMENTS` that also need other settings."""


def changes(request: Request) -> Changes:
    """Return the optimizations that can be removed from the loader on a device."""
    used = [part for part, (_, devices) in REPLACEMENTS.items() if request.device in devices]
    return {f" without {part}": (f"{__name__}:open_variant", {"without": part}) for part in (*OTHER_SETTINGS, *used)}


def open_variant(without: str, **settings: Any) -> Batches:
    """Build fastseg's batches without one of :data:`OTHER_SETTINGS` or :data:`REPLACEMENTS`."""
    if without in OTHER_SETTINGS:
        return open_ours(**settings | OTHER_SETTINGS[without])
    REPLACEMENTS[without][0]()
    return open_ours(**settings | OTHER_SETTINGS.get(WITH.get(without, ""), {}))


def _whole_frames() -> None:
    """Decode whole frames, then take the window."""
    import nvidia.dali.fn as fn

    from fastseg.data import dali_graph

    def window(source: Any, start: Any, shape: Any, codec: str, output_type: Any, **decoder: Any) -> Any:
        del codec  # a loader of files
        whole = fn.decoders.image(source, output_type=output_type, **decoder)
        return fn.slice(whole, start=start, shape=shape, axes=[0, 1])

    dali_graph._window = window


def _resize_by_dali() -> None:
    """Run the GPU's graph on the CPU."""
    from fastseg.data import loader

    loader._resized_on_cpu = loader._by_graph


def _read_when_asked() -> None:
    """Read and cut records only when they are needed, in the waiting thread."""
    from fastseg.data import sampler

    def read(indexes: Iterable[Any], read_one: Callable[[Any], Any], _reader: Any, _depth: int) -> Iterator[Any]:
        yield from map(read_one, indexes)

    sampler.read_ahead = read  # type: ignore[assignment]


def _floats() -> None:
    """Normalize in the resizing threads, and return float32, as usual loaders do."""
    import torch

    from fastseg.data.dali_graph import CpuResizer
    from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD

    finish, (mean, std) = CpuResizer.__call__, (torch.tensor(values) for values in (IMAGENET_MEAN, IMAGENET_STD))

    def normalize(image: torch.Tensor, out: torch.Tensor) -> None:
        torch.div(image - mean, std, out=out)

    def finished(self: CpuResizer, *windows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = finish(self, *windows)
        floats = torch.empty(images.shape)
        list(self._pool.map(normalize, images, floats))
        return floats, labels

    CpuResizer.__call__ = finished  # type: ignore[method-assign, assignment]


REPLACEMENTS: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
    "cutting JPEGs nor decoding their window alone": (_whole_frames, ("cpu", "cuda")),
    "resizing and coloring beside DALI": (_resize_by_dali, ("cpu",)),
    "reading ahead": (_read_when_asked, ("cpu", "cuda")),
    "handing over bytes": (_floats, ("cpu",)),
}
"""Name → the function that removes it, and the devices on which it is in use."""
