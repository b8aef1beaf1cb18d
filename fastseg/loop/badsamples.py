"""Damaged records that ranks have passed over: how many there are together, and whether those are too many."""

import sys
from collections.abc import Sequence

import torch.distributed as dist

from fastseg.errors import USER_ERROR, UserError
from fastseg.loop.distributed import gather_states


def count_bad(mine: Sequence[int], most: int) -> int:
    """Distinct damaged records of one split that all ranks have met, this one at the places ``mine``.

    Every rank has to call. Where they are more than ``most``, each ends: the first rank with a :class:`UserError`.
    """
    if not most:  # the first one has ended its rank already
        return 0
    bad = len({place for state in gather_states({"bad": mine}) for place in state["bad"]})
    if bad <= most:
        return bad
    if dist.is_initialized() and dist.get_rank():
        sys.exit(USER_ERROR)
    raise UserError(
        f"{bad} damaged records were found by all ranks together, --max-bad-samples is {most}; "
        "copy or pack the set again, or raise it"
    )
