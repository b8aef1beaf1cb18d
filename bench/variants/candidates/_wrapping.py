"""Rebuild the wrappers of a built step's network: DDP and the compiler."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fastseg.training.step as step_module
from bench.stages.compute import Ours
from fastseg.training.compiled import CompiledNetwork


def uncompiled(ours: Ours) -> nn.Module:
    """Return the network with its loss, in DDP if there are several ranks."""
    return ours.state.train_step.network.uncompiled


def compile_again(ours: Ours, mode: str) -> None:
    """Compile in another of torch.compile's modes; nothing has been compiled yet."""
    ours.state.train_step.network.compile(mode)


def use_loss(ours: Ours, loss: Callable[..., Tensor]) -> None:
    """Change the loss in this network alone, so that a step's operations are still counted with the plain one.

    ``loss`` is the cross-entropy of all pixels: the measured recipe has no other.
    """
    cast(step_module.LossNetwork, uncompiled(ours)).loss = loss


def distribute_again(ours: Ours, **options: Any) -> None:
    """Wrap the network in a DDP with further ``options``, compiled if it was."""
    network = cast(step_module.LossNetwork, uncompiled(ours).module)
    step_module.DistributedDataParallel = partial(DistributedDataParallel, **options)  # type: ignore[assignment, misc]
    step = ours.state.train_step
    wrapped = step_module._wrap(network, ours.ranks, step.network.compiled)
    step.network = CompiledNetwork(wrapped, ours.config.model, ours.ranks, step.network.problem)
