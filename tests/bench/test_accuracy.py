"""bench/accuracy.py: which runs a study is, what is read from their folders, and what may be said of it."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import accuracy
from bench.docs import accuracy as tables
from bench.docs.plots import curve, has_one_evaluation, plot_studies, seed_differences
from bench.studies.results import StudyResults, difference, read_result, read_studies, write_studies
from bench.studies.runs import RECORD, Run, plan
from bench.studies.sessions import last_words
from bench.studies.studies import BASE, STUDIES, flags_of, words
from fastseg.commands.train import parse
from fastseg.errors import UserError

WHERE = {"processor": "Chip", "cores": "2", "gpus": "none", "command": "x", "commit": "abcdef0123", "torch": "9.8"}
MIOU = {BASE: [0.10, 0.20, 0.30], "ema-off": [0.05, 0.10, 0.28], "rate-half": [0.10, 0.12, 0.14]}
"""Of the evaluations of a variant's first seed; every later seed is one point higher."""


@pytest.fixture
def runs(shards: Path, tmp_path: Path) -> list[Run]:
    """The demo's, three seeds of three variants."""
    return plan("demo", None, range(3), tmp_path / "runs", ["--shards", str(shards)])


def write_run(run: Run, scores: list[float], finished: bool = True, shift: float = 0.0) -> None:
    """A run folder as fastseg/train.py and the sessions leave it: an evaluation of 10 s every minute and 10 s."""
    run.folder.mkdir(parents=True)
    lines = []
    for i, miou in enumerate(scores, 1):
        rate = {"images_per_second_per_gpu": 4.0 + i}
        lines.append({"event": "train", "step": i, "seconds": 70.0 * i - 10, "epoch": float(i), "loss": 1.0, **rate})
        classes = {"road": miou + shift, "train": None}
        scored = {"miou": miou + shift, "classes": classes, "images": 20, "images_per_second": 2.0}
        lines.append({"event": "eval", "step": i, "seconds": 70.0 * i, "epoch": float(i), **scored})
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.folder / "config.json").write_text(json.dumps(run.config.to_dict()))
    (run.folder / "environment.json").write_text(json.dumps(WHERE))
    session = {"commit": "abcdef0123", "seconds": 250.0, "joules": 3600.0}
    record = {"finished": finished, "failure": None, "dataset": run.digest, "sessions": [session, session]}
    (run.folder / RECORD).write_text(json.dumps(record))


@pytest.fixture
def found(runs: list[Run]) -> StudyResults:
    """All finished but the last run."""
    for run in runs:
        write_run(run, MIOU[run.variant], run is not runs[-1], 0.01 * run.seed)
    return accuracy.results_of("demo", runs, ["--shards", runs[0].config.shards])


@pytest.mark.parametrize(
    ("freedom", "published"), [(2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (120, 1.980)]
)
def test_the_interval_is_students(freedom: int, published: float) -> None:
    """Half its width is t, as tables have it, times the standard error of the mean."""
    values = np.random.default_rng(freedom).normal(size=freedom + 1)
    found = difference(pd.Series(values), pd.Series(0.0, index=range(freedom + 1)))
    assert found is not None
    error = values.std(ddof=1) / math.sqrt(freedom + 1)
    assert (found.high - found.mean) / error == pytest.approx(published, abs=6e-4)


def test_a_difference_is_paired_by_seed() -> None:
    found = difference(pd.Series({0: 3.0, 1: 5.0, 2: 7.0, 9: 100.0}), pd.Series({0: 2.0, 1: 3.0, 2: 4.0, 8: 50.0}))
    assert found is not None
    assert (found.n, found.mean) == (3, 2.0)
    # Differences 1, 2, 3: 2 ± 4.3027 · 1 / √3.
    assert (found.low, found.high) == (pytest.approx(-0.4841, abs=1e-4), pytest.approx(4.4841, abs=1e-4))
    assert found.verdict == "noise"


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        ((2.0, 2.5, 3.0), "better"),
        ((-2.0, -2.5, -3.0), "worse"),
        ((0.0, 0.0, 0.0), "noise"),
        ((2.0, 2.5), "2 seeds, too few to say"),
        ((2.0,), "1 seed, too few to say"),
    ],
)
def test_a_change_counts_beyond_noise(theirs: tuple[float, ...], verdict: str) -> None:
    found = difference(pd.Series(theirs), pd.Series(0.0, index=range(3)))
    assert found is not None
    assert found.verdict == verdict
    assert difference(pd.Series({5: 1.0}), pd.Series({6: 1.0})) is None


