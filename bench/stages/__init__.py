"""The stages of the bench, and the request that a run passes to them.

A stage is a module ``bench.stages.NAME`` with ``entries(request: Request) -> list[Entry]`` and, for figures derived
from several rows, ``derived(rows: Sequence[Row]) -> list[dict[str, Any]]``: such as {"name": "train/compute", "value":
0.98, "sentence": "the loop reaches 98 % of compute alone"}; the sentences are printed below the stage's table,
everything goes to the JSON.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.stages.frames import Frames

STAGES = ("loader", "compute", "train", "packing", "evaluation", "inference", "scaling", "startup")
NETWORKS = ("compute", "train", "evaluation", "inference", "scaling")
"""Stages that run a network, with smaller defaults on a CPU."""
READERS = ("loader", "train", "packing", "evaluation")
"""Stages that read frames."""


@dataclass(frozen=True)
class Request:
    """The work that all entries of a stage have in common."""

    device: str
    """cuda or cpu."""
    crop: tuple[int, int]
    """Height and width of the training crop, pixels."""
    scale: tuple[float, float]
    """Range of the ratio by which frames are resized before the crop."""
    batch: int
    """Images per step and rank."""
    arch: str
    """torchvision's name of the network."""
    peers: tuple[str, ...]
    """Names of modules below bench/peers that take part; use :meth:`takes`."""
    cores: int
    """Number of CPU cores that this process may run on."""
    frames: "Frames | None" = None
    """Frames that all entries read; None for stages that need none."""
    ranks: int | None = None
    """Maximum gloo ranks of the scaling stage on the CPU; None: one rank per GPU."""
    quick: bool = False
    """Whether the whole bench should take two minutes on two cores."""
    precision: str = "auto"
    """As in fastseg.config.ModelConfig."""
    size: str | None = None
    """The frames' size in a run over several (--sizes): then only the entries to compare take part."""
    colors: bool = True
    """Whether the loader changes colors as the default recipe does."""

    def takes(self, peer: str) -> bool:
        """Return whether the peer takes part; step_notebook does with notebook."""
        return peer in self.peers or peer.removeprefix("step_") in self.peers
