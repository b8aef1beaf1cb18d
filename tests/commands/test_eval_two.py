"""``fastseg-eval A.pt B.pt`` and ``--baseline coco``: the whole command, in this process and as users type it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_model_weights

import commands
from checkpoints import ARCH, write_checkpoint
from fastseg.commands.evaluate import _main
from fastseg.errors import UserError
from fastseg.labels import cityscapes
from fastseg.model import checkpoint

NAMES = [c.name for c in cityscapes().classes]
Run = Callable[..., tuple[str, dict]]
WEIGHTS = get_model_weights(ARCH).DEFAULT


@pytest.fixture(scope="module")
def pair(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and one that says otherwise here and there."""
    folder = tmp_path_factory.mktemp("pair")
    a = write_checkpoint(folder / "a.pt", shards)
    document = checkpoint.load(a)
    bias = document["model"]["classifier.4.bias"]
    generator = torch.Generator().manual_seed(1)
    document["model"]["classifier.4.bias"] = bias + 0.3 * torch.randn(bias.shape, generator=generator)
    checkpoint.save(folder / "b.pt", {**document, "step": 7})
    return a, folder / "b.pt"


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: what it prints and what it writes with --json."""

    def run(*words: object) -> tuple[str, dict]:
        arguments = ["fastseg-eval", *words, "--json", "--precision", "fp32", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in arguments])
        monkeypatch.setenv("COLUMNS", "200")
        _main()
        printed = capsys.readouterr()
        return printed.err, json.loads(printed.out)

    return run


def test_each_has_the_scores_that_it_has_alone(evaluate: Run, pair: tuple[Path, Path]) -> None:
    text, both = evaluate(*pair, "--batch", 2)
    alone = [evaluate(path)[1] for path in pair]
    for letter, scores in zip("ab", alone, strict=True):
        assert both["miou"][letter] == pytest.approx(scores["miou"])
        for name, value in scores["classes"].items():
            assert both["classes"][name][letter] == (None if value is None else pytest.approx(value))
    assert both["miou"]["difference"] == pytest.approx(alone[1]["miou"] - alone[0]["miou"])
    assert both["miou"]["low"] < both["miou"]["difference"] < both["miou"]["high"]
    assert both["checkpoints"] == [str(path) for path in pair]
    assert both["images"] == 5
    assert f"A: {pair[0]}, step 12" in text
    assert f"B: {pair[1]}, step 7" in text
    assert "mIoU: " in text
    assert "where they are neighboring frames of one video, they are too narrow" in text
    assert "5 images of" in text


def test_a_checkpoint_and_itself_do_not_differ(evaluate: Run, pair: tuple[Path, Path]) -> None:
    text, both = evaluate(pair[0], pair[0], "--max-images", 3)
    assert "no difference; A and B score the same on each of the 3 images" in text
    differences = [both["miou"], *both["classes"].values()]
    assert {row["difference"] for row in differences} <= {0, None}
    assert {row["low"] for row in differences} <= {0, None}


@pytest.fixture
def baseline(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Where torchvision's cache has its download: the network of a.pt, its last layer made one for VOC's classes."""
    known = {"bicycle": "bicycle", "bus": "bus", "car": "car", "motorbike": "motorcycle", "person": "person"}
    known["train"] = "train"
    state = dict(checkpoint.load(pair[0])["model"])
    others = iter([name for name in NAMES if name not in known.values()])
    # VOC's other 15 are some of the set's other 13, and twice the last of them.
    rows = [NAMES.index(known.get(name) or next(others, NAMES[-5])) for name in WEIGHTS.meta["categories"]]
    for part in ("weight", "bias"):
        state[f"classifier.4.{part}"] = state[f"classifier.4.{part}"][rows]
    network = get_model(ARCH, weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    file = tmp_path / "hub/checkpoints" / Path(WEIGHTS.url).name
    file.parent.mkdir(parents=True)
    torch.save({**network.state_dict(), **state}, file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return known


def test_the_baseline_alone_and_beside_a_checkpoint(
    evaluate: Run, pair: tuple[Path, Path], shards: Path, baseline: dict[str, str]
) -> None:
    """It has the network of a.pt and says the same of the classes it knows: no difference."""
    beside, both = evaluate(pair[0], "--baseline", "coco")
    text, alone = evaluate("--baseline", "coco", "--arch", ARCH, "--shards", shards)
    _, trained = evaluate(pair[0])
    assert both["baseline_classes"] == alone["baseline_classes"] == baseline
    assert set(both["classes"]) == set(baseline.values())
    for name, row in both["classes"].items():
        value = trained["classes"][name]
        assert row["a"] == row["b"] == alone["classes"][name] == (None if value is None else pytest.approx(value))
    assert sum(bool(value) for value in alone["classes"].values()) > 1  # the agreement is about something
    assert alone["miou"] == pytest.approx(both["miou"]["a"])
    assert f"A: {ARCH}, COCO_WITH_VOC_LABELS_V1" in beside
    for output in (beside, text):
        assert "motorcycle (its motorbike)" in output
        assert "and not the other 13" in output
        assert "sidewalk" not in output
    assert "B − A shows what training buys" in beside
    assert "fastseg-eval CKPT --baseline coco" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no checkpoint is named"),
        (["A", "A", "A"], "3 models are named"),
        (["A", "A", "--baseline", "coco"], "3 models are named, the baseline included; fastseg-eval compares two"),
        (["A", "--arch", ARCH], f"--arch {ARCH} is for the baseline; add --baseline coco"),
        (["--baseline", "coco"], "name one with --shards DIR"),
        (["A", "A", "--report", "r"], "--report takes a single checkpoint"),
        (["A", "--baseline", "coco", "--save-predictions", "p"], "--save-predictions takes a single checkpoint"),
        (["A", "none.pt"], "none.pt does not exist"),
        (["A", "OTHER"], "the number of classes of "),
    ],
)
def test_what_cannot_be_compared_gets_a_sentence(
    arguments: list[str],
    says: str,
    evaluate: Run,
    pair: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    other = tmp_path / "other.pt"
    document = checkpoint.load(pair[0])
    checkpoint.save(other, {**document, "classes": document["classes"][:4]})
    places = {"A": pair[0], "OTHER": other}
    with pytest.raises(UserError) as error:
        evaluate(*(places.get(word, word) for word in arguments))
    assert says in str(error.value)


def test_two_ranks_say_the_same_as_one(pair: tuple[Path, Path]) -> None:
    documents = []
    for ranks in (1, 2):
        result = commands.run("fastseg-eval", *pair, "--gpus", ranks, "--precision", "fp32", "--json")
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("95 % interval") == 1
        documents.append(json.loads(result.stdout))
    assert documents[0] == documents[1]
