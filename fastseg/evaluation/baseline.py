"""The baseline that training has to beat: torchvision's network for Pascal VOC's classes, trained on COCO."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from fastseg.errors import UserError
from fastseg.model.architectures import ARCHITECTURES
from fastseg.model.inference import ONCE, TtaViews, predict
from fastseg.model.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fastseg.model.pretrained import download_weights
from fastseg.model.weights import fitting

ARCH = "deeplabv3_resnet50"
"""Default network."""
ALSO_CALLED = {
    "aeroplane": ("airplane", "plane"),
    "bicycle": ("bike",),
    "cow": ("cattle",),
    "diningtable": ("table",),
    "motorbike": ("motorcycle",),
    "person": ("pedestrian", "people", "human"),
    "sofa": ("couch",),
    "tvmonitor": ("tv", "television", "monitor"),
}
"""Other names of VOC's classes. A rider or bicyclist is none of them: VOC labels a person and a bicycle, and telling
riders from pedestrians is one of the gains of training on a set's own classes."""


class Match(NamedTuple):
    """A class of VOC and the set's class with the same meaning."""

    voc: int
    """Index of VOC's class among the network's."""
    train_id: int


class Baseline:
    """The untuned network, with its predictions mapped to the set's train ids."""

    def __init__(self, arch: str, classes: Sequence[str]) -> None:
        """Load the weights; ``classes`` are the set's names in the order of train ids.

        Raises :class:`fastseg.errors.UserError` if they are not available, or know none of the classes.
        """
        trained = (ARCHITECTURES[arch].pretrained or {}).get("coco")
        if not trained:
            raise UserError(f"torchvision has no network {arch} trained on COCO; name another with --arch")
        entry = get_model_weights(trained).DEFAULT
        self.name = f"{arch}, {entry.name}"
        self.voc: list[str] = entry.meta["categories"]
        """Classes of the network; the first is the background."""
        self.matches = counterparts(self.voc, classes)
        """Classes that VOC and the set share."""
        if not self.matches:
            raise UserError(
                f"none of the set's classes ({', '.join(classes[:3])}, …) is among those of the baseline "
                f"({', '.join(self.voc[1:])}); it cannot score them"
            )
        self.model = _load(arch, trained, len(self.voc))
        # Any other class gets the id after the set's last: a miss for the true class, a false alarm for none.
        self._train_ids = torch.full((len(self.voc),), len(classes), dtype=torch.uint8)
        for match in self.matches:
            self._train_ids[match.voc] = match.train_id

    def to(self, device: torch.device) -> "Baseline":
        """Move the network to ``device``."""
        self.model, self._train_ids = self.model.to(device), self._train_ids.to(device)
        return self

    def predict(self, image: Tensor, views: TtaViews = ONCE) -> Tensor:
        """Return the train id of every pixel, or C for none of the set's classes: uint8 N×H×W×3 → uint8 N×H×W.

        Frames go in at their full size, as for fastseg's checkpoints; torchvision's own preset would first make their
        shorter side 520 pixels.
        """
        return self._train_ids[predict(self.model, image, views).long()]


def counterparts(voc: Sequence[str], classes: Sequence[str]) -> list[Match]:
    """Return the classes of VOC that the set has too, by name (ignoring case and spaces) or synonym.

    VOC's background is left out: it means none of VOC's 20 classes, not none of the set's.
    """
    train_ids = {_letters(name): i for i, name in reversed(list(enumerate(classes)))}
    matches = []
    for i, name in enumerate(voc):
        known = [train_ids[n] for n in (_letters(name), *ALSO_CALLED.get(name, ())) if n in train_ids]
        if known and name != "__background__":
            matches.append(Match(i, known[0]))
    return matches


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _load(arch: str, trained: str, classes: int) -> SegmentationNetwork:
    cache = Path(torch.hub.get_dir(), "checkpoints")
    state = download_weights(trained, f"fetch it on a machine that can and put it into {cache}")
    aux = ARCHITECTURES[arch].has_aux(state)
    model = SegmentationNetwork(arch, classes, IMAGENET_MEAN, IMAGENET_STD, aux)
    with fitting(cache / Path(get_model_weights(trained).DEFAULT.url).name):
        # The last layer included: with a fresh one it would be no baseline.
        model.net.load_state_dict(state)
    return model.eval()
