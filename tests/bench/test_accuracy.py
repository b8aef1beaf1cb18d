"""bench/accuracy.py: which runs a study is, what is read from their folders, and what may be said of it."""

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from bench import accuracy
from bench.suite import accuracy_tables, readme
from bench.suite.accuracy_plot import curve, draw
from bench.suite.outcomes import read_outcome
from bench.suite.paired import difference, mean_of
from bench.suite.sittings import last_words
from bench.suite.studies import BASE, STUDIES, flags_of, words
from bench.suite.summaries import Findings, read_findings, write_findings
from bench.suite.trials import RECORD, Trial, plan
from fastseg.commands.train import parse
from fastseg.errors import UserError

WHERE = {"processor": "Chip", "cores": "2", "gpus": "none", "command": "x", "commit": "abcdef0123", "torch": "9.8"}
MIOU = {BASE: [0.10, 0.20, 0.30], "ema-off": [0.05, 0.10, 0.28], "rate-half": [0.10, 0.12, 0.14]}
"""Of the evaluations of a variant's first seed; every later seed is one point higher."""


@pytest.fixture
def trials(shards: Path, tmp_path: Path) -> list[Trial]:
    """The demo's, three seeds of three variants."""
    return plan("demo", None, range(3), tmp_path / "runs", ["--shards", str(shards)])


