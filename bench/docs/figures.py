"""Figures of the documents that are neither tables of the bench nor of one study: what limits the loader, where a
step's time goes, what changes of a recipe gained, what the recipes reached."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.docs.accuracy import seeds
from bench.docs.evidence import RESULTS
from bench.docs.sizes import lead_over_peers
from bench.docs.tables import number, table
from bench.docs.targets import LARGE, fastest_peer
from bench.runner.machine import hardware, on_gpu, short_commit
from bench.runner.results import Results, read_results
from bench.studies.results import read_studies
from bench.studies.studies import BASE
from fastseg.training.breakdown import tables as breakdown_tables

BREAKDOWN = "fastseg-train --recipe demo --breakdown 30 --json > bench/results/breakdown-cpu.json"
DESIGNS = ("camvid-parts", "camvid-tried")
RARE = "accuracy-cpu-camvid-rare.json"
DECISIONS = {
    "class-weights": "in `camvid`; building, road and sidewalk lose",
    "dice": "`--optim.dice`; beside class weights it gains nothing",
    "Lovász": "removed: no better than Dice",
    "colours": "kept for long runs",
    "MixUp": "removed",
    "multigrid": "removed",
    "small crops first": "removed",
}
"""Change that beat the noise → what became of it."""
GOAL = "to reach, on test: [FC-DenseNet103's](https://arxiv.org/abs/1611.09326) 66.9 %"
REMOVED = {"label smoothing", "cosine", "rare crops", "hard pixels", "CutMix", "precise norms", "LAMB", "less dropout"}
REMOVED |= {"mixed crops"}
"""Changes that were found without gain, and removed."""
WORDS = {"class-weights": "class weights", "dice": "Dice", "colours": "color changes", "hard pixels": "OHEM"}
WORDS |= {
    "less dropout": "dropout 0.1",
    "mixed crops": "one class at most 0.75 of a crop",
    "no colours": "no color changes",
}
WORDS |= {"less decay": "weight decay 0.0001", "larger batches": "batches of 16", "larger scales": "scales 0.5 to 2"}


def loader_limits() -> str:
    """Return what a crop's time goes to, and how far the fastest peer is, from the loader's committed results."""
    found = [(path, read_results(path)) for path in sorted(RESULTS.glob("throughput-*.json"))]
    return "\n\n".join(
        _limits(path, results, figure["parts"])
        for path, results in found
        for figure in results.derived
        if figure["name"] == "loader/parts" and not on_gpu(results.environment)
    )


def _limits(path: Path, results: Results, parts: dict[str, float]) -> str:
    whole = sum(parts.values())
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    shares = ", ".join(f"{name} {100 * ms / whole:.0f} %" for name, ms in ordered)
    peer = fastest_peer(results)
    leads = [(path, peer.value if peer else None, "with the default recipe's colors")]
    for plain in sorted(RESULTS.glob("loader-sizes-plain-*.json")):
        leads.append((plain, lead_over_peers(read_results(plain)).get(LARGE), "on plain crops"))
    peers = ", ".join(f"{lead:.2f}× {on} ([{file.name}]({_address(file)}))" for file, lead, on in leads if lead)
    return (
        f"{hardware(results.environment)}: of the {number(whole)} ms that a crop takes, {shares}. "
        f"Over the fastest peer: {peers}."
    )


def breakdown() -> str:
    """Return what ``fastseg-train --breakdown`` printed, from the committed results."""
    shown = [_breakdown(path) for path in sorted(RESULTS.glob("breakdown-*.json"))]
    return "\n\n".join(shown) or f"Not yet measured: `{BREAKDOWN}`."


def _breakdown(path: Path) -> str:
    document = json.loads(path.read_text(encoding="utf-8"))
    where = document["environment"]
    headline, found, advice = breakdown_tables(document)
    about = f"`{where['command']}` on {hardware(where)} at {short_commit(where['commit'])}"
    return "\n\n".join(
        [
            f"[{path.name}](../bench/results/{path.name}): {about} says:",
            headline,
            *(table(one.columns, one.rows) for one in found),
            advice,
        ]
    )


def changes() -> str:
    """Return the changes that beat the noise, from the committed studies, with what became of them."""
    rows = [[WORDS.get(name, name), f"**{_points(effect)}**", DECISIONS.get(name, "–")] for name, effect in _effects()]
    files = ", ".join(f"[{path.name}]({_address(path)})" for path in (RESULTS / RARE, *map(_design, DESIGNS)))
    return f"{table(('change', 'gain', 'decision'), rows, left=(0, 2))}\n\n*From {files}.*"


def _effects() -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the changes whose interval excludes 0, the largest first."""
    found: list[tuple[str, dict[str, float]]] = []
    for study in read_studies(RESULTS / RARE).studies:
        for variant in study.flags:
            change = study.difference(variant) if variant != BASE else None
            if change and variant in DECISIONS:
                found.append((variant, vars(change)))
    for name in DESIGNS:
        found += _read(name)["effects"].items()
    found.sort(key=lambda pair: -pair[1]["mean"])
    yield from ((name, effect) for name, effect in found if effect["low"] > 0 or effect["high"] < 0)


