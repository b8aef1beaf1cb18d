"""Batch norm over a rank's images or over all ranks', in one graph and without a wait for the device."""

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """torch's BatchNorm2d with two differences in training; parameters, buffers and state dict are the same.

    ``num_batches_tracked`` is kept but not counted: with a fixed momentum nothing reads it, and counting is a kernel
    for every norm of the network. If ``synced`` is set, statistics are those of all ranks' images.
    """

    # torch allows None for these; torchvision's norms have all of them.
    running_mean: Tensor
    running_var: Tensor
    momentum: float

    synced = False
    """Whether to normalize by the statistics of all ranks, which must have joined a process group."""
    frozen = False
    """Whether to normalize by the running statistics in training too, and leave them as they are."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize N×C×H×W of any floating-point type; statistics are at least float32."""
        learning = self.training and not self.frozen
        if not (learning and self.synced):
            statistics, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
            return F.batch_norm(input, *statistics, *affine, learning, self.momentum, self.eps)
        mean, var, count = _global_statistics(input.detach())
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        output: Tensor = _Normalize.apply(input, self.weight, self.bias, mean, torch.rsqrt(var + self.eps), count)
        return output


def replace_batch_norms(network: nn.Module, momentum: float) -> None:
    """Make every ``nn.BatchNorm2d`` of ``network`` a :class:`BatchNorm` with ``momentum``, its values as they are."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # torchvision's networks have no argument for the norm layer of their heads.
            module.__class__ = BatchNorm
            module.momentum = momentum


def sync_batch_norms(network: nn.Module) -> None:
    """Let every :class:`BatchNorm` of ``network`` take its statistics over all ranks."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.synced = True


def freeze_batch_norms(network: nn.Module) -> None:
    """Let every :class:`BatchNorm` of ``network`` keep its statistics, weights and biases in training."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.frozen = True
            module.requires_grad_(False)


def _global_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance of each channel over all ranks, C each, and the number of pixels, 1.

    Each rank sends its own mean, variance and count, which are merged as Chan et al. 1979 do: sums of squares would
    lose all digits where the mean is large beside the deviation. One message: a row for each rank, added up.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    mine = torch.cat([mean, var, mean.new_full((1,), x.numel() // x.shape[1])])
    ranks = torch.arange(dist.get_world_size(), device=x.device).view(-1, 1)
    rows = _sum_over_ranks(torch.where(ranks == dist.get_rank(), mine, 0.0))
    means, variances, counts = rows.split([len(mean), len(mean), 1], 1)
    count = counts.sum(0)
    mean = (means * counts).sum(0) / count
    return mean, ((variances + (means - mean) ** 2) * counts).sum(0) / count, count


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return the sum of ``tensor`` over all ranks; the compiler traces it, and a GPU waits in its own queue."""
    group = dist.group.WORLD
    assert group is not None
    summed: Tensor = collectives.wait_tensor(collectives.all_reduce(tensor, "sum", group))
    return summed


class _Normalize(torch.autograd.Function):
    """(x - mean) · invstd · weight + bias, where mean and invstd are functions of all ranks' x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, count: Tensor
    ) -> Tensor:
        """Return the normalized x in its dtype, and save what the backward pass needs."""
        ctx.save_for_backward(x, weight, mean, invstd, count)
        return ((x - _channels(mean)) * _channels(weight * invstd) + _channels(bias)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients as torch does: weight's and bias's are the rank's own, summed by DDP like all others."""
        x, weight, mean, invstd, count = ctx.saved_tensors
        dy = gradients[0].to(mean.dtype)
        normalized = (x - _channels(mean)) * _channels(invstd)
        own = torch.stack([dy.sum((0, 2, 3)), (dy * normalized).sum((0, 2, 3))])
        means = _sum_over_ranks(own) / count
        dx = (dy - _channels(means[0]) - normalized * _channels(means[1])) * _channels(weight * invstd)
        return dx.to(x.dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), None, None, None


def _channels(values: Tensor) -> Tensor:
    """Reshape C → 1×C×1×1."""
    return values.view(1, -1, 1, 1)
