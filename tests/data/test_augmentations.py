"""The table of augmentations: each draws as it should, and does on a GPU and on a CPU what an exact reference does."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from augments import augment_config
from fastseg.config import AugmentConfig
from fastseg.data import dali_graph
from fastseg.data.augment import AUGMENTATIONS, FILL, Window, parameter_names, sample_augmentations, sample_rng
from graphs import run_graph
from layouts import labels, noise

CROP = (48, 64)
WHOLE = Window(0, *CROP[:1], 0, *CROP[1:], *CROP, 0, 0, False)
"""Shows the frame as it is, so that an augmentation's own work is all there is."""
Pair = tuple[np.ndarray, np.ndarray]


class Case(NamedTuple):
    """What is tested of an augmentation."""

    settings: dict[str, Any]
    """Fields of the configuration that switch it on."""
    parameters: dict[str, float]
    """Something that may be drawn."""
    reference: Callable[..., Pair]
    """What it does to an image h×w×3 and a mask h×w: ``reference(image, mask, **parameters)``, floats allowed."""
    levels: float
    """Largest difference of the image, gray levels; the mask has none."""


def color_reference(
    image: np.ndarray, mask: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float
) -> Pair:
    """Hue turns the color plane of YIQ and saturation stretches it; contrast is about 128; brightness is a factor."""
    yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    sine, cosine = np.sin(np.deg2rad(hue)), np.cos(np.deg2rad(hue))
    change = np.eye(3)
    change[1:, 1:] = saturation * np.array([[cosine, sine], [-sine, cosine]])
    colored = image @ (np.linalg.inv(yiq) @ change @ yiq).T
    return ((colored - 128) * contrast + 128) * brightness, mask


CASES = {
    "color": Case(
        {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 25.0},
        {"brightness": 0.8, "contrast": 1.3, "saturation": 0.7, "hue": 20.0},
        color_reference,
        levels=1.0,
    ),
}
"""A case for each of :data:`AUGMENTATIONS`."""


def test_every_augmentation_has_a_case() -> None:
    assert CASES.keys() == AUGMENTATIONS.keys()


@pytest.mark.parametrize("on_cpu", [False, True], ids=["graph", "cpu"])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_it_equals_the_reference(name: str, on_cpu: bool) -> None:
    case = CASES[name]
    image = np.asarray(noise(3, CROP[::-1]))
    mask = np.asarray(labels(3, CROP[::-1], tuple(range(19))))
    settings = augment_config(CROP, **case.settings)
    (shown,), (shown_mask,) = run_graph(image, mask, [WHOLE], settings, case.parameters, on_cpu=on_cpu)
    expected, expected_mask = case.reference(image, mask, **case.parameters)
    assert np.abs(shown - np.clip(expected, 0, 255)).max() <= case.levels
    assert np.array_equal(shown_mask, expected_mask)
    assert np.abs(expected - image).max() > 10 * case.levels  # or nothing was tested


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_where_it_is_off_nothing_changes(name: str) -> None:
    image, mask = np.asarray(noise(3, CROP[::-1])), np.asarray(labels(3, CROP[::-1], (0, 1)))
    settings = augment_config(CROP)
    assert not AUGMENTATIONS[name].is_on(settings)
    for on_cpu in (False, True):
        (shown,), (shown_mask,) = run_graph(image, mask, [WHOLE], settings, CASES[name].parameters, on_cpu=on_cpu)
        assert np.array_equal(shown, image)
        assert np.array_equal(shown_mask, mask)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_it_draws_equally_many_numbers_on_or_off(name: str) -> None:
    """So that switching one on changes none of what the others draw."""
    augmentation, case = AUGMENTATIONS[name], CASES[name]
    assert case.parameters.keys() == set(augmentation.parameters)
    assert augmentation.is_on(augment_config(CROP, **case.settings))
    ends = []
    for settings in ({}, case.settings):
        rng = sample_rng(0, 0, 0)
        assert len(augmentation.sample(rng, augment_config(CROP, **settings))) == len(augmentation.parameters)
        ends.append(rng.random())
    assert ends[0] == ends[1]


def test_a_sample_draws_its_own_numbers_again() -> None:
    settings = augment_config(CROP, **{name: value for case in CASES.values() for name, value in case.settings.items()})
    one, again, other = (sample_augmentations(0, 1, index, (96, 160), settings) for index in (5, 5, 6))
    assert one == again != other
    assert len(one[1]) == len(parameter_names()) == len(set(parameter_names()))


def test_names_of_numbers_are_none_of_a_batchs_fields() -> None:
    assert not set(parameter_names()) & set(dali_graph.Crops._fields)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_its_gpu_graph_can_be_defined_without_a_gpu(name: str) -> None:
    """Operator names and arguments are checked when the graph is defined; no driver is needed for that."""
    augment: AugmentConfig = augment_config(CROP, **CASES[name].settings)
    options = {"batch_size": 2, "num_threads": 1, "device_id": 0}
    graph = dali_graph.train_graph(lambda: None, augment, FILL, "gpu", "jpg", **options)
    graph._build_graph()
    assert [output.device for output in graph._graph_outputs] == ["gpu", "gpu"]
