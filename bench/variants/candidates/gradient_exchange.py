"""Exchange gradients as bf16, half the bytes; or in fewer, larger messages than DDP's of 25 MB.

Prediction, bf16: 168 MB of float32 are 168 MB × 2 × 7/8 a GPU for 8 of them, 0.7 ms at NVLink's 400 GB/s, hidden behind
25 ms of backward pass: 0 % within a machine. Between machines at 25 GB/s a GPU 12 ms become 6, hidden but for the last
bucket: 0 to 2 %; at 3 GB/s, 98 ms become 49, of which 24 instead of 73 show: nearly twice as fast. Gradients are
rounded to 8 bits, after a division by the number of ranks, and summed in bf16: 0.4 % each.

Prediction, buckets: 168 MB are 8 messages of 25 MB, 4 of 50 or 2 of 100. A message of 25 MB takes NVLink 0.1 ms, five
times its latency, and the last one is what shows: larger ones show more of it, 0.2 or 0.4 ms. Within a machine 0 to
−1 %. Between machines latency is higher, and a ring of 32 ranks cuts 25 MB into pieces of 0.8 MB: 0 to 3 %.

Source: ``torch.distributed.algorithms.ddp_comm_hooks.default_hooks.bf16_compress_hook``; Li et al. 2020, arXiv
2006.15704, section 5.2, on bucket sizes.
"""

from functools import partial
from typing import cast

from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from bench.stages import Request
from bench.stages.compute import Ours
from bench.variants.candidates._wrapping import distribute_again, uncompiled

STAGE = "scaling"


def fits(_request: Request) -> bool:
    """Return true: it changes something wherever there are several ranks."""
    return True


def compress(ours: Ours) -> None:
    """Put a hook into DDP's reducer."""
    cast(DistributedDataParallel, uncompiled(ours)).register_comm_hook(None, bf16_compress_hook)


def enlarge(ours: Ours, megabytes: int) -> None:
    """Put DDP around the same network again."""
    distribute_again(ours, bucket_cap_mb=megabytes)


VARIANTS = {"bf16 gradients": compress, **{f"buckets of {n} MB": partial(enlarge, megabytes=n) for n in (50, 100)}}
