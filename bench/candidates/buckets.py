"""Gradients are exchanged in fewer, larger messages than DDP's of 25 MB.

Prediction: 168 MB are 8 messages of 25 MB, 4 of 50 or 2 of 100. A message of 25 MB takes NVLink 0.1 ms, five times its
latency, and the last one is what shows: larger ones show more of it, 0.2 or 0.4 ms. Within a machine 0 to −1 %. Between
machines latency is higher, and a ring of 32 ranks cuts 25 MB into pieces of 0.8 MB: 0 to 3 %.

Source: Li et al. 2020, arXiv 2006.15704, section 5.2, on bucket sizes.
"""

from functools import partial

from bench.candidates._wrapping import distribute_again
from bench.suite.request import Request
from bench.suite.stages.compute import Ours

STAGE = "scaling"


def fits(_request: Request) -> bool:
    """Wherever there are several ranks."""
    return True


def apply(ours: Ours, megabytes: int) -> None:
    """DDP again, around the same network."""
    distribute_again(ours, bucket_cap_mb=megabytes)


VARIANTS = {f"buckets of {size} MB": partial(apply, megabytes=size) for size in (50, 100)}
