"""torchvision's network as it comes, trained on COCO for the classes of Pascal VOC: what training has to beat."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from fastseg.errors import UserError
from fastseg.model.architectures import ARCHITECTURES
from fastseg.model.deeplab import IMAGENET_MEAN, IMAGENET_STD, DeepLab
from fastseg.model.inference import ONCE, TtaViews, predict
from fastseg.model.pretrained import pretrained
from fastseg.model.weights import fitting

ARCH = "deeplabv3_resnet50"
"""The network where nothing says which."""
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
"""Other names of VOC's classes. A rider or bicyclist is none of them: to VOC that is a person on a bicycle, and telling
those from pedestrians is among the things that training on a set's own classes buys."""


class Match(NamedTuple):
    """A class of VOC and the one of the set that means the same."""

    voc: int
    """Index among the network's classes."""
    train_id: int


class Baseline:
    """The untuned network, whose predictions are train ids of another set of classes."""

    def __init__(self, arch: str, classes: Sequence[str]) -> None:
        """Load the weights; ``classes`` are the set's names in the order of train ids.

        Raises :class:`fastseg.errors.UserError` where they cannot be had, or know none of the classes.
        """
        trained = (ARCHITECTURES[arch].pretrained or {}).get("coco")
        if not trained:
            raise UserError(f"torchvision has no network {arch} trained on COCO; name another with --arch")
        entry = get_model_weights(trained).DEFAULT
        self.name = f"{arch}, {entry.name}"
        self.voc: list[str] = entry.meta["categories"]
        """What the network tells apart; the first is the background."""
        self.matches = counterparts(self.voc, classes)
        """Classes that it can say something about."""
        if not self.matches:
            raise UserError(
                f"none of the set's classes ({', '.join(classes[:3])}, …) is among those of the baseline "
                f"({', '.join(self.voc[1:])}); it has nothing to say about them"
            )
        self.model = _load(arch, trained, len(self.voc))
        # Whatever is no class of the set gets the id behind its last: a miss for the truth, a false alarm for nobody.
        self._train_ids = torch.full((len(self.voc),), len(classes), dtype=torch.uint8)
        for match in self.matches:
            self._train_ids[match.voc] = match.train_id

    def to(self, device: torch.device) -> "Baseline":
        """Move the network to ``device``."""
        self.model, self._train_ids = self.model.to(device), self._train_ids.to(device)
        return self

    def predict(self, image: Tensor, views: TtaViews = ONCE) -> Tensor:
        """Return the train id of every pixel, C where it sees none of the set's classes: uint8 N×H×W×3 → uint8 N×H×W.

        Frames go in at their full size, as for any checkpoint of ours; torchvision's own preset would first make
        their shorter side 520 pixels.
        """
        return self._train_ids[predict(self.model, image, views).long()]


def counterparts(voc: Sequence[str], classes: Sequence[str]) -> list[Match]:
    """Return the classes of VOC that the set has too, by their name (whatever its case and spaces) or another.

    Never VOC's background: that is what is none of its 20 classes, not what is none of the set's.
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


def _load(arch: str, trained: str, classes: int) -> DeepLab:
    cache = Path(torch.hub.get_dir(), "checkpoints")
    state = pretrained(trained, f"fetch it on a machine that can and put it into {cache}")
    aux = ARCHITECTURES[arch].has_aux(state)
    model = DeepLab(arch, classes, IMAGENET_MEAN, IMAGENET_STD, aux)
    with fitting(cache / Path(get_model_weights(trained).DEFAULT.url).name):
        # All of it, last layer included: with a fresh one it would be no baseline.
        model.net.load_state_dict(state)
    return model.eval()
