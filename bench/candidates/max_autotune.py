"""The compiler tries its own templates for products and convolutions beside the libraries' kernels.

Prediction: 1×1 convolutions, a third of the arithmetic, may be products with batch norm's scaling fused behind them: 0
to 5 % of 38 ms. 3×3 convolutions stay cuDNN's, dilated ones always (the templates want dilation 1). Minutes to compile:
bench/gpu.sh measures it last, apart from the others.

Source: torch.compile's mode ``max-autotune-no-cudagraphs``.
"""

from bench.candidates._wrapping import compile_again
from bench.suite.request import Request
from bench.suite.stages.compute import Ours

STAGE = "compute"


def fits(request: Request) -> bool:
    """On a GPU, where the step is compiled."""
    return request.device == "cuda"


def apply(ours: Ours) -> None:
    """Compile in that mode."""
    compile_again(ours, "max-autotune-no-cudagraphs")


VARIANTS = {"max-autotune": apply}
