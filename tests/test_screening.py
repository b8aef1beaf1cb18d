"""bench/suite/screening.py: the design is balanced, and finds what was put in, no more often than it should."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from bench.suite.accuracy_plot import draw
from bench.suite.accuracy_short import short_table, what_was_found
from bench.suite.accuracy_tables import NONE_YET, markdown, page
from bench.suite.outcomes import Evaluation, Outcome
from bench.suite.screening import MOST, Run, design, effects, noise
from bench.suite.studies import BASE, Study
from bench.suite.summaries import Findings, read_findings, write_findings
from bench.suite.trials import own_seed, plan
from fastseg.errors import UserError

FACTORS = ("Dice", "CutMix", *(f"part {i}" for i in range(2, MOST)))
STUDY = Study("What?", "that", {}, (), factors={name: {"--optim.lr": str(i)} for i, name in enumerate(FACTORS)})
RUNS = design(FACTORS)
WHERE = {"processor": "Chip", "cores": "2", "gpus": "none", "command": "x", "commit": "abcdef0123", "torch": "9.8"}


def signs() -> np.ndarray:
    return np.array([[1 if name in on else -1 for name in FACTORS] for on in RUNS])


def test_no_change_hides_behind_another_or_behind_two_together() -> None:
    """Resolution IV, by its definition: columns orthogonal to each other and to all products of two."""
    x = signs()
    assert len(set(RUNS)) == len(RUNS) == 24
    assert RUNS[0] == ()
    assert (x.sum(0) == 0).all()
    assert (x.T @ x == 24 * np.eye(MOST)).all()
    for a, b in itertools.combinations(range(MOST), 2):
        assert not (x.T @ (x[:, a] * x[:, b])).any()


@pytest.mark.parametrize("count", [0, MOST + 1])
def test_there_is_room_for_twelve(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} factors"):
        design([str(i) for i in range(count)])


def test_what_was_put_in_comes_out() -> None:
    """Exactly, though two of the changes work otherwise together than alone."""
    added = dict(zip(FACTORS, range(-4, 8), strict=True))
    runs = [Run(on, 20 + sum(added[n] for n in on) + 3 * ({FACTORS[0], FACTORS[1]} <= set(on))) for on in RUNS]
    found = effects(FACTORS, runs)
    assert found is not None
    # Together they add 3 where both are on: 1.5 to each, as the mean over runs with and without the other.
    wanted = [value + 1.5 * (i < 2) for i, value in enumerate(added.values())]
    assert [effect.mean for effect in found.values()] == pytest.approx(wanted)


def test_the_estimate_is_the_least_squares_and_the_interval_the_textbooks() -> None:
    """Of 23 runs, whose changes are no longer orthogonal, against numpy's own least squares."""
    rng = np.random.default_rng(3)
    runs = [Run(on, float(rng.normal())) for on in RUNS[:23]]
    found = effects(FACTORS, runs)
    assert found is not None
    x = np.column_stack([np.ones(23), (signs()[:23] + 1) / 2])
    y = np.array([run.value for run in runs])
    wanted, (left,), *_ = np.linalg.lstsq(x, y)
    assert [effect.mean for effect in found.values()] == pytest.approx(wanted[1:])
    assert noise(FACTORS, runs) == pytest.approx(np.sqrt(left / 10))
    error = np.sqrt(left / 10 * np.linalg.inv(x.T @ x)[1, 1])
    first = found[FACTORS[0]]
    assert first.high is not None
    assert first.high - first.mean == pytest.approx(2.2281 * error, rel=1e-4)  # t of 10 degrees of freedom


def test_too_few_runs_say_nothing() -> None:
    assert effects(FACTORS, [Run(on, 1.0) for on in RUNS[:22]]) is None


def test_of_changes_that_change_nothing_one_in_twenty_is_called() -> None:
    rng = np.random.default_rng(0)
    found = [effects(FACTORS, [Run(on, float(rng.normal())) for on in RUNS]) for _ in range(150)]
    called = [effect.verdict != "noise" for some in found if some for effect in some.values()]
    assert len(called) == 150 * MOST
    assert 0.03 < np.mean(called) < 0.075


