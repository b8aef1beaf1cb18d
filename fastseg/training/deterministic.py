"""Hold torch to deterministic algorithms, so that a run gives the same bits again."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch._inductor.config

from fastseg.errors import UserError, shown

WORKSPACES = (":4096:8", ":16:8")
"""Values of CUBLAS_WORKSPACE_CONFIG with which cuBLAS is deterministic (NVIDIA's cuBLAS documentation)."""


def set_deterministic(wanted: bool) -> None:
    """Let torch use deterministic algorithms alone, or the fastest, which it searches for; before any of CUDA's work.

    An operation without such an algorithm raises RuntimeError, see :func:`explain_nondeterminism`. Raises
    :class:`UserError` if CUBLAS_WORKSPACE_CONFIG says otherwise.
    """
    torch.backends.cudnn.benchmark = not wanted  # which would choose by the clock
    torch.backends.cudnn.deterministic = wanted
    torch.use_deterministic_algorithms(wanted)
    torch._inductor.config.deterministic = wanted  # no choice of kernels by the clock
    if wanted:
        found = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACES[0])
        if found not in WORKSPACES:
            raise UserError(
                f"the environment variable CUBLAS_WORKSPACE_CONFIG is {shown(found)}, with which products are not "
                f"deterministic; set it to {WORKSPACES[0]}, unset it, or leave out --deterministic"
            )


@contextmanager
def explain_nondeterminism() -> Iterator[None]:
    """Turn torch's error about an operation without a deterministic algorithm into a :class:`UserError`."""
    try:
        yield
    except RuntimeError as error:
        said = re.match(r"(\S+) does not have a deterministic implementation", str(error))
        if not said:
            raise
        raise UserError(
            f"torch has no deterministic algorithm for {said[1]} on this device; leave out --deterministic, or choose "
            "another --model.arch"
        ) from None
