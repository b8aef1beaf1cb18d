"""What stands around a built step's network, DDP and the compiler, put there anew."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fastseg.loop.step as step_module
from bench.suite.stages.compute import Ours


def uncompiled(ours: Ours) -> nn.Module:
    """The network with its loss, in DDP where there are several ranks."""
    network = ours.state.train_step._network
    return cast(nn.Module, getattr(network, "_orig_mod", network))


def compile_again(ours: Ours, mode: str) -> None:
    """In another of torch.compile's modes; nothing has been compiled yet."""
    ours.state.train_step._network = cast(nn.Module, torch.compile(uncompiled(ours), mode=mode))


def use_loss(ours: Ours, loss: Callable[..., Tensor]) -> None:
    """In this network alone, so that whoever counts a step's operations counts the plain one's.

    ``loss`` is the cross-entropy of all pixels: the recipe that is measured has no other.
    """
    cast(step_module.LossNetwork, uncompiled(ours)).loss = loss


def distribute_again(ours: Ours, **options: Any) -> None:
    """In a DDP with further ``options``, compiled if it was."""
    network = cast(step_module.LossNetwork, uncompiled(ours).module)
    step_module.DistributedDataParallel = partial(DistributedDataParallel, **options)  # type: ignore[assignment, misc]
    ours.state.train_step._network = step_module._wrap(network, ours.config, ours.ranks)
