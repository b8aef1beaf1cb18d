"""Format a run over several sizes of frames (``bench/throughput.py --sizes``): a row per entry, a column per size."""

from collections.abc import Iterable

from bench.docs.tables import number, table
from bench.runner.results import Results, Row

Cells = dict[str, Row]
"""Size → an entry's row."""


def sizes_table(results: Results) -> str:
    """Return images per second of every entry on every size, then fastseg's speed over its fastest peer's."""
    sizes = list(dict.fromkeys(row.size for row in results.results if row.size))
    entries: dict[str, Cells] = {}
    for row in results.results:
        if row.size:
            entries.setdefault(row.entry, {})[row.size] = row
    rows = [[name, *(_rate(cells.get(size)) for size in sizes)] for name, cells in entries.items()]
    peers = [cells for name, cells in entries.items() if not name.startswith("fastseg")]
    rows.append(["**fastseg over its fastest peer**", *(_lead(peers, size) for size in sizes)])
    crops = ["crop", *(_crop(entries["fastseg"].get(size)) for size in sizes)]
    return table(["images/s", *map(shown_size, sizes)], [crops, *rows])


def shown_size(size: str) -> str:
    """Return 2048×1024 for 2048x1024, and what the files are where they are not packed anew."""
    frame, _, own = size.partition("-")
    return frame.replace("x", "×") + (", own JPEGs (4:2:0)" if own else "")


def _crop(row: Row | None) -> str:
    return "×".join(str(side) for side in row.settings["work"]["crop"][::-1]) if row else "–"


def _rate(row: Row | None) -> str:
    return number(row.spread.median) if row and row.windows else "–"


def _lead(peers: list[Cells], size: str) -> str:
    lead = _times(row for cells in peers if (row := cells.get(size)))
    return f"**{lead:.2f}×**" if lead else "–"


def lead_over_peers(results: Results) -> dict[str, float]:
    """Return by how many times fastseg is faster than the fastest peer, for each size of frames."""
    sizes = dict.fromkeys(row.size for row in results.results if row.size)
    leads = {size: _times(row for row in results.results if row.size == size and not row.ours) for size in sizes}
    return {size: lead for size, lead in leads.items() if lead}


def _times(peers: Iterable[Row]) -> float | None:
    ratios = [row.ratio_to_ours.median for row in peers if row.ratio_to_ours]
    return 1 / max(ratios) if ratios else None
