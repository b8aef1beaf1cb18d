"""What a call of a network returns: mask, overlay, polygons, areas, files."""

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastseg.deploy.polygons import trace
from fastseg.deploy.result import Result
from fastseg.errors import UserError
from fastseg.labels import SegmentationClass
from fastseg.report.pictures import blend

CLASSES = (SegmentationClass("road", (128, 64, 128)), SegmentationClass("car", (0, 0, 142)))


def blocks(seed: int = 0, size: int = 160) -> np.ndarray:
    """A mask of two classes and ignored pixels, with islands and holes."""
    small = np.random.default_rng(seed).choice([0, 1, 255], (size // 8, size // 8), p=[0.55, 0.4, 0.05])
    return small.astype(np.uint8).repeat(8, 0).repeat(8, 1)


def result_of(mask: np.ndarray, **options: object) -> Result:
    image = np.random.default_rng(1).integers(0, 256, (*mask.shape, 3), np.uint8)
    return Result(torch.from_numpy(image), torch.from_numpy(mask), CLASSES, **options)  # type: ignore[arg-type]


def inside(rings: list[list[list[int]]], shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centers lie in an odd number of rings, whose lines are upright or level."""
    crossings = np.zeros(shape, int)
    columns = np.arange(shape[1]) + 0.5
    for ring in rings:
        assert ring[0] == ring[-1]
        for (x, y), (x2, y2) in pairwise(ring):
            assert (x == x2) != (y == y2)
            if x == x2:
                crossings[min(y, y2) : max(y, y2)] += columns > x
    return crossings % 2 == 1


@pytest.mark.parametrize("seed", range(3))
def test_polygons_are_the_mask(seed: int) -> None:
    mask = blocks(seed)
    mask[40:50, 40:50] = np.random.default_rng(seed).integers(0, 2, (10, 10))  # single pixels, touching at corners
    found = json.loads(json.dumps(result_of(mask).polygons()))
    assert found["type"] == "FeatureCollection"
    again = np.full(mask.shape, 255, np.uint8)
    for feature in found["features"]:
        about, shape = feature["properties"], feature["geometry"]
        pixels = inside(shape["coordinates"], mask.shape)
        assert shape["type"] == "Polygon"
        assert about["class"] == CLASSES[about["id"]].name
        assert about["pixels"] == pixels.sum() > 0
        assert (again[pixels] == 255).all()
        again[pixels] = about["id"]
    np.testing.assert_array_equal(again, mask)
    assert any(len(feature["geometry"]["coordinates"]) > 1 for feature in found["features"])  # with holes


def test_corners_may_be_cut_and_small_areas_left_out() -> None:
    y, x = np.mgrid[:200, :200]
    mask = ((x - 100) ** 2 + (y - 100) ** 2 < 80**2).astype(np.uint8)
    mask[5, 5] = 1
    exact, cut = (result_of(mask).polygons(tolerance, least)["features"] for tolerance, least in ((0, 1), (1.5, 50)))
    assert [f["properties"]["pixels"] for f in exact if f["properties"]["class"] == "car"] == [int(mask.sum()) - 1, 1]
    (disc,) = (f for f in cut if f["properties"]["class"] == "car")
    assert disc["properties"]["pixels"] == mask.sum() - 1
    corners = [len(f["geometry"]["coordinates"][0]) for f in (exact[0], disc)]
    assert corners[1] < corners[0] / 4
    assert list(trace(np.zeros((4, 4), bool))) == []


def test_areas_are_those_of_the_classes_that_occur() -> None:
    mask = np.full((10, 20), 255, np.uint8)
    mask[:3] = 1
    mask[9, :5] = 0
    areas = result_of(mask).areas()
    assert list(areas.items()) == [("car", (60, 0.3)), ("road", (5, 0.025))]
    assert areas["car"].share == 0.3
    assert repr(result_of(mask)) == "<Result: an image, 20×10: car 30 %, road 2 %>"


def test_an_overlay_is_the_image_under_its_colors() -> None:
    result = result_of(blocks())
    plain = np.asarray(result.overlay(0.4, legend=False))
    np.testing.assert_array_equal(plain, blend(result.image, result.mask, CLASSES, 0.4))
    named, outlined = np.asarray(result.overlay(0.4)), np.asarray(result.overlay(0.4, legend=False, contours=True))
    assert (named[:, -20:] == plain[:, -20:]).all()
    assert (named[-40:, :40] != plain[-40:, :40]).any()
    assert (outlined != plain).any()
    shown = Image.open(io.BytesIO(result._repr_png_()))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(result.overlay()))
    for alpha in (2, -0.1, float("nan"), "half"):
        with pytest.raises(UserError, match=r"alpha is .*; it must be from 0"):
            result.overlay(alpha)  # type: ignore[arg-type]


def test_files_are_those_of_the_command(tmp_path: Path) -> None:
    shares = torch.rand(2, 160, 160)
    result = result_of(blocks().clip(max=1), probabilities=shares, path=Path("photos/street.jpg"))
    paths = result.save(tmp_path, probabilities=True)
    kinds = ("overlays/street.jpg", "masks/street.png", "probabilities/street.npz")
    assert paths == [tmp_path / kind for kind in kinds]
    mask = Image.open(paths[1])
    np.testing.assert_array_equal(np.asarray(mask), result.mask)
    assert mask.getpalette()[:6] == [*CLASSES[0].color, *CLASSES[1].color]
    with np.load(paths[2]) as file:
        np.testing.assert_array_equal(file["probabilities"], shares)
    assert result_of(blocks()).save(tmp_path, masks=False) == [tmp_path / "overlays/image.png"]
    with pytest.raises(UserError, match=r"were not kept; ask for them: model\(image, probabilities=True\)"):
        result_of(blocks()).save(tmp_path, probabilities=True)