def test_one_null_change_in_twenty_is_called() -> None:
    """Of 4000 variants that are the base, with seeds that share what they have in common."""
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(4000):
        common = rng.normal(50, 3, 4)
        theirs, base = common + rng.normal(0, 1, 4), common + rng.normal(0, 1, 4)
        change = difference(pd.Series(theirs), pd.Series(base))
        called += change is not None and change.verdict != "noise"
    assert called / 4000 == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_typed(name: str) -> None:
    """Its flags are flags, each variant differs from the base, and names are those of folders."""
    study = STUDIES[name]
    configs = [parse([*words(study.base), *words(flags)])[1] for flags in study.changed().values()]
    assert all(config != configs[0] for config in configs[1:])
    assert all(re.fullmatch("[a-z0-9-]+", variant) for variant in study.changed())
    assert study.question.endswith((".", "?"))
    assert study.prediction
    assert study.seeds >= 3
    assert list(study.targets) == sorted(study.targets)
    assert f"\n{name}: {study.question}" in f"\n{accuracy.listing()}"


def test_flags_are_words_and_back() -> None:
    line = ["--data.crop", "64", "32", "--optim.ema=None", "--profile", "--shards", "/a folder/x"]
    flags = {"--data.crop": "64 32", "--optim.ema": "None", "--profile": "", "--shards": "'/a folder/x'"}
    assert flags_of(line) == flags
    assert words(flags) == ["--data.crop", "64", "32", "--optim.ema", "None", *line[4:]]


def test_a_study_cut_short_is_balanced(runs: list[Run], tmp_path: Path) -> None:
    assert [(t.seed, t.variant) for t in runs[:4]] == [(0, BASE), (0, "ema-off"), (0, "rate-half"), (1, BASE)]
    assert runs[1].folder == tmp_path / "runs" / "demo" / "ema-off-0"
    assert runs[0].work == 30 * 11


def test_flags_for_all_runs_leave_the_variants(shards: Path, tmp_path: Path) -> None:
    extra = ["--shards", str(shards), "--optim.lr", "0.2", "--optim.epochs", "3"]
    base, half = plan("demo", ["rate-half"], [7], tmp_path, extra)
    assert (base.config.optim.lr, half.config.optim.lr, half.config.optim.epochs) == (0.2, 0.025, 3)
    assert half.seed == 7
    assert base.words.count("--optim.lr") == 1
    with pytest.raises(UserError, match="--seed follows --"):
        plan("demo", None, [0], tmp_path, [*extra, "--seed=3"])
    with pytest.raises(UserError, match="--gpus 2 follows --; runs are compared on one GPU each"):
        plan("demo", None, [0], tmp_path, [*extra, "--gpus", "2"])
    with pytest.raises(UserError, match=r"camvid-rare starts from weights .*; add -- --model\.weights FILE"):
        plan("camvid-rare", None, [0], tmp_path, extra)
    with pytest.raises(UserError, match="after -- comes 'x', which is no flag"):
        plan("demo", None, [0], tmp_path, ["x"])
    with pytest.raises(UserError, match="demo's rate-half has the settings of its base"):
        plan("demo", None, [0], tmp_path, [*extra, "--optim.lr", "0.025"])
    with pytest.raises(UserError, match="--variants has 'nope'; the study demo has: base, ema-off, rate-half"):
        plan("demo", ["nope"], [0], tmp_path, extra)