def write_run(trial: Trial, scores: list[float], finished: bool = True, shift: float = 0.0) -> None:
    """A run folder as fastseg/train.py and the sittings leave it: an evaluation of 10 s every minute and 10 s."""
    trial.folder.mkdir(parents=True)
    lines = []
    for i, miou in enumerate(scores, 1):
        rate = {"images_per_second": 4.0 + i}
        lines.append({"event": "train", "step": i, "seconds": 70.0 * i - 10, "epoch": float(i), "loss": 1.0, **rate})
        classes = {"road": miou + shift, "train": None}
        scored = {"miou": miou + shift, "classes": classes, "images": 20, "images_per_second": 2.0}
        lines.append({"event": "eval", "step": i, "seconds": 70.0 * i, "epoch": float(i), **scored})
    (trial.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (trial.folder / "config.json").write_text(json.dumps(trial.config.to_dict()))
    (trial.folder / "environment.json").write_text(json.dumps(WHERE))
    sitting = {"commit": "abcdef0123", "seconds": 250.0, "joules": 3600.0}
    record = {"finished": finished, "failure": None, "dataset": trial.digest, "sittings": [sitting, sitting]}
    (trial.folder / RECORD).write_text(json.dumps(record))


@pytest.fixture
def found(trials: list[Trial]) -> Findings:
    """All finished but the last run."""
    for trial in trials:
        write_run(trial, MIOU[trial.variant], trial is not trials[-1], 0.01 * trial.seed)
    return accuracy.findings_of("demo", trials, ["--shards", trials[0].config.shards])


@pytest.mark.parametrize(
    ("freedom", "published"), [(2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (120, 1.980)]
)
def test_the_interval_is_students(freedom: int, published: float) -> None:
    """Half its width is t, as tables have it, times the standard error of the mean."""
    values = np.random.default_rng(freedom).normal(size=freedom + 1)
    found = difference(dict(enumerate(values.tolist())), dict.fromkeys(range(freedom + 1), 0.0))
    assert found is not None
    assert found.high is not None
    error = values.std(ddof=1) / math.sqrt(freedom + 1)
    assert (found.high - found.mean) / error == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize("path", sorted(readme.RESULTS.glob("accuracy-*.json")), ids=lambda path: path.stem)
def test_what_is_committed_comes_out_again(path: Path) -> None:
    """Differences and intervals, calculated anew from the stored outcomes."""
    stored = json.loads(path.read_text(encoding="utf-8"))["studies"]
    for then, found in zip(stored, read_findings(path)[1], strict=True):
        for old, summary in zip(then["summaries"], found.summaries(), strict=True):
            now = asdict(summary)
            assert (now["final"], now["classes"]) == (old["final"], old["classes"])
            was, is_now = old["difference"] or {}, now["difference"] or {}
            assert is_now.keys() == was.keys()
            assert all(is_now[key] == (value and pytest.approx(value, rel=1e-9)) for key, value in was.items())


def test_a_difference_is_paired_by_seed() -> None:
    found = difference({0: 3.0, 1: 5.0, 2: 7.0, 9: 100.0}, {0: 2.0, 1: 3.0, 2: 4.0, 8: 50.0})
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
    found = difference(dict(enumerate(theirs)), dict.fromkeys(range(3), 0.0))
    assert found is not None
    assert found.verdict == verdict
    assert difference({5: 1.0}, {6: 1.0}) is None


def test_one_null_change_in_twenty_is_called() -> None:
    """Of 4000 variants that are the base, with seeds that share what they have in common."""
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(4000):
        common = rng.normal(50, 3, 4)
        theirs, base = common + rng.normal(0, 1, 4), common + rng.normal(0, 1, 4)
        change = difference(dict(enumerate(theirs.tolist())), dict(enumerate(base.tolist())))
        called += change is not None and change.verdict != "noise"
    assert called / 4000 == pytest.approx(0.05, abs=0.012)


def test_a_deviation_is_the_samples() -> None:
    assert mean_of([1.0, 2.0, 4.0]).std == pytest.approx(1.5275, abs=1e-4)
    assert mean_of([1.0]).std is None


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_typed(name: str) -> None:
    """Its flags are flags, each variant differs from the base, and names are those of folders."""
    study = STUDIES[name]
    configs = [parse([*words(study.base), *words(flags)])[1] for flags in study.changed().values()]
    assert all(config != configs[0] for config in configs[1:])
    assert all(re.fullmatch("[a-z0-9-]+", variant) for variant in study.names())
    assert study.question.endswith((".", "?"))
    assert study.prediction
    assert study.seeds >= 3
    assert list(study.marks) == sorted(study.marks)
    assert f"\n{name}: {study.question}" in f"\n{accuracy.listing()}"


def test_flags_are_words_and_back() -> None:
    line = ["--data.crop", "64", "32", "--optim.ema=None", "--profile", "--shards", "/a folder/x"]
    flags = {"--data.crop": "64 32", "--optim.ema": "None", "--profile": "", "--shards": "'/a folder/x'"}
    assert flags_of(line) == flags
    assert words(flags) == ["--data.crop", "64", "32", "--optim.ema", "None", *line[4:]]


def test_a_study_cut_short_is_balanced(trials: list[Trial], tmp_path: Path) -> None:
    assert [(t.seed, t.variant) for t in trials[:4]] == [(0, BASE), (0, "ema-off"), (0, "rate-half"), (1, BASE)]
    assert trials[1].folder == tmp_path / "runs" / "demo" / "ema-off-0"
    assert trials[0].work == 12 * 11


def test_flags_for_all_runs_leave_the_variants(shards: Path, tmp_path: Path) -> None:
    extra = ["--shards", str(shards), "--optim.lr", "0.2", "--optim.epochs", "3"]
    base, half = plan("demo", ["rate-half"], [7], tmp_path, extra)
    assert (base.config.optim.lr, half.config.optim.lr, half.config.optim.epochs) == (0.2, 0.025, 3)
    assert half.seed == 7
    assert base.words.count("--optim.lr") == 1
    with pytest.raises(UserError, match="--seed stands behind --"):
        plan("demo", None, [0], tmp_path, [*extra, "--seed=3"])
    with pytest.raises(UserError, match="--gpus 2 stands behind --; runs are compared on one GPU each"):
        plan("demo", None, [0], tmp_path, [*extra, "--gpus", "2"])
    with pytest.raises(UserError, match=r"camvid-rare goes on from weights .*; add -- --model\.weights FILE"):
        plan("camvid-rare", None, [0], tmp_path, extra)
    with pytest.raises(UserError, match="behind -- stands 'x', which is no flag"):
        plan("demo", None, [0], tmp_path, ["x"])
    with pytest.raises(UserError, match="demo's rate-half has the settings of its base"):
        plan("demo", None, [0], tmp_path, [*extra, "--optim.lr", "0.025"])
    with pytest.raises(UserError, match="--variants has 'nope'; the study demo has: base, ema-off, rate-half"):
        plan("demo", ["nope"], [0], tmp_path, extra)


def test_a_run_is_read_from_its_folder(trials: list[Trial]) -> None:
    trial = trials[0]
    assert read_outcome(trial) is None
    write_run(trial, [0.1, 0.3, 0.2])
    with (trial.folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "st')  # being written
    outcome = read_outcome(trial)
    assert outcome is not None
    assert (outcome.final, outcome.best, outcome.classes) == (0.2, 0.3, {"road": 0.2, "train": None})
    assert (outcome.seconds, outcome.evaluating, outcome.images_per_second) == (210.0, 30.0, 6.0)
    assert (outcome.minutes_to(0.25), outcome.minutes_to(0.31)) == (140 / 60, None)
    assert (outcome.process_seconds, outcome.joules, outcome.commits) == (500.0, 7200.0, ("abcdef0123",))


def test_a_run_on_two_machines_names_both(trials: list[Trial]) -> None:
    write_run(trials[0], [0.1])
    record = json.loads((trials[0].folder / RECORD).read_text())
    for sitting, name in zip(record["sittings"], ("one", "another"), strict=True):
        sitting["hardware"] = name
    (trials[0].folder / RECORD).write_text(json.dumps(record))
    outcome = read_outcome(trials[0])
    assert outcome is not None
    assert outcome.hardware == "one, then another"


def test_the_file_names_the_machine_of_the_runs(found: Findings, trials: list[Trial], tmp_path: Path) -> None:
    """Not the one on which they are shown."""
    accuracy.write(accuracy.Options(json=tmp_path / "out.json"), [found], trials)
    environment, _ = read_findings(tmp_path / "out.json")
    assert (environment["processor"], environment["torch"]) == (WHERE["processor"], WHERE["torch"])
    assert environment["command"] != WHERE["command"]


def test_other_settings_are_refused(trials: list[Trial], shards: Path, tmp_path: Path) -> None:
    write_run(trials[0], [0.1])
    again = ["--shards", str(shards)]
    plan("demo", None, range(3), tmp_path / "runs", again)
    with pytest.raises(UserError, match=r"base-0 holds a run with optim\.epochs 12, which is 5\.0 now; remove"):
        plan("demo", None, [0], tmp_path / "runs", [*again, "--optim.epochs", "5"])
    # A setting that did not exist then had the value that its default leaves alone.
    config = trials[0].config.to_dict()
    assert config["optim"].pop("dice") == 0
    (trials[0].folder / "config.json").write_text(json.dumps(config))
    plan("demo", None, [0], tmp_path / "runs", again)
    with pytest.raises(UserError, match=r"holds a run with optim\.dice 0\.0, which is 0\.7 now"):
        plan("demo", None, [0], tmp_path / "runs", [*again, "--optim.dice", "0.7"])
    # One that exists no more was off, or the run is another.
    config["optim"]["cutmix"] = None
    (trials[0].folder / "config.json").write_text(json.dumps(config))
    plan("demo", None, [0], tmp_path / "runs", again)
    config["optim"]["cutmix"] = 0.5
    (trials[0].folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"holds a run with optim\.cutmix 0\.5, which is gone now"):
        plan("demo", None, [0], tmp_path / "runs", again)


def test_strange_folders_are_refused(trials: list[Trial], shards: Path, tmp_path: Path) -> None:
    write_run(trials[0], [0.1])
    record = json.loads((trials[0].folder / RECORD).read_text())
    (trials[0].folder / RECORD).write_text(json.dumps(record | {"dataset": "other"}))
    with pytest.raises(UserError, match="holds a run on other data than"):
        plan("demo", None, [0], tmp_path / "runs", ["--shards", str(shards)])
    (trials[0].folder / RECORD).unlink()
    with pytest.raises(UserError, match=r"holds a run that bench/accuracy\.py did not make"):
        plan("demo", None, [0], tmp_path / "runs", ["--shards", str(shards)])


def test_a_summary_counts_what_is_finished(found: Findings) -> None:
    base, ema_off, half = found.summaries()
    assert (base.variant, base.seeds, base.difference) == (BASE, (0, 1, 2), None)
    assert (base.final.mean, base.final.std) == (pytest.approx(0.31), pytest.approx(0.01))
    assert base.classes == {"road": pytest.approx(0.31), "train": None}
    assert (base.minutes, base.evaluating, base.images_per_second) == (3.5, 0.5, 6.0)
    assert base.watt_hours == 2.0
    # Every seed is two points below the base's: no noise is left in the pairs.
    assert ema_off.difference is not None
    assert ema_off.difference.mean == pytest.approx(-0.02)
    assert ema_off.difference.verdict == "worse"
    assert half.seeds == (0, 1)
    assert half.difference is not None
    assert half.difference.verdict == "2 seeds, too few to say"


def test_a_mark_that_most_seeds_miss_is_not_reached(found: Findings) -> None:
    """ema-off: 0.05, 0.10, 0.28 and one and two points more."""
    minutes = {r.mark: (r.minutes, r.seeds) for r in found.summaries()[1].reached}
    assert minutes == {0.10: (140 / 60, 3), 0.15: (3.5, 3), 0.20: (3.5, 3)}
    (_, _, half) = found.summaries()  # 0.14 and 0.15
    assert [(r.minutes, r.seeds) for r in half.reached] == [(70 / 60, 2), (None, 1), (None, 0)]


def test_json_comes_back_and_names_no_place(found: Findings, trials: list[Trial], tmp_path: Path) -> None:
    path = tmp_path / "accuracy-chip.json"
    write_findings(path, WHERE, [found])
    environment, (again,) = read_findings(path)
    assert environment == WHERE
    assert again.outcomes == found.outcomes
    assert again.summaries() == found.summaries()
    assert str(tmp_path) not in path.read_text()
    assert str(Path(trials[0].config.shards).parent) not in path.read_text()
    document = json.loads(path.read_text())
    assert document["studies"][0]["summaries"][1]["verdict"] == "worse"
    for broken in ("{}", "[]", '{"environment": {}, "studies": [{}]}', "no"):
        path.write_text(broken)
        with pytest.raises(UserError, match=r"holds no studies of bench/accuracy\.py"):
            read_findings(path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--shards /a/b/camvid --x", "--shards camvid --x"),
        ("--json=/a/b.json", "--json=b.json"),
        ("3 images/s, 4 / 4, runs/x, s3://a/b", "3 images/s, 4 / 4, runs/x, s3://a/b"),
    ],
)
def test_of_a_place_its_name_is_left(text: str, shown: str) -> None:
    assert accuracy.without_places(text) == shown


def test_the_tables_say_it(found: Findings) -> None:
    text = accuracy_tables.markdown(found)
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


def test_what_ended_early_or_elsewhere_is_said(found: Findings) -> None:
    first, second, third, *others = found.outcomes
    failed = replace(first, finished=False, failure="at step 3 the loss is nan")
    moved = replace(second, hardware="Other", commits=(second.commits[0], "1" * 40 + " (changed)"))
    said = list(accuracy_tables.remarks(replace(found, outcomes=(failed, moved, third, *others))))
    assert said[0] == "base, seed 0, ended early: at step 3 the loss is nan"
    assert said[1].startswith("7 of 9 runs are finished, 1 more begun (rate-half, seed 2")
    assert said[2:] == [
        "the runs are of several machines (Other, Chip, 2 cores): their minutes do not compare",
        "the runs are of several commits: abcdef012, 111111111 (changed)",
    ]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (b"error: of the sitting before\nstep 1\nerror: at step 3 the loss is nan\n", "at step 3 the loss is nan"),
        (b"Traceback\nerror: of the sitting before\nKilled\n\n", "exit code 9, Killed"),
        (b"error: of the sitting before\n", "exit code 9, silent"),
    ],
)
def test_a_trainers_last_words_are_kept(said: bytes, kept: str, tmp_path: Path) -> None:
    before = said.index(b"before\n") + len(b"before\n")
    (tmp_path / "log").write_bytes(said)
    assert last_words(tmp_path / "log", before, 9) == kept