def test_a_part_that_the_base_has_already_is_refused(shards: Path, tmp_path: Path) -> None:
    extra = ["--shards", str(shards), "--optim.clip", "5"]
    with pytest.raises(UserError, match=r"base has its part 'clipping' already; leave --optim\.clip out"):
        plan("camvid-scratch", None, [0], tmp_path, extra)
    assert len(plan("camvid-scratch", None, [0], tmp_path, extra[:2])) == 24


def test_every_run_has_a_seed_of_its_own() -> None:
    seeds = [own_seed(STUDY, variant, seed) for seed in range(2) for variant in STUDY.names()]
    assert seeds == list(range(48))
    assert STUDY.changed()[BASE] == {}
    assert STUDY.changed()["run-23"] == STUDY.factors[STUDY.runs()["run-23"][-1]]


def outcome(number: int, name: str, on: tuple[str, ...]) -> Outcome:
    """Dice adds ten points and CutMix takes five; a twentieth of a point is noise."""
    miou = 0.2 + 0.1 * ("Dice" in on) - 0.05 * ("CutMix" in on) + 0.0005 * np.random.default_rng(number).normal()
    classes = {"road": 2 * miou, "pole": miou, "train": None}
    scored = (Evaluation(6.0, 300.0, float(miou)),)
    return Outcome(name, number, True, scored, classes, 300.0, 10.0, 6.0, 310.0, None, ("a",), "x")


@pytest.fixture
def found() -> Findings:
    outcomes = tuple(outcome(i, name, on) for i, (name, on) in enumerate(STUDY.runs().items()))
    flags = {name: f"--flag {name}" for name in FACTORS}
    return Findings("parts", "What?", "that", (), {BASE: "--b"}, "data", outcomes, 24, flags, STUDY.runs())


def test_the_tables_say_what_each_part_adds(found: Findings) -> None:
    text = markdown(found)
    first, *_, last = [line for line in text.split("Added to")[0].splitlines() if line.count("|") > 5][2:]
    assert first.startswith("| Dice | 27.5 | 17.5 | +10.0 (+")
    assert first.endswith("| better |")
    assert last.startswith("| CutMix | 20.0 | 25.0 | -5.0 (-")
    assert last.endswith("| worse |")
    assert "| class | Dice |" in text
    (road,) = re.findall(r"^\| road \| ([+-][\d.]+) \|", text, re.MULTILINE)
    assert float(road) == pytest.approx(20, abs=0.15)
    assert "| train |" not in text
    assert "deviates by 0.0 points" in text
    assert what_was_found(found).startswith("adds: Dice +10.0; costs: CutMix -5.0; not told from noise: ")


def test_an_unfinished_design_says_so(found: Findings) -> None:
    cut = Findings(**{**found.__dict__, "outcomes": found.outcomes[:20]})
    assert markdown(cut) == "*20 of 24 runs are finished; the others count nowhere*"
    assert what_was_found(cut) == "not finished"
    few = dict(list(found.factors.items())[:8])  # of which least squares would make something
    assert effects(tuple(few), cut.screened())
    assert what_was_found(Findings(**{**cut.__dict__, "factors": few})) == "not finished"
    with pytest.raises(UserError, match="there is nothing to draw"):
        draw(WHERE, [cut], Path("x.svg"))


def test_a_design_goes_to_json_the_documents_and_a_picture(found: Findings, tmp_path: Path) -> None:
    path = tmp_path / "accuracy-chip.json"
    write_findings(path, WHERE, [found])
    assert read_findings(path)[1] == [found]
    draw(WHERE, [found], path.with_suffix(".svg"))
    assert "part 11" in path.with_suffix(".svg").read_text()
    text = page([path])
    assert "- Dice: `--flag Dice`" in text
    assert "(../bench/results/accuracy-chip.svg)" in text
    assert f"[Chip, 2 cores](bench/results/{path.name}) | adds: Dice" in short_table([path])
    assert short_table([]) == NONE_YET