def test_a_run_is_read_from_its_folder(runs: list[Run]) -> None:
    run = runs[0]
    assert read_result(run) is None
    write_run(run, [0.1, 0.3, 0.2])
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "st')  # being written
    result = read_result(run)
    assert result is not None
    assert (result.last, result.best, result.classes) == (0.2, 0.3, {"road": 0.2, "train": None})
    assert (result.seconds, result.evaluating, result.images_per_second) == (210.0, 30.0, 6.0)
    assert (result.minutes_to(0.25), result.minutes_to(0.31)) == (140 / 60, math.inf)
    assert (result.process_seconds, result.joules, result.commits) == (500.0, 7200.0, ("abcdef0123",))


def test_a_run_on_two_machines_names_both(runs: list[Run]) -> None:
    write_run(runs[0], [0.1])
    record = json.loads((runs[0].folder / RECORD).read_text())
    for session, name in zip(record["sessions"], ("one", "another"), strict=True):
        session["hardware"] = name
    (runs[0].folder / RECORD).write_text(json.dumps(record))
    result = read_result(runs[0])
    assert result is not None
    assert result.hardware == "one, then another"


@pytest.mark.usefixtures("found")
def test_the_file_names_the_machine_of_the_runs(runs: list[Run], tmp_path: Path) -> None:
    """Not the one on which they are shown."""
    accuracy.show(accuracy.Options(json=tmp_path / "out.json"), {"demo": runs}, ["--shards", runs[0].config.shards])
    environment = read_studies(tmp_path / "out.json").environment
    assert (environment["processor"], environment["torch"]) == (WHERE["processor"], WHERE["torch"])
    assert environment["command"] != WHERE["command"]


def test_other_settings_are_refused(runs: list[Run], shards: Path, tmp_path: Path) -> None:
    write_run(runs[0], [0.1])
    again = ["--shards", str(shards)]
    plan("demo", None, range(3), tmp_path / "runs", again)
    with pytest.raises(UserError, match=r"base-0 holds a run with optim\.epochs 30, which is 5\.0 now; remove"):
        plan("demo", None, [0], tmp_path / "runs", [*again, "--optim.epochs", "5"])
    config = runs[0].config.to_dict()
    config["optim"]["cutmix"] = 0.5
    (runs[0].folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"holds a run with optim\.cutmix 0\.5, which is None now"):
        plan("demo", None, [0], tmp_path / "runs", again)


def test_strange_folders_are_refused(runs: list[Run], shards: Path, tmp_path: Path) -> None:
    write_run(runs[0], [0.1])
    record = json.loads((runs[0].folder / RECORD).read_text())
    (runs[0].folder / RECORD).write_text(json.dumps(record | {"dataset": "other"}))
    with pytest.raises(UserError, match="holds a run on other data than"):
        plan("demo", None, [0], tmp_path / "runs", ["--shards", str(shards)])
    (runs[0].folder / RECORD).unlink()
    with pytest.raises(UserError, match=r"holds a run that bench/accuracy\.py did not make"):
        plan("demo", None, [0], tmp_path / "runs", ["--shards", str(shards)])


def test_a_summary_counts_what_is_finished(found: StudyResults) -> None:
    summary = found.summary()
    assert list(summary.index) == [BASE, "ema-off", "rate-half"]
    base = summary.loc[BASE]
    assert (base["seeds"], base["last"], base["last_std"]) == (3, pytest.approx(0.31), pytest.approx(0.01))
    assert (base["minutes"], base["evaluating"], base["images_per_second"]) == (3.5, 0.5, 6.0)
    assert base["watt_hours"] == 2.0
    classes = found.classes()
    assert classes[BASE]["road"] == pytest.approx(0.31)
    assert math.isnan(classes[BASE]["train"])
    # Every seed is two points below the base's: no noise is left in the pairs.
    ema_off, half = found.difference("ema-off"), found.difference("rate-half")
    assert ema_off is not None
    assert (ema_off.mean, ema_off.verdict) == (pytest.approx(-0.02), "worse")
    assert half is not None
    assert half.verdict == "2 seeds, too few to say"
    assert summary["seeds"]["rate-half"] == 2
    assert found.difference(BASE) is None