def test_the_documents_show_what_is_committed(found: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert readme.accuracy() == accuracy_tables.NONE_YET
    write_findings(tmp_path / "accuracy-chip.json", WHERE, [found])
    write_findings(tmp_path / "accuracy-gpu.json", WHERE | {"gpus": "1 × Card"}, [found])
    text = readme.accuracy()
    assert text.index("### demo: 1 × Card") < text.index("### demo: Chip, 2 cores")
    for part in (STUDIES["demo"].question, "`x` at abcdef012 with torch 9.8", "- ema-off: `--optim.ema None`"):
        assert part in text


def test_a_line_is_the_mean_over_seeds(found: Findings, tmp_path: Path) -> None:
    assert curve(found, BASE)[0] == pytest.approx((70 / 60, 11.0, 10.0, 12.0))
    draw(WHERE, [found], tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert "base (31.0, 3)" in text
    assert "rate-half (14.5, 2)" in text
    with pytest.raises(UserError, match="no run is finished"):
        draw(WHERE, [], tmp_path / "y.svg")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "no study is named"),
        ({"studies": ("nope",)}, "'nope' is no study; it must be of: camvid,"),
        ({"studies": ("demo",), "seeds": 0}, "--seeds is 0"),
        ({"studies": ("demo",), "seeds": 3, "seed": (1,)}, "--seeds and --seed are both given"),
        ({"studies": ("demo",), "plot": Path("x.pdf")}, "must end in .png or .svg"),
        ({"studies": ("demo",), "json": Path("/")}, "--json is /, which is a folder"),
    ],
)
def test_nonsense_gets_a_sentence(given: dict, says: str) -> None:
    with pytest.raises(UserError) as caught:
        accuracy.check(accuracy.Options(**given))
    assert says in str(caught.value)
