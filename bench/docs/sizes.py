"""Format a run over several sizes of frames (``bench/throughput.py --sizes``): a row per entry, a column per size."""

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
    return table(["images/s", *map(_shown, sizes)], [crops, *rows])


def _shown(size: str) -> str:
    frame, _, own = size.partition("-")
    return frame.replace("x", "×") + (", own JPEGs (4:2:0)" if own else "")


def _crop(row: Row | None) -> str:
    return "×".join(str(side) for side in row.settings["work"]["crop"][::-1]) if row else "–"


def _rate(row: Row | None) -> str:
    return number(row.spread.median) if row and row.windows else "–"


def _lead(peers: list[Cells], size: str) -> str:
    """Return by how many times fastseg is faster than the fastest peer."""
    found = [cells[size].ratio_to_ours for cells in peers if size in cells]
    ratios = [ratio.median for ratio in found if ratio]
    return f"**{1 / max(ratios):.2f}×**" if ratios else "–"