def test_what_is_not_known_of_all_runs_is_not_summed_up(found: StudyResults) -> None:
    first, *others = found.results
    killed = replace(found, results=(replace(first, process_seconds=None, joules=None), *others))
    summary = killed.summary()
    assert summary[["process", "watt_hours"]].isna().loc[BASE].all()
    assert summary[["process", "watt_hours"]].notna().loc["ema-off"].all()


def test_a_target_that_most_seeds_miss_is_not_reached(found: StudyResults) -> None:
    """ema-off: 0.05, 0.10, 0.28 and one and two points more; rate-half: 0.14 and 0.15."""
    minutes = found.summary()[["to 10 %", "to 15 %", "to 20 %"]]
    assert minutes.loc["ema-off"].tolist() == [140 / 60, 3.5, 3.5]
    assert minutes.loc["rate-half"].tolist() == [70 / 60, math.inf, math.inf]


def test_json_comes_back_and_names_no_place(found: StudyResults, runs: list[Run], tmp_path: Path) -> None:
    path = tmp_path / "accuracy-chip.json"
    write_studies(path, WHERE, [found])
    again = read_studies(path)
    assert again.environment == WHERE
    assert again.studies == (found,)
    assert str(tmp_path) not in path.read_text()
    assert str(Path(runs[0].config.shards).parent) not in path.read_text()
    for broken in ("{}", "[]", '{"environment": {}, "studies": [{}]}', "no"):
        path.write_text(broken)
        with pytest.raises(UserError, match=r"holds no studies of bench/accuracy\.py"):
            read_studies(path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--shards /a/b/camvid --x", "--shards camvid --x"),
        ("--json=/a/b.json", "--json=b.json"),
        ("3 images/s, 4 / 4, runs/x, s3://a/b", "3 images/s, 4 / 4, runs/x, s3://a/b"),
    ],
)
def test_of_a_place_its_name_is_left(text: str, shown: str) -> None:
    assert accuracy.without_paths(text) == shown


def test_the_tables_say_it(found: StudyResults) -> None:
    text = tables.study_tables(found)
    assert "| base | 3 | 31.0 ± 1.0 | 31.0 ± 1.0 | – | – |" in text
    assert "| ema-off | 3 | 29.0 ± 1.0 | 29.0 ± 1.0 | -2.0 (-2.0 to -2.0) | worse |" in text
    assert "| -16.0 | 2 seeds, too few to say |" in text
    assert "| variant | in all | evaluating | process | images/s | to 10 % | to 15 % | to 20 % | Wh |" in text
    assert "| base | 3.50 | 0.500 | 8.33 | 6.00 | 1.17 | 2.33 | 2.33 | 2.00 |" in text
    assert "| rate-half | 3.50 | 0.500 | 8.33 | 6.00 | 1.17 | only 1 of 2 | never | 2.00 |" in text
    assert "| class | base | ema-off | rate-half |" in text
    assert "| road | 31.0 | 29.0 | 14.5 |\n| train | – | – | – |" in text
    assert (
        "*8 of 9 runs are finished, 1 more begun (rate-half, seed 2: 16.0 % so far); the others count nowhere*" in text
    )
    assert "several" not in text


