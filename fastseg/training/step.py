"""One optimization step: network, loss, gradients, and an update that a non-finite loss cannot reach."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastseg.config import Config, OptimConfig
from fastseg.device import autocast, precision_of
from fastseg.distributed.ranks import Ranks, sum_over_ranks
from fastseg.model.loss import LossFunction, segmentation_loss, weighed_loss
from fastseg.model.network import SegmentationNetwork
from fastseg.training.compiled import CompiledNetwork, find_problem, wants_compiling
from fastseg.training.optim import build_optimizer, set_lr
from fastseg.training.profiler import span


class LossNetwork(nn.Module):
    """Join network and loss in one module, so that they are compiled and wrapped by DDP together."""

    def __init__(
        self,
        model: SegmentationNetwork,
        config: OptimConfig,
        pixel_weights: Tensor | None = None,
        loss: LossFunction | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        own = partial(weighed_loss, loss=loss) if loss else None
        self.loss: Callable[..., Tensor] = own or partial(segmentation_loss, config=config, weights=pixel_weights)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """Return the four sums of :func:`fastseg.model.loss.segmentation_loss` of the network's logits."""
        return self.loss(self.model(image), label)


class StepMetrics(NamedTuple):
    """A step's results over all ranks, as numbers or scalar tensors."""

    loss: Any
    """Training loss of both heads."""
    main_loss: Any
    aux_loss: Any
    """0 without an auxiliary head."""
    gradient_norm: Any
    """Before clipping."""
    stops: Any
    """Ranks that want to stop."""


