"""cityscapesscripts' evaluator as we run it: instance-level scores by their definition, and what it would choke on."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.errors import Stopped, UserError
from fastseg.evaluation.cityscapes import OfficialScores, explain, largest_difference, run_official
from fastseg.evaluation.scores import Score, score
from fastseg.labels import cityscapes

SIZE = (24, 40)
LABEL_IDS = [value for value, train_id in cityscapes().train_ids.items() if train_id != 255]
OBJECTS = {24: "person", 26: "car", 27: "truck"}


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two frames of stripes of labels with three objects of each kind in :data:`OBJECTS`, some ignored pixels."""
    rng = np.random.default_rng(0)
    for number in range(2):
        instances = np.repeat(rng.choice([0, 7, 11, 21], SIZE[1]), SIZE[0]).reshape(SIZE[::-1]).T.astype(np.int32)
        for label_id in OBJECTS:
            for i in range(3):
                y, x = rng.integers(0, SIZE[0] - 6), rng.integers(0, SIZE[1] - 9)
                instances[y : y + rng.integers(1, 6), x : x + rng.integers(1, 9)] = 1000 * label_id + i
        stem = f"bonn_{number:06d}_000019_gtFine"
        folder = tmp_path / "gtFine/val/bonn"
        folder.mkdir(parents=True, exist_ok=True)
        labels = np.where(instances >= 1000, instances // 1000, instances).astype(np.uint8)
        Image.fromarray(labels).save(folder / f"{stem}_labelIds.png")
        Image.fromarray(instances.astype(np.uint16)).save(folder / f"{stem}_instanceIds.png")
    return tmp_path


@pytest.fixture
def predictions(truth: Path) -> dict[str, Path]:
    """Right but for a third of the pixels, by key."""
    rng, found = np.random.default_rng(1), {}
    for path in sorted(truth.glob("gtFine/val/bonn/*_labelIds.png")):
        labels = np.asarray(Image.open(path))
        wrong = rng.random(SIZE) < 0.3
        key = path.name.removesuffix("_gtFine_labelIds.png")
        found[key] = truth / f"{key}.png"
        Image.fromarray(np.where(wrong, rng.choice([7, 11, *OBJECTS], SIZE), labels).astype(np.uint8)).save(found[key])
    return found


def frames(truth: Path, predictions: dict[str, Path]) -> list[tuple[np.ndarray, ...]]:
    """Labels, instances and prediction of each frame."""
    folder = truth / "gtFine/val/bonn"
    names = ("labelIds", "instanceIds")
    paths = [(*(folder / f"{key}_gtFine_{name}.png" for name in names), path) for key, path in predictions.items()]
    return [tuple(np.asarray(Image.open(path)) for path in row) for row in paths]


def test_equals_the_definition(truth: Path, predictions: dict[str, Path]) -> None:
    official = run_official(truth, predictions)
    sizes = {"person": 3462.4756337644, "car": 12794.0202738185, "truck": 27855.1264367816}
    for label_id, name in OBJECTS.items():
        found = missed = wrong = hits = union = 0.0
        for labels, instances, prediction in frames(truth, predictions):
            for instance in np.unique(instances[instances // 1000 == label_id]):
                mask = instances == instance
                weight = sizes[name] / mask.sum()
                found += weight * (prediction[mask] == label_id).sum()
                missed += weight * (prediction[mask] != label_id).sum()
            counted = np.isin(labels, LABEL_IDS)
            wrong += ((prediction == label_id) & (labels != label_id) & counted).sum()
            hits += ((prediction == label_id) & (labels == label_id)).sum()
            union += (((prediction == label_id) | (labels == label_id)) & counted).sum()
        assert official.classes[name] == pytest.approx(hits / union)
        assert official.instances[name] == pytest.approx(found / (found + missed + wrong))
    assert np.isnan(official.instances["road"])
    assert official.to_json()["instances"]["road"] is None
    assert not hasattr(np, "in1d")


def our_score(truth: Path, predictions: dict[str, Path]) -> Score:
    table = cityscapes()
    matrix = np.zeros((19, 19), np.int64)
    for labels, _, prediction in frames(truth, predictions):
        ids, guess = table.lookup()[labels], table.lookup()[prediction]
        np.add.at(matrix, (ids[(ids != 255) & (guess != 255)], guess[(ids != 255) & (guess != 255)]), 1)
    return score(matrix, table.classes)


def test_says_how_far_apart_both_are(truth: Path, predictions: dict[str, Path]) -> None:
    told: list[tuple[int, int]] = []
    official = run_official(truth, predictions, lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    ours = our_score(truth, predictions)
    # A prediction of void has no train id, so that only the misses differ: none here, where 0 is ignored in the truth.
    assert largest_difference(ours, official) == pytest.approx(0, abs=1e-12)
    assert explain(ours, official) == "the largest difference of a class's IoU is 0.0000 %"
    moved = OfficialScores(**{**vars(official), "classes": {**official.classes, "car": official.classes["car"] + 0.01}})
    assert largest_difference(ours, moved) == pytest.approx(0.01)
    del moved.classes["road"]
    assert largest_difference(ours, moved) == float("inf")


def test_reads_the_official_zip_and_either_folder(truth: Path, predictions: dict[str, Path], tmp_path: Path) -> None:
    expected = run_official(truth, predictions).to_json()
    assert run_official(truth / "gtFine", predictions).to_json() == expected
    place = tmp_path / "zips/gtFine_trainvaltest.zip"
    place.parent.mkdir()
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("README", "not an image")
        for path in truth.glob("gtFine/*/*/*.png"):
            archive.write(path, path.relative_to(truth))
    assert run_official(place, predictions).to_json() == expected
    assert run_official(place.parent, predictions).to_json() == expected
    place.write_bytes(place.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable zip"):
        run_official(place, predictions)


def test_without_instances_there_is_no_instance_score(truth: Path, predictions: dict[str, Path]) -> None:
    ours = our_score(truth, predictions)
    next(truth.glob("gtFine/val/bonn/*_instanceIds.png")).unlink()
    official = run_official(truth, predictions)
    assert all(np.isnan(value) for value in official.instances.values())
    assert "no iIoU" in explain(ours, official)


def test_a_signal_is_no_error_of_the_evaluator(truth: Path, predictions: dict[str, Path]) -> None:
    def stop(*_: int) -> None:
        raise Stopped(143)

    with pytest.raises(Stopped):
        run_official(truth, predictions, stop)


def test_what_cannot_be_compared_gets_one_sentence(truth: Path, predictions: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks bonn_000000_000019_gtFine_labelIds\.png and 1 more; --official takes"):
        run_official(tmp_path / "elsewhere", predictions)
    first = next(iter(predictions))
    with pytest.raises(UserError, match=r"aachen_000000_000019_gtFine_labelIds\.png; --official takes"):
        run_official(truth, {**predictions, "aachen_000000_000019": predictions[first]})
    with pytest.raises(UserError, match="is not here"):
        run_official(truth, {first: truth / "gone.png"})
    Image.new("L", (20, 12)).save(predictions[first])
    with pytest.raises(UserError, match=r"has 20×12 pixels, its ground truth .* has 40×24"):
        run_official(truth, predictions)
    Image.new("L", SIZE[::-1], 99).save(truth / f"gtFine/val/bonn/{first}_gtFine_labelIds.png")
    Image.new("L", SIZE[::-1], 7).save(predictions[first])
    with pytest.raises(UserError, match="evaluator gave up: ERROR: Unknown label with id 99"):
        run_official(truth, predictions)
