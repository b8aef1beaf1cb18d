"""The documents say what is committed as measured, and nothing else; their links and names lead somewhere."""

import dataclasses
import json
import re
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from bench.docs import documents as readme
from bench.docs.comparison import FACTS, comparison
from bench.docs.targets import NOT_YET, TARGETS, target_table
from bench.runner.results import Results, Row, Spread
from fastseg.errors import UserError

DOCUMENTS = [readme.ROOT / "README.md", readme.ROOT / "CONTRIBUTING.md", *sorted((readme.ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE)]
    for link in links:
        name, _, anchor = link.partition("#")
        if "://" not in name:
            target = document.parent / name if name else document
            assert target.exists(), link
            assert not anchor or anchor in headings(target), link


def headings(document: Path) -> list[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    lines = re.findall(r"^#+ (.*)", document.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines]


def test_names_in_the_contributors_guide_exist() -> None:
    guide = (readme.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    pairs = re.findall(r"`([\w/]+\.py)`(?:: |, )`([\w.]+)`", guide)
    named = [(path, name) for path, name in pairs if not name.endswith(".py")]
    assert len(named) > 10
    for path, name in named:
        file = next(f for f in (readme.ROOT / path, readme.ROOT / "fastseg" / path) if f.exists())
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", file.read_text(encoding="utf-8")), f"{path}: {name}"


@pytest.mark.parametrize("name", readme.SECTIONS)
def test_the_documents_are_up_to_date(name: str) -> None:
    text = (readme.ROOT / name).read_text(encoding="utf-8")
    assert readme.up_to_date(name, text) == text, "run: python -m bench.docs"


def test_a_section_shows_every_stage_of_every_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    where = {"processor": "Chip", "cores": "2", "gpus": "none", "command": "x", "commit": "abcdef0123", "torch": "9.8"}
    rows = (
        Row("loader", "fastseg", "images/s", {}, (123.0, 124.0, 125.0)),
        Row("loader", "other", "images/s", {}, skipped="not installed: other"),
        Row("packing", "fastseg", "frames/s", {}, (7.25,)),
    )
    derived = ({"name": "loader/notebook", "value": 2.0, "sentence": "twice"},)
    frames = {"origin": "procedural", "count": 5, "size": [1024, 2048]}
    cpu = Results(where, {"frames": frames}, rows, derived)
    cpu.write(tmp_path / "throughput-cpu.json")
    assert readme.NO_GPU in readme.measurements()
    of_a_set = {"frames": frames | {"origin": "cityscapes"}, "options": {"sweep": False}}
    gpu = dataclasses.replace(cpu, environment=where | {"gpus": "1 × Card"}, settings=of_a_set)
    gpu.write(tmp_path / "throughput-gpu.json")
    text = readme.measurements()
    assert readme.NO_GPU not in text
    assert "on 5 procedural frames of 2048×1024." in text
    assert "on 5 frames of 2048×1024 from cityscapes. Peers have the first of their settings" in text
    assert text.count("Peers have") == 1
    for words in ("Throughput: Chip, 2 cores", "124", "7.25", "not installed: other", "*Twice.*", "torch 9.8"):
        assert words in text
    assert text.index("1 × Card") < text.index("Chip, 2 cores")


def test_targets_are_met_or_not() -> None:
    """A figure that reaches its target, one that does not, and what no run may say."""
    loads = {"settings": {"work": {"crop": [768, 768]}}}
    loader = (
        Row("loader", "fastseg", "images/s", windows=(2100.0,), **loads),
        Row("loader", "fastseg, cached", "images/s", windows=(5500.0,), **loads),
        Row("loader", "notebook", "images/s", windows=(200.0,), ratio_to_ours=Spread(0.1, 0.1, 0.1), **loads),
        Row("loader", "quick", "images/s", windows=(2400.0,), ratio_to_ours=Spread(1.25, 1.2, 1.3), **loads),
        Row("loader", "gone", "images/s", {}, skipped="not installed: gone"),
        Row("train", "fastseg", "images/s", {"crop": [768, 768]}, (220.0,)),
        Row("compute", "notebook", "images/s", {"crop": [128, 128]}, (9.0,), Spread(0.05, 0.05, 0.05)),
    )
    shares = (
        {"name": "train/compute", "value": 0.991},
        {"name": "packing/bare", "value": 0.87},
        {"name": "startup/help", "value": 0.6},
        {"name": "startup/first step", "value": 7.5},
        {"name": "loader/colors", "value": 0.9, "size": "512x256"},
    )
    settings = {"frames": {"origin": "procedural", "count": 32, "size": [1024, 2048]}}
    cpu = Results({"processor": "Chip", "cores": "2", "gpus": "none"}, settings, loader, shares)
    card = dataclasses.replace(cpu, environment=cpu.environment | {"gpus": "1 × NVIDIA H200"})
    slice_ = dataclasses.replace(cpu, environment=cpu.environment | {"gpus": "1 × NVIDIA H200 MIG 1g.18gb"})
    on_cpu, on_card, on_slice = (
        target_table([(Path(f"{n}.json"), r)]) for n, r in (("c", cpu), ("h", card), ("m", slice_))
    )
    assert "| 10.0×, [Chip, 2 cores](../bench/results/c.json) | yes |" in on_cpu
    assert "| 0.800× (quick, gone not measured), [Chip, 2 cores](../bench/results/c.json) | **no** |" in on_cpu
    assert "| ≥ 130 % | 87.0 %, [Chip, 2 cores](../bench/results/c.json) | **no** |" in on_cpu
    assert "| ≤ 0.5 s | 0.600 s, [Chip, 2 cores](../bench/results/c.json) | **no** |" in on_cpu
    assert "| ≤ 8 s | 7.50 s, [Chip, 2 cores](../bench/results/c.json) | yes |" in on_cpu
    assert on_cpu.count(NOT_YET) == len(TARGETS) - 6
    assert "| ≥ 98 % | 99.1 %, [1 × NVIDIA H200](../bench/results/h.json) | yes |" in on_card
    assert "| ≥ 157 images/s | 220 images/s, [1 × NVIDIA H200](../bench/results/h.json) | yes |" in on_card
    assert "| ≥ 2,000 images/s | 2,100 images/s, [1 × NVIDIA H200](../bench/results/h.json) | yes |" in on_card
    assert "| ≥ 6,000 images/s | 5,500 images/s, [1 × NVIDIA H200](../bench/results/h.json) | **no** |" in on_card
    assert on_card.count(NOT_YET) == len(TARGETS) - 4  # The notebook project's step was on other crops.
    assert on_slice.count(NOT_YET) == len(TARGETS) - 1
    faster = dataclasses.replace(cpu, derived=({"name": "startup/help", "value": 0.4},))
    for seconds, shown in ((1, "0.400 s"), (3, "0.600 s")):
        runs = [(faster, 2), (cpu, seconds)]
        timed = [dataclasses.replace(r, settings=settings | {"timing": {"windows": 4, "seconds": s}}) for r, s in runs]
        text = target_table([(Path(f"{i}.json"), results) for i, results in enumerate(timed)])
        assert f"| ≤ 0.5 s | {shown}" in text
        assert text.count("≤ 0.5 s") == 1


def test_the_least_lead_over_all_sizes_counts() -> None:
    def row(entry: str, size: str, ratio: float, colors: bool) -> Row:
        settings = {"work": {"crop": [768, 768], "colors": colors}}
        return Row("loader", entry, "images/s", settings, (1.0,), Spread(ratio, ratio, ratio), size=size)

    def shown(colors: bool) -> str:
        peers = {"2048x1024": 0.5, "512x256": 0.8}
        rows = [row(entry, size, ratio, colors) for size, ratio in peers.items() for entry in ("fastseg", "peer")]
        run = Results({"processor": "Chip", "cores": "2", "gpus": "none"}, {}, tuple(rows))
        return target_table([(Path("s.json"), run)])

    assert "| 1.25× (512×256), [Chip" in shown(colors=True)
    assert "| ≥ 1.8× | 2.00×, [Chip" in shown(colors=False)
    assert shown(colors=True).count(NOT_YET) == shown(colors=False).count(NOT_YET) == len(TARGETS) - 1


def test_the_headline_is_a_figure_of_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert readme.headline().startswith(readme.NO_GPU)
    loads = {"settings": {"work": {"crop": [768, 768]}}}
    rows = (
        Row("loader", "fastseg", "images/s", windows=(1234.0,), **loads),
        Row("loader", "notebook", "images/s", windows=(100.0,), ratio_to_ours=Spread(0.1, 0.1, 0.1), **loads),
        Row("loader", "quick", "images/s", windows=(400.0,), ratio_to_ours=Spread(0.5, 0.5, 0.5), **loads),
    )
    settings = {"frames": {"origin": "procedural", "count": 32, "size": [1024, 2048]}}
    results = Results({"processor": "Chip", "cores": "2", "gpus": "none"}, settings, rows, ())
    results.write(tmp_path / "throughput-cpu.json")
    words = "Chip, 2 cores: the loader makes 1,234 crops", "10.0× what the project", "2.0× the fastest peer"
    for said in (*words, readme.NO_GPU):
        assert said in readme.headline()
    card = results.environment | {"gpus": "1 × NVIDIA H200"}
    dataclasses.replace(results, environment=card).write(tmp_path / "throughput-h.json")
    assert readme.headline().startswith("**1 × NVIDIA H200: the loader")
    assert readme.NO_GPU not in readme.headline()


def test_others_have_speeds_where_they_were_measured() -> None:
    """A project without a benchmark here has none; all answer every question, with a source."""
    rows = (
        Row("loader", "fastseg", "images/s", {}, (1234.0,)),
        Row("loader", "Ultralytics", "images/s", {}, (99.0,)),
        Row("train", "Ultralytics", "images/s", {}, (1.0,)),
    )
    cpu = Results({"processor": "Chip", "cores": "2", "gpus": "none"}, {}, rows, ())
    others = dataclasses.replace(cpu, results=rows[2:])  # a run of other stages has no say
    text = comparison([(Path("a.json"), others), (Path("c.json"), cpu)])
    assert "[Chip, 2 cores](bench/results/c.json) | 1,234 | not measured | 99.0 | not measured |" in text
    assert "not measured" not in comparison([])
    assert all("](https://" in answer for _, _, *answers in FACTS for answer in answers)


def test_badges_are_true() -> None:
    package = ConfigParser()
    package.read(readme.ROOT / "setup.cfg")
    badges = unquote((readme.ROOT / "README.md").read_text(encoding="utf-8").partition("\n\nTrain")[0])
    assert f"badge/license-{package['metadata']['license'].replace('-', '--')}-" in badges
    assert f"badge/Python-{package['options']['python_requires'].replace('>=', '≥ ')}-" in badges
    assert "4 - Beta" not in package["metadata"]["classifiers"]
    assert "status-alpha" in badges


def test_recipes_stand_side_by_side() -> None:
    table = readme.recipes()
    assert table.startswith("| setting | cityscapes | notebook | camvid | camvid-small | demo |")
    assert "| `--data.crop` | 768 768 | 768 1024 | 360 480 | 240 320 | 192 256 |" in table
    assert "--optim.momentum" not in table  # the same in all


def test_faults_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert readme.faults() == "Not yet counted: `make faults`."
    where = {"processor": "Chip", "cores": "2", "command": "make faults", "torch": "9.8"}
    counted = [{"fault": "a kill", "tries": 20, "survived": 20}, {"fault": "a bomb", "tries": 3, "survived": 2}]
    (tmp_path / "faults.json").write_text(json.dumps({"environment": where, "faults": counted}))
    assert (
        readme.faults_in_all()
        == "**23 tries of 2 kinds of faults; 1 lost** (Chip, 2 cores, [faults.json](bench/results/faults.json))."
    )
    text = readme.faults()
    assert "| a bomb | 3 | 2 | 1 |\n| all together | 23 | 22 | 1 |" in text
    assert "Chip, 2 cores; `make faults` with torch 9.8. At a commit that is not known; to be counted anew" in text
    assert "Skipped" not in text
    skipped = [{"test": "test_a", "reason": "needs a GPU"}, {"test": "test_b", "reason": "needs moto"}]
    (tmp_path / "faults.json").write_text(json.dumps({"environment": where, "faults": counted, "skipped": skipped}))
    text = readme.faults()
    assert "| 1 |\n\nSkipped: test_a (needs a GPU); test_b (needs moto).\n\n*[faults.json]" in text


def test_a_profile_is_shown_as_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    row = {"category": "batch norm", "ms": 1.25, "share": 1.0, "hidden_ms": 0.0}
    profile = {
        "environment": {"processor": "Chip", "cores": "2", "gpus": "1 × Card", "command": "train.py", "torch": "9.8"},
        "settings": {"arch": "net", "batch": 8, "crop": [32, 64], "precision": "bf16", "compile": True},
        "step": {"step_ms": 1.25, "plain_step_ms": 1.0, "steps": 5, "categories": [row]},
        "stages": [{"stage": "stem", "ms": 1.0, "tflop": 0.5, "tflops": 500.0, "mfu": 0.25}],
    }
    (tmp_path / "profile-card.json").write_text(json.dumps(profile))
    text = readme.measurements()
    assert readme.NO_GPU not in text
    assert "### Where a step's time goes: 1 × Card" in text
    assert "`train.py` with torch 9.8; net, 8 crops of 64×32 per rank, bf16, compiled." in text
    assert "| batch norm | 1.25 | 100.0 % |" in text
    assert "| stem | 1.00 | 100.0 % | 0.5 | 500 | 25.0 % |" in text


def test_without_results_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert readme.measurements() == readme.NO_GPU
    assert readme.target_section().endswith(f"| {NOT_YET} | – |")


def test_a_document_without_targets_is_refused() -> None:
    with pytest.raises(UserError, match="lacks one of the lines"):
        readme.with_section("# nothing", "targets", "text")
