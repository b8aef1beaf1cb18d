"""Other modes of torch.compile: replayed CUDA graphs, and its own templates tried beside the libraries' kernels.

Prediction, CUDA graphs of forward and backward pass, so that the host launches two things instead of a thousand: some
900 launches at 5 us are 4.5 ms of the host's time beside 38 ms of the device's, and the host is ahead: 0 to 1 %. At
smaller crops and for MobileNetV3, whose step may be shorter than its launches, up to 2×. Graphs keep their memory: 1 to
3 GB more.

Prediction, max-autotune: 1×1 convolutions, a third of the arithmetic, may be products with batch norm's scaling fused
behind them: 0 to 5 % of 38 ms. 3×3 convolutions stay cuDNN's, dilated ones always (the templates want dilation 1).
Minutes to compile: bench/gpu.sh measures it last, apart from the others.

Source: torch.compile's modes ``reduce-overhead`` and ``max-autotune-no-cudagraphs``;
torch.compiler.cudagraph_mark_step_begin's documentation.
"""

import torch

from bench.stages import Request
from bench.stages.compute import Ours


def fits(request: Request) -> bool:
    """Return whether the step is compiled: on a GPU."""
    return request.device == "cuda"


def replay(ours: Ours) -> None:
    """Compile to CUDA graphs; before a step release the last one's gradients, whose memory the graphs reuse."""
    ours.state.train_step.network.compile("reduce-overhead")
    optimizer, train = ours.state.train_step.optimizer, ours.train

    def marked() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.compiler.cudagraph_mark_step_begin()
        train()

    ours.train = marked  # type: ignore[method-assign]


def autotune(ours: Ours) -> None:
    """Compile with autotuned templates."""
    ours.state.train_step.network.compile("max-autotune-no-cudagraphs")
