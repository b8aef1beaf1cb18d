"""Which of a file's tensors a network takes, under which names, and what of the network starts anew."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fastseg.errors import UserError, shown
from fastseg.model.architectures import ARCHITECTURES, Architecture
from fastseg.model.mmsegmentation import is_mmsegmentation, to_torchvision

State = Mapping[str, Tensor]

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What wrappers put before a network's names: DataParallel and DDP, torch.compile, modules of Lightning and of ours."""
MAX_PREFIXES = 8
HEADS = {"out": "main head", "aux": "auxiliary head"}


@dataclass(frozen=True)
class Match:
    """What of a state dict goes into a network."""

    tensors: dict[str, Tensor]
    """What the network takes, by its own names."""
    anew: tuple[str, ...]
    """Parts of the network that start anew, each with the reason in brackets."""
    problems: tuple[str, ...]
    """Why the weights cannot be used, each a clause; none: they can."""
    taken: str
    """Parts that something was taken for."""


def match_weights(arch: str, own: State, state: State) -> Match:
    """Find the tensors of ``state`` for a network of the table with the state dict ``own``.

    Only last layers made for other classes, heads that ``state`` has not, and what mmsegmentation's networks have
    otherwise may start anew; only heads that the network was built without may be left over.
    """
    architecture = ARCHITECTURES[arch]
    reasons: dict[str, str] = {}
    if is_mmsegmentation(state):
        state, reasons = to_torchvision(state, architecture, own)
    else:
        state = _add_backbone(architecture, own, state)
    tensors = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    reasons = _absent(architecture, own, state) | reasons
    why = {name: _why_anew(name, architecture, own, state, reasons) for name in own if name not in tensors}
    missing = [name for name, reason in why.items() if reason is None]
    unused = tuple(f"{head}." for head in architecture.heads.values() if not _any_below(head, own))
    surplus = [name for name in state if name not in own and not name.startswith(unused)]
    return Match(
        tensors,
        anew=tuple(dict.fromkeys(reason for reason in why.values() if reason)),
        problems=tuple(_problems(missing, surplus, own, state)),
        taken=", ".join(label for module, label in _parts(architecture).items() if _any_below(module, tensors)),
    )


def strip_prefixes(state: State, own: State, source: str) -> tuple[dict[str, Tensor], str]:
    """Return ``state`` without what wrappers put before the names of ``own``, and that.

    Raises :class:`UserError` where names with a prefix and without it are the same.
    """
    parts = {name.partition(".")[0] for name in own}
    stripped, found = dict(state), ""
    for _ in range(MAX_PREFIXES):
        begun = {f"{name.partition('.')[0]}." for name in stripped}
        prefix = next((prefix for prefix in PREFIXES if prefix in begun and prefix[:-1] not in parts), None)
        if prefix is None:
            break
        shorter = {name.removeprefix(prefix): value for name, value in stripped.items()}
        if len(shorter) < len(stripped):
            raise UserError(
                f"{source} has tensors of one name with and without {prefix!r}; save the network to start from alone"
            )
        stripped, found = shorter, found + prefix
    return stripped, found


def find_arch(state: State, than: str) -> str | None:
    """Return the first network of the table, other ``than`` the one named, that takes ``state``; None if none does."""
    for arch, architecture in ARCHITECTURES.items():
        if arch != than:
            with torch.device("meta"):  # names and shapes, no values
                own = architecture.build(2, "aux" in architecture.heads).state_dict()
            if not match_weights(arch, own, state).problems:
                return arch
    return None


def _add_backbone(architecture: Architecture, own: State, state: State) -> State:
    """Rename a classification network's weights to those of the backbone; any others stay as they are."""
    if any(name in own for name in state):
        return state
    if any(name.startswith("features.") for name in state):  # MobileNetV3
        state = {name.removeprefix("features."): v for name, v in state.items() if name.startswith("features.")}
    renamed = {f"{architecture.backbone}.{name}": v for name, v in state.items() if not name.startswith("fc.")}
    return renamed if any(name in own for name in renamed) else state


def _parts(architecture: Architecture) -> dict[str, str]:
    """Return what messages call the backbone and the heads, by the names of their modules."""
    return {architecture.backbone: "backbone"} | {module: HEADS[head] for head, module in architecture.heads.items()}


def _any_below(module: str, names: Iterable[str]) -> bool:
    return any(name.startswith(f"{module}.") for name in names)


def _absent(architecture: Architecture, own: State, state: State) -> dict[str, str]:
    """Return why parts of ``own`` start anew of which ``state`` has nothing, by how the names in them begin.

    These are heads; of a file that has the backbone alone, all else.
    """
    labels, modules = _parts(architecture), list(architecture.heads.values())
    if all(name.startswith(f"{architecture.backbone}.") for name in state):
        backbone = architecture.backbone.partition(".")[0]
        modules += sorted({name.partition(".")[0] for name in own} - {backbone, *modules})
    absent = (module for module in modules if not _any_below(module, state))
    return {f"{module}.": f"{labels.get(module, module)} (none there)" for module in absent}


def _why_anew(
    name: str, architecture: Architecture, own: State, state: State, reasons: Mapping[str, str]
) -> str | None:
    """Return why the tensor ``name`` may start anew, empty where that goes without saying; None: it may not."""
    if name.endswith("num_batches_tracked"):
        return ""
    for start, reason in reasons.items():
        if name.startswith(start):
            return reason
    if name.startswith(tuple(f"{layer}." for layer in architecture.class_layers)):
        return _compare_classes(state.get(name), own[name])
    return None


def _compare_classes(theirs: Tensor | None, ours: Tensor) -> str | None:
    """Say for how many classes a last layer was made; None if something else in its shape is different."""
    if theirs is None:
        return "class layers (none there)"
    if not theirs.ndim or theirs.shape[1:] != ours.shape[1:]:
        return None
    return f"class layers ({len(theirs)} classes there, {len(ours)} here)"


def _problems(missing: list[str], surplus: list[str], own: State, state: State) -> list[str]:
    problems = []
    if other := [name for name in missing if name in state]:
        there, here = (tuple(some[other[0]].shape) for some in (state, own))
        problems.append(f"{other[0]}{_more(other)} has the shape {there} there, {here} here")
    if absent := [name for name in missing if name not in state]:
        problems.append(f"{absent[0]}{_more(absent)} is not in it")
    if surplus:
        problems.append(f"the network has no {', '.join(map(shown, surplus[:3]))}{_more(surplus, 3)}")
    return problems


def _more(names: list[str], named: int = 1) -> str:
    return f" (and {len(names) - named} more)" if len(names) > named else ""
