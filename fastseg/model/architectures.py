"""The table of networks that can be trained, with all that depends on a network's parts."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models import get_model

from fastseg.errors import UserError, shown
from fastseg.model.deeplabv3plus import build_resnet18

Net = Any
"""An ``nn.Module`` made by :attr:`Architecture.build`, whose parts only its entry knows."""


@dataclass(frozen=True)
class Architecture:
    """Build and run a network, and name the parts of its state dict."""

    build: Callable[[int, bool], nn.Module]
    """(number of classes, whether with the auxiliary head) → the network with fresh weights. Called directly in
    evaluation mode it maps normalized images N×3×H×W of any size to logits N×C×H×W, alone or as ``out`` of a dict."""
    logits: Callable[[Net, Tensor], Mapping[str, Tensor]]
    """The forward pass in training: (network, normalized images N×3×H×W) → logits N×C×h×w, not upsampled, by head:
    ``out``, and in training mode ``aux`` if the network was built with it."""
    heads: Mapping[str, str]
    """Modules that end in logits: ``out``, and ``aux`` where :attr:`build` can add it."""
    class_layers: tuple[str, ...]
    """Layers with one output per class, which weights for other classes cannot fill. The first belongs to ``out``."""
    stride: int
    """Output stride: pixels of the image per logit, along each axis."""
    backbone: str = "backbone"
    """The module that holds the layers of torchvision's classification network, under their names there."""
    pretrained: Mapping[str, str] | None = None
    """Pretrained weights for ``--model.weights``: imagenet and coco → the torchvision network that they belong to."""
    torchvision: bool = False
    """Whether torchvision builds the network under the entry's name: then weights can be used without fastseg."""

    def has_aux(self, names: Iterable[str]) -> bool:
        """Return whether the auxiliary head is among the ``names`` of a state dict."""
        return "aux" in self.heads and any(name.startswith(f"{self.heads['aux']}.") for name in names)

    def count_classes(self, state: Mapping[str, Tensor]) -> int:
        """Return the number of classes of the network's state dict; raise KeyError for another network's."""
        return len(state[f"{self.class_layers[0]}.weight"])


def _build(name: str, classes: int, aux: bool) -> nn.Module:
    net: nn.Module = get_model(name, weights=None, weights_backbone=None, num_classes=classes, aux_loss=aux)
    return net


def _two_heads(net: Net, images: Tensor) -> dict[str, Tensor]:
    """Run DeepLabv3 or FCN as torchvision does, without upsampling; the auxiliary head only in training."""
    features = net.backbone(images)
    logits = {"out": net.classifier(features["out"])}
    if net.training and net.aux_classifier is not None:
        logits["aux"] = net.aux_classifier(features["aux"])
    return logits


def _one_head(net: Net, images: Tensor) -> dict[str, Tensor]:
    """Run LR-ASPP as torchvision does, without upsampling."""
    return {"out": net.classifier(net.backbone(images))}


def _with_aux(name: str, backbone: str, stride: int) -> Architecture:
    """Return an entry for one of torchvision's DeepLabv3 and FCN networks."""
    return Architecture(
        build=partial(_build, name),
        logits=_two_heads,
        heads={"out": "classifier", "aux": "aux_classifier"},
        class_layers=("classifier.4", "aux_classifier.4"),
        stride=stride,
        pretrained={"imagenet": backbone, "coco": name},
        torchvision=True,
    )


ARCHITECTURES: dict[str, Architecture] = {
    "deeplabv3_resnet50": _with_aux("deeplabv3_resnet50", "resnet50", stride=8),
    "deeplabv3_resnet101": _with_aux("deeplabv3_resnet101", "resnet101", stride=8),
    "deeplabv3_mobilenet_v3_large": _with_aux("deeplabv3_mobilenet_v3_large", "mobilenet_v3_large", stride=16),
    "fcn_resnet50": _with_aux("fcn_resnet50", "resnet50", stride=8),
    "fcn_resnet101": _with_aux("fcn_resnet101", "resnet101", stride=8),
    "lraspp_mobilenet_v3_large": Architecture(
        build=partial(_build, "lraspp_mobilenet_v3_large"),
        logits=_one_head,
        heads={"out": "classifier"},
        class_layers=("classifier.low_classifier", "classifier.high_classifier"),
        stride=8,
        pretrained={"imagenet": "mobilenet_v3_large", "coco": "lraspp_mobilenet_v3_large"},
        torchvision=True,
    ),
    "deeplabv3plus_resnet18": Architecture(
        build=build_resnet18,
        logits=lambda net, images: net.logits(images),
        heads={"out": "classifier"},
        class_layers=("classifier.7",),
        stride=4,
        pretrained={"imagenet": "resnet18"},
    ),
}
"""Networks by their ``--model.arch`` (:data:`fastseg.config.Arch`)."""
OFFERED = tuple(ARCHITECTURES)
"""Those that come with fastseg."""


def own_architecture(network: nn.Module | Callable[[int], nn.Module] | Architecture) -> Architecture:
    """Return an entry for a network of one's own.

    ``network``: a function from the number of classes to a module, or a module, which is copied whenever the network is
    built. The module maps normalized images N×3×H×W to logits N×C×h×w of any size, alone, as ``out`` of a dict (with
    ``aux`` it is not trained) or as the attribute ``logits``. An :class:`Architecture` says more: its heads, and its
    last layers. Raises :class:`UserError` for anything else.
    """
    if isinstance(network, Architecture):
        return network
    if not callable(network):
        raise UserError(
            f"model is {shown(network)}; it must be a module, or a function from a number of classes to one"
        )
    return Architecture(partial(_build_own, network), _own_logits, heads={"out": ""}, class_layers=(), stride=1)


def _build_own(network: nn.Module | Callable[[int], nn.Module], classes: int, _aux: bool) -> nn.Module:
    net = deepcopy(network) if isinstance(network, nn.Module) else network(classes)
    if not isinstance(net, nn.Module):
        raise UserError(f"the function that builds the network returned {shown(net)}; it must return an nn.Module")
    return net


def _own_logits(net: Net, images: Tensor) -> dict[str, Tensor]:
    output = net(images)
    if isinstance(output, Mapping) and "out" in output:
        return {"out": output["out"]}
    return {"out": output if isinstance(output, Tensor) else getattr(output, "logits", output)}


def register_network(name: str, network: nn.Module | Callable[[int], nn.Module] | Architecture) -> None:
    """Make a network of one's own known as ``name``: to train it, and to load its checkpoints in another process.

    ``network``: see :func:`own_architecture`. Raises :class:`UserError` for the name of a network that fastseg has.
    """
    if name in OFFERED:
        raise UserError(f"a network of your own is called {name}, as one of fastseg's; give it another name")
    ARCHITECTURES[name] = own_architecture(network)
