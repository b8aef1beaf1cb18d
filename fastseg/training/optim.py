"""Build the optimizer, compute the learning rate of a step, and average weights."""

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn
from torch.optim import Optimizer

from fastseg.config import Config, OptimConfig
from fastseg.model.network import SegmentationNetwork

SHORT_WARMUP = 0.1
"""Share of a run that is its warm-up, if the configured one is longer than the run."""


def with_accumulation(config: Config, world: int) -> Config:
    """Return the settings for ``world`` ranks: as many accumulated batches as make up ``optim.global_batch``."""
    wanted = config.optim.global_batch
    if wanted is None:
        return config
    parts = max(round(wanted / (world * config.data.micro_batch)), 1)
    return replace(config, optim=replace(config.optim, accumulate=min(parts, 1024)))


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """Build fused SGD or AdamW; convolution weights decay, norms and biases (one dimension) do not.

    A fused optimizer updates all parameters in one kernel, and its ``found_inf`` skips a step without asking the host.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        adamw = torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)
        for parameter in parameters:
            # The values that its first step would begin with: what is left of the memory is measured before that.
            adamw.state[parameter]["step"] = torch.zeros((), device=parameter.device)
            adamw.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
            adamw.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
        return adamw
    sgd = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    for parameter in parameters if config.momentum else ():
        # If a skipped first step (found_inf) made the momentum, it would stay uninitialized.
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def total_steps(config: OptimConfig, steps_per_epoch: int) -> int:
    """Return the steps of the whole run."""
    return max(round(config.epochs * steps_per_epoch), 1)


def peak_lr(config: OptimConfig, global_batch: int) -> float:
    """Return the learning rate after warm-up, scaled with the global batch (Goyal et al. 2017, arXiv 1706.02677)."""
    return config.lr if config.lr_batch is None else config.lr * global_batch / config.lr_batch


def warmup_epochs(config: OptimConfig) -> float:
    """Return the epochs of warm-up: a tenth of a run that would be shorter than its warm-up."""
    return config.warmup if config.warmup < config.epochs else config.epochs * SHORT_WARMUP


def lr_at(step: int, total: int, warmup: int, peak: float, config: OptimConfig) -> float:
    """Return the learning rate of step ``step`` (from 0) of ``total``; it rises linearly for ``warmup`` steps."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.schedule == "constant":
        return peak
    progress = (step - warmup) / max(total - warmup, 1)
    low = peak * config.min_lr
    return low + (peak - low) * (1 - progress) ** 0.9


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate ``lr`` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class Average:
    """A second network whose weights and buffers are an exponential moving average of the trained one's.

    The decay warms up as (1 + t) / (10 + t), so that the first values do not linger in a short run, as in
    TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: SegmentationNetwork, decay: float) -> None:
        self.model = deepcopy(model).eval().requires_grad_(False)
        """The average, ready to be evaluated."""
        self._decay = decay
        now, average = model.state_dict(), self.model.state_dict()
        floating = [name for name, value in now.items() if value.is_floating_point()]
        self._now, self._average = [now[n] for n in floating], [average[n] for n in floating]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the trained network's values after step ``step`` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, self._now, 1 - decay)
