"""Verification before a run, by all ranks together."""

from collections.abc import Iterable
from contextlib import nullcontext

from fastseg.distributed.ranks import Ranks, barrier, gather_states, raise_on_first
from fastseg.errors import UserError
from fastseg.parallel import cpu_threads
from fastseg.progress import show_progress
from fastseg.shards.manifest import Manifest
from fastseg.shards.verify import check_files
from fastseg.storage import join


def verify_shards(shards: str, manifest: Manifest, splits: Iterable[str], ranks: Ranks) -> None:
    """Compare every tar and index of ``splits`` with the SHA-256 of the manifest; a machine's ranks share the work.

    Where one differs every rank ends, the first with a :class:`UserError` that names shard, record and byte. The ranks
    meet after every few shards, so that none waits for another longer than these take.
    """
    work = [shard for name in dict.fromkeys(splits) for shard in manifest.split(name).shards]
    mine = work[ranks.local_rank :: ranks.local_world]
    threads, damages = cpu_threads(ranks.local_world), list[str]()
    # Machines may differ in their ranks and cores, but not in how often they meet.
    rounds = max(state["rounds"] for state in gather_states({"rounds": -(-len(mine) // threads)}))
    progress = show_progress(f"verifying {shards}", "shards") if ranks.first else nullcontext()
    with progress as show:
        if show:
            show(0, len(mine))
        for start in range(0, rounds * threads, threads):
            damages += check_files(shards, mine[start : start + threads], threads)
            barrier()
            if show:
                show(min(start + threads, len(mine)), len(mine))
    found = list(dict.fromkeys(damage for state in gather_states({"found": damages}) for damage in state["found"]))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise_on_first(UserError(f"{join(shards, found[0])}{more}; copy or pack the set again"))
