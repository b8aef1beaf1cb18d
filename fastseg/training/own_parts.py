"""Parts of a run that come as Python objects instead of settings: callbacks, a network, a loss, augmentations."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastseg.config import Config
from fastseg.data.augment import Augmentation, added_augmentations
from fastseg.errors import UserError
from fastseg.model.architectures import Architecture, register_network
from fastseg.model.loss import LossFunction
from fastseg.training.callbacks import Callback


@dataclass(frozen=True)
class OwnParts:
    """Parts of one's own; those that are left out are fastseg's."""

    callbacks: tuple[Callback, ...] = ()
    network: Architecture | None = None
    """Built in place of a network of the table, under the name ``config.model.arch``."""
    loss: LossFunction | None = None
    augmentations: Mapping[str, Augmentation] = field(default_factory=dict)
    """Applied after the table's."""

    def check(self, config: Config) -> None:
        """Raise :class:`UserError` for settings that the parts would leave without effect."""
        for name, value in (("class-weights", config.optim.class_weights), ("dice", config.optim.dice)):
            if self.loss and value:
                raise UserError(
                    f"--optim.{name} is {value:g}, which a loss of your own replaces; set it to 0, and weigh in yours"
                )

    @contextmanager
    def registered(self, config: Config) -> Iterator[None]:
        """Put the parts into their tables; the network stays there, so that its checkpoints can be loaded."""
        if self.network:
            register_network(config.model.arch, self.network)
        with added_augmentations(self.augmentations):
            yield


NONE = OwnParts()
"""No part of one's own."""
