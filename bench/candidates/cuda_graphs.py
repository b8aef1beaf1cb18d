"""Forward and backward pass replayed as CUDA graphs, so that the host launches two things instead of a thousand.

Prediction: some 900 launches at 5 us are 4.5 ms of the host's time beside 38 ms of the device's, and the host is ahead:
0 to 1 %. At smaller crops and for MobileNetV3, whose step may be shorter than its launches, up to 2×. Graphs keep their
memory: 1 to 3 GB more.

Source: torch.compile's mode ``reduce-overhead``; torch.compiler.cudagraph_mark_step_begin's documentation.
"""

import torch

from bench.candidates._wrapping import compile_again
from bench.suite.request import Request
from bench.suite.stages.compute import Ours

STAGE = "compute"


def fits(request: Request) -> bool:
    """On a GPU, where the step is compiled."""
    return request.device == "cuda"


def apply(ours: Ours) -> None:
    """Compile in that mode; before a step the last one's gradients are let go, whose memory the graphs reuse."""
    compile_again(ours, "reduce-overhead")
    optimizer, train = ours.state.train_step.optimizer, ours.train

    def marked() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.compiler.cudagraph_mark_step_begin()
        train()

    ours.train = marked  # type: ignore[method-assign]


VARIANTS = {"CUDA graphs": apply}
