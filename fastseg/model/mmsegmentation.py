"""Weights of mmsegmentation's networks, under the names of torchvision's where the layers are the same.

Its ``EncoderDecoder`` is a ``backbone``, a ``decode_head`` and an ``auxiliary_head``. A ResNet's blocks have
torchvision's names and, with ``style='pytorch'``, ``contract_dilation=True`` and the dilations 1, 1, 2, 4 of the
configurations called ``d8``, torchvision's strides and dilations: the same weights give the same features.
``ResNetV1c`` has another stem, and no ``decode_head`` is torchvision's: ASPP is twice as wide and ends otherwise.

Source: https://github.com/open-mmlab/mmsegmentation, configs/_base_/models/deeplabv3_r50-d8.py, and in mmseg/models
backbones/resnet.py, utils/res_layer.py, decode_heads/aspp_head.py, decode_heads/fcn_head.py.
"""

from collections.abc import Mapping

from torch import Tensor

from fastseg.model.architectures import Architecture

AUX = {
    "auxiliary_head.convs.0.conv.": "0.",
    "auxiliary_head.convs.0.bn.": "1.",
    "auxiliary_head.conv_seg.": "4.",
}
"""The layers of its ``FCNHead`` with one convolution, by their names in torchvision's."""

State = Mapping[str, Tensor]


def is_mmsegmentation(state: State) -> bool:
    """Return whether a state dict has the names of mmsegmentation's ``EncoderDecoder``."""
    return any(name.startswith("decode_head.") for name in state)


def to_torchvision(state: State, architecture: Architecture, own: State) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Rename the tensors of ``state`` that the network of ``architecture``, with the state dict ``own``, may have, too.

    Returns them, and why parts of the network must start anew, by how the names in these begin.
    """
    out, backbone, aux = architecture.heads["out"], architecture.backbone, architecture.heads.get("aux")
    reasons = {f"{out}.": f"main head ({_compare_heads(state, own, out)})"}
    if any(name.startswith("backbone.stem.") for name in state):
        stem = "stem (three 3×3 convolutions there, one of 7×7 here: what follows it sees other features)"
        reasons |= {f"{backbone}.conv1.": stem, f"{backbone}.bn1.": stem}
    renamed = {
        f"{backbone}.{name.removeprefix('backbone.')}" if name.startswith("backbone.") else name: value
        for name, value in state.items()
        if not name.startswith(("decode_head.", "auxiliary_head.", "backbone.stem."))
    }
    if aux and (head := _rename_aux(state, aux)):
        renamed |= head
    elif aux:
        reasons[f"{aux}."] = "auxiliary head (another one there)"
    return renamed, reasons


def _rename_aux(state: State, aux: str) -> dict[str, Tensor]:
    """Return the auxiliary head's tensors under the names below ``aux``; none if it has other layers."""
    theirs = {name: value for name, value in state.items() if name.startswith("auxiliary_head.")}
    layers = {name: next((layer for layer in AUX if name.startswith(layer)), None) for name in theirs}
    if None in layers.values():
        return {}
    return {f"{aux}.{AUX[layer]}{name.removeprefix(layer)}": theirs[name] for name, layer in layers.items() if layer}


def _compare_heads(state: State, own: State, out: str) -> str:
    """Say how the main heads differ."""
    theirs, ours = state.get("decode_head.aspp_modules.0.conv.weight"), own.get(f"{out}.0.convs.0.0.weight")
    if theirs is None or ours is None or not theirs.ndim:
        return "another one there"
    if len(theirs) != len(ours):
        return f"ASPP has {len(theirs)} channels there, {len(ours)} here"
    return "ASPP ends in a 3×3 convolution there, in a 1×1 and a 3×3 here"
