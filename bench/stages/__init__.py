"""The stages of the bench, and what one run of it asks them to measure.

A stage is a module ``bench.stages.NAME`` with ``entries(request: Request) -> list[Entry]`` and, if its rows say
something together, ``derived(rows: Sequence[Row]) -> list[dict[str, Any]]``: figures that come of several rows, such as
{"name": "train/compute", "value": 0.98, "sentence": "the loop reaches 98 % of compute alone"}; the sentences stand
below the stage's table, the whole in the JSON.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.stages.frames import Frames

STAGES = ("loader", "compute", "train", "packing", "evaluation", "scaling")
NETWORKS = ("compute", "train", "evaluation", "scaling")
"""Stages that run a network, with smaller defaults on a CPU."""
READERS = ("loader", "train", "packing", "evaluation")
"""Stages that read frames."""


@dataclass(frozen=True)
class Request:
    """The work that all entries of a stage do alike."""

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
    """Names of modules below bench/peers that take part; ask :meth:`takes`."""
    cores: int
    """CPU cores that this process may run on."""
    frames: "Frames | None" = None
    """The frames that all read; None for stages that need none."""
    ranks: int | None = None
    """Gloo ranks on the CPU that scaling goes up to; None: one rank per GPU."""
    quick: bool = False
    """Whether the whole bench has two minutes on two cores."""
    precision: str = "auto"
    """As in fastseg.config.ModelConfig."""

    def takes(self, peer: str) -> bool:
        """Whether the peer takes part; step_notebook does where notebook does."""
        return peer in self.peers or peer.removeprefix("step_") in self.peers