class TrainStep:
    """Do one step; hold the optimizer, DDP, the compiled network and the loss scaler."""

    def __init__(
        self,
        model: SegmentationNetwork,
        config: Config,
        ranks: Ranks,
        pixel_weights: Tensor | None = None,
        loss: LossFunction | None = None,
    ) -> None:
        """Train ``model``, already on ``ranks.device``, in place; ``pixel_weights``: one per class, C.

        ``loss``: in place of the settings' cross-entropy.
        """
        self.model = model
        self.precision = precision_of(config.model.precision, ranks.device)
        self.optimizer = build_optimizer(model, config.optim)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.precision == "fp16")
        self._config, self._optim, self._ranks = config, config.optim, ranks
        problem = find_problem(config.model, ranks)
        # static_graph knows no steps without an exchange. torch splits a compiled graph at bucket borders without it
        # (pytorch#109261).
        static = config.optim.accumulate == 1 and not (wants_compiling(config.model, ranks.device) and not problem)
        network = _wrap(LossNetwork(model, config.optim, pixel_weights, loss), ranks, static)
        self.network = CompiledNetwork(network, config.model, ranks, problem)

    def __call__(self, image: Tensor, label: Tensor, lr: float, stop: bool = False) -> Tensor:
        """Train on one batch (uint8 N×H×W×3, uint8 N×H×W) with the learning rate ``lr``.

        Returns the fields of :class:`StepMetrics`, float32 on the device, without waiting for it. Every labeled pixel
        of the global batch weighs the same (or its class's weight), so N ranks compute what one would with N times the
        batch, except for Dice, which uses a rank's batch. If the loss or the gradient is not finite, the weights stay
        as they are.

        With ``optim.accumulate`` the batch goes through the network in as many parts, and their gradients are added:
        all but batch norm and Dice computes what it would of the whole.
        """
        if not self.model.training:
            self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        parts = self._optim.accumulate
        *earlier, last = zip(image.chunk(parts), label.chunk(parts), strict=True)
        pixels = label.numel() / parts  # of a part, labeled or not
        before = [self._accumulate(images, labels, pixels) for images, labels in earlier]
        sums = self._forward(*last)
        # new_full is filled on the device; new_tensor would copy from the host and wait for all queued work.
        with span("communication"):
            every = sum(before, sums.detach())
            totals = sum_over_ranks(torch.cat([every, sums.new_full((1,), float(stop))]))
        main_sum, main_pixels, aux_sum, aux_pixels, stops = totals
        main_pixels, aux_pixels = main_pixels.clamp(min=1e-6), aux_pixels.clamp(min=1e-6)
        # DDP averages what should be summed.
        world, share = self._ranks.world, None
        if before:
            own, share = self._total_loss(sums[0], sums[2]) / pixels, world * pixels / main_pixels
        else:
            own = self._total_loss(sums[0] / main_pixels, sums[2] / aux_pixels) * world
        set_lr(self.optimizer, lr)
        norm = self._backward_and_update(own, main_sum + aux_sum, share)
        main, aux = main_sum / main_pixels, aux_sum / aux_pixels
        return torch.stack(StepMetrics(self._total_loss(main, aux), main, aux, norm, stops))

    def _forward(self, image: Tensor, label: Tensor) -> Tensor:
        with span("forward and loss"), autocast(self.precision, self._ranks.device):
            return self.network(image, label)

    def _accumulate(self, image: Tensor, label: Tensor, pixels: float) -> Tensor:
        """Add this rank's gradients of a part of its batch, without an exchange; return the part's four sums.

        How many pixels of the whole batch are labeled is known only after its last part: until then the losses of both
        heads, which count the same pixels, are divided by ``pixels``. Undivided they would overflow in fp16.
        """
        with self.network.no_sync():
            sums = self._forward(image, label)
            with span("backward"):
                self.scaler.scale(self._total_loss(sums[0], sums[2]) / pixels).backward()
        return sums.detach()

    def _total_loss(self, main: Tensor, aux: Tensor) -> Tensor:
        return main + self._config.aux_weight * aux

    @property
    def config(self) -> Config:
        """Return the settings in effect: compiled only if that works."""
        return replace(self._config, model=replace(self._config.model, compile=self.network.compiled))

    def dry_run(self, batch: int, crop: tuple[int, int]) -> None:
        """Do a step on blank images up to the gradients, and leave nothing but the memory that it takes.

        Runs twice on a GPU: after the first search for a convolution's algorithm torch empties its cache, which would
        hide a step's memory (https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/cudnn/Conv_v8.cpp).
        """
        device, model = self._ranks.device, self.model.train()
        image, label = (torch.zeros(batch, *crop, *more, dtype=torch.uint8, device=device) for more in ((3,), ()))
        before = [buffer.clone() for buffer in model.buffers()]
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for _ in range(2 if device.type == "cuda" else 1):
                with autocast(self.precision, device):
                    sums = self.network(image, label)
                (sums[0] + sums[2]).backward()
                self.optimizer.zero_grad(set_to_none=True)
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)

    def _backward_and_update(self, loss: Tensor, total: Tensor, share: Tensor | None = None) -> Tensor:
        """Update the weights by the gradients of ``loss``; return the norm of the gradients before clipping.

        ``share``: what the gradients, and those of earlier parts, are multiplied by; None: 1.

        If ``total``, the losses of all ranks, or the norm is not finite, the device skips the update: weights and the
        optimizer's values stay as they were, and the average of the weights moves towards unchanged ones. The host
        reads loss and norm when the next step is queued already (:class:`fastseg.device.AsyncMetrics`); then
        :meth:`fastseg.training.trainer.Trainer.check_step` ends the run on all ranks with the exit code of a user
        error, and saves neither step. With fp16 the loss scaler skips steps whose gradient overflows and tries a
        smaller scale; only many in a row, or a loss that is not finite, end the run.
        """
        with span("backward"):
            self.scaler.scale(loss).backward()
        with span("optimizer"):
            self.scaler.unscale_(self.optimizer)
            parameters = list(self.model.parameters())
            gradients = [p.grad for p in parameters if p.grad is not None]
            if share is not None:
                torch._foreach_mul_(gradients, share)
            norm = nn.utils.get_total_norm(gradients)
            if self._optim.clip is not None:
                nn.utils.clip_grads_with_norm_(parameters, self._optim.clip, norm)
            if not self.scaler.is_enabled():
                # Fused optimizers skip the update on the device if this is 1, as for a loss scaler.
                self.optimizer.found_inf = (~torch.isfinite(total + norm)).float()  # type: ignore[attr-defined]
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return norm


@contextmanager
def search_algorithms(wanted: bool) -> Iterator[None]:
    """Let cuDNN benchmark its algorithms for every new input size, as in training, only if ``wanted``.

    With frames of many sizes it would search anew for each, for 50 convolutions, and drop torch's cached memory.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before and wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _wrap(network: LossNetwork, ranks: Ranks, static: bool) -> nn.Module:
    if ranks.world == 1:
        return network
    # One-channel weights have two equal memory orders; DDP's warning about their strides does not matter.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return DistributedDataParallel(
        network,
        device_ids=[ranks.device.index] if ranks.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=static,
        # Running statistics are averaged before they are used: no broadcast in every step.
        **_NO_SYNC,
    )


# torch 2.15's name for what was broadcast_buffers.
_RENAMED = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
_NO_SYNC: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}


def use_sync_bn(config: Config, ranks: Ranks) -> bool:
    """Return whether batch-norm statistics are taken over all ranks, which pays for small batches per rank."""
    # On CPU ranks each of its hundred messages a step passes through the kernel: only on request.
    auto = ranks.device.type == "cuda" and config.data.micro_batch < 8
    wanted = auto if config.model.sync_bn is None else config.model.sync_bn
    return wanted and ranks.world > 1
