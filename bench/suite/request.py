"""What one run of the suite is asked to measure: every stage's module reads it and names its contestants.

A stage is a module ``bench.suite.stages.NAME`` with ``contestants(request: Request) -> list[Contestant]`` and, if its
rows say something together, ``derived(rows: Sequence[Row]) -> list[dict[str, Any]]``: figures that come of several
rows, such as {"name": "train/compute", "value": 0.98, "sentence": "the loop reaches 98 % of compute alone"}; the
sentences stand below the stage's table, the whole in the JSON.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.suite.frames import Frames

STAGES = ("loader", "compute", "train", "packing", "evaluation", "scaling")


@dataclass(frozen=True)
class Request:
    """The work that all contestants of a stage do alike."""

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
    """Whether the whole suite has two minutes on two cores."""
    precision: str = "auto"
    """As in fastseg.config.ModelConfig."""

    def takes(self, peer: str) -> bool:
        """Whether the peer takes part; step_seed does where seed does."""
        return peer in self.peers or peer.removeprefix("step_") in self.peers