def designs() -> str:
    """Return the changes of both designs that did not beat the noise; *italics*: removed."""
    rows = []
    for name in DESIGNS:
        path, effects = _design(name), _read(name)["effects"]
        noise = {change: e for change, e in effects.items() if e["low"] <= 0 <= e["high"]}
        halves = [100 * (e["high"] - e["low"]) / 2 for e in effects.values()]
        said = ", ".join(
            f"{_name(change)} {100 * e['mean']:+.1f}"
            for change, e in sorted(noise.items(), key=lambda c: -c[1]["mean"])
        )
        links = f"[runs]({_address(path)}), [figure]({_address(path.with_suffix('.svg'))})"
        rows.append([f"`{name}` ({links})", f"± {max(halves):.1f}", said])
    return table(("study", "each", "noise, in points"), rows, left=(0, 1, 2))


def _name(change: str) -> str:
    shown = WORDS.get(change, change)
    return f"*{shown}*" if change in REMOVED else shown


def _points(effect: dict[str, float]) -> str:
    return f"{100 * effect['mean']:+.1f} ({100 * effect['low']:+.1f} to {100 * effect['high']:+.1f})"


def _design(name: str) -> Path:
    return RESULTS / "designs" / f"accuracy-cpu-{name}.json"


def _read(name: str) -> dict[str, Any]:
    return dict(json.loads(_design(name).read_text(encoding="utf-8"))["studies"][0])


def _address(path: Path) -> str:
    return f"../bench/results/{path.relative_to(RESULTS)}"


def recipe_scores() -> str:
    """Return the mIoU that each recipe has reached, from the committed results."""
    rows = [
        ["`cityscapes`", "not yet measured; [published](cityscapes.md) at a global batch of 8: 78.8–79.9 %"],
        ["`camvid`, from scratch", f"{_study('accuracy-gpu-camvid.json')}; {GOAL}"],
        ["`camvid-small`, from scratch", _study("accuracy-cpu-camvid-small.json")],
        ["`demo`, on a CPU", _demo()],
        ["`notebook`, of the project that fastseg replaces", "not yet measured"],
    ]
    return table(("recipe", "mIoU, val"), rows, left=(0, 1))


def _study(file: str) -> str:
    path = RESULTS / file
    if not path.exists():
        return "not yet measured"
    document = read_studies(path)
    row = document.studies[0].summary().loc[BASE]
    spread = f" ± {100 * row['last_std']:.1f}" if row["seeds"] > 1 else ""
    where = hardware(document.environment)
    cost = f"{number(row['minutes'])} minutes on {where}"
    return f"{100 * row['last']:.1f}{spread} % ({seeds(row)}, {cost}; [{file}]({_address(path)}))"


def _demo() -> str:
    path = RESULTS / "cpu-demo.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    last = document["evaluations"][-1]
    cost = f"{last['seconds'] / 60:.1f} minutes of training on {hardware(document['environment'])}"
    return f"{100 * last['miou']:.1f} % ({cost}; [{path.name}]({_address(path)}))"