def test_what_ended_early_or_elsewhere_is_said(found: StudyResults) -> None:
    first, second, third, *others = found.results
    failed = replace(first, finished=False, failure="at step 3 the loss is nan")
    moved = replace(second, hardware="Other", commits=(second.commits[0], "1" * 40 + " (changed)"))
    said = list(tables.warnings(replace(found, results=(failed, moved, third, *others))))
    assert said[0] == "base, seed 0, ended early: at step 3 the loss is nan"
    assert said[1].startswith("7 of 9 runs are finished, 1 more begun (rate-half, seed 2")
    assert said[2:] == [
        "the runs are of several machines (Other, Chip, 2 cores): their minutes do not compare",
        "the runs are of several commits: abcdef012, 111111111 (changed)",
    ]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (b"error: of the session before\nstep 1\nerror: at step 3 the loss is nan\n", "at step 3 the loss is nan"),
        (b"Traceback\nerror: of the session before\nKilled\n\n", "exit code 9, Killed"),
        (b"error: of the session before\n", "exit code 9, silent"),
    ],
)
def test_a_trainers_last_words_are_kept(said: bytes, kept: str, tmp_path: Path) -> None:
    before = said.index(b"before\n") + len(b"before\n")
    (tmp_path / "log").write_bytes(said)
    assert last_words(tmp_path / "log", before, 9) == kept


def test_the_documents_show_what_is_committed(found: StudyResults, tmp_path: Path) -> None:
    assert tables.page([]) == tables.short_table([]) == tables.NONE_YET
    paths = [tmp_path / "accuracy-chip.json", tmp_path / "accuracy-gpu.json"]
    write_studies(paths[0], WHERE, [found])
    write_studies(paths[1], WHERE | {"gpus": "1 × Card"}, [found])
    text = tables.page(paths)
    assert text.index("### demo: 1 × Card") < text.index("### demo: Chip, 2 cores")
    for part in (STUDIES["demo"].question, "`x` at abcdef012 with torch 9.8", "- ema-off: `--optim.ema None`"):
        assert part in text
    first, second = tables.short_table(paths).splitlines()[2:]
    assert "[demo](bench/results/accuracy-gpu.json), 1 × Card" in first
    assert "| 31.0 ± 1.0 % (3 seeds, 3.50 minutes each) | worse: ema-off -2.0; 2 seeds, too few to say: rate" in second


def test_a_line_is_the_mean_over_seeds(found: StudyResults, tmp_path: Path) -> None:
    assert curve(found, BASE)[0] == pytest.approx((70 / 60, 11.0, 10.0, 12.0))
    plot_studies(WHERE, [found], tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert "base (31.0, 3)" in text
    assert "rate-half (14.5, 2)" in text
    with pytest.raises(UserError, match="no run is finished"):
        plot_studies(WHERE, [], tmp_path / "y.svg")


def test_a_study_of_single_evaluations_is_a_forest_plot(found: StudyResults, tmp_path: Path) -> None:
    assert not has_one_evaluation(found)
    results = tuple(replace(result, evaluations=result.evaluations[-1:]) for result in found.results)
    single = replace(found, results=results)
    assert has_one_evaluation(single)
    assert seed_differences(single, "ema-off") == pytest.approx([-2, -2, -2])
    plot_studies(WHERE, [single], tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    for said in ("31.0 ± 1.0 % mIoU, 3 seeds", "-2.0 (-2.0 to -2.0), 3 seeds", "-16.0, 2 seeds", "below the base"):
        assert said in text
    assert "minutes" not in text
    plot_studies(WHERE, [single, found], tmp_path / "both.svg")
    assert "minutes" in (tmp_path / "both.svg").read_text()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "no study is named"),
        ({"studies": ("nope",)}, "'nope' is no study; it must be of: camvid,"),
        ({"studies": ("demo",), "seeds": 0}, "--seeds is 0"),
        ({"studies": ("demo",), "minutes": 0.0}, "--minutes is 0.0"),
        ({"studies": ("demo",), "plot": Path("x.pdf")}, "must end in .png or .svg"),
        ({"studies": ("demo",), "json": Path("/")}, "--json is /, which is a folder"),
    ],
)
def test_nonsense_gets_a_sentence(given: dict, says: str) -> None:
    with pytest.raises(UserError) as caught:
        accuracy.check(accuracy.Options(**given))
    assert says in str(caught.value)
