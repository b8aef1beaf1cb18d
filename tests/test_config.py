"""Settings are checked when they are made, and travel as plain values."""

import json

import pytest

from changes import with_changes
from fastseg.config import Config
from fastseg.errors import UserError
from fastseg.recipes import RECIPES


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data__batch": 1}, "--data.batch is 1"),
        ({"data__crop": (8, 64)}, r"--data.crop is \(8, 64\)"),
        ({"data__scale": (2.0, 0.5)}, "--data.scale"),
        ({"data__flip": 1.5}, "--data.flip is 1.5"),
        ({"data__contrast": 1.0}, "--data.contrast is 1.0"),
        ({"data__hue": -1.0}, "--data.hue"),
        ({"data__threads": 0}, "--data.threads is 0"),
        ({"optim__epochs": 0.0}, "--optim.epochs is 0.0"),
        ({"optim__momentum": 1.0}, "--optim.momentum is 1.0"),
        ({"optim__warmup": 215.0}, "--optim.warmup is 215.0; it must be from 0 to below 215.0 epochs"),
        ({"optim__ema": 1.0}, "--optim.ema is 1.0"),
        ({"optim__ohem": 0.0}, "--optim.ohem is 0.0"),
        ({"name": ""}, "--name is ''"),
        ({"name": "a/b"}, "--name is 'a/b'"),
        ({"log_every": 0}, "--log-every is 0"),
        ({"eval_every": 0.0}, "--eval-every is 0.0"),
    ],
)
def test_nonsense_names_the_flag_and_the_value(change: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        with_changes(Config(), **change)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_plain_values(name: str) -> None:
    document = RECIPES[name]().to_dict()
    assert json.loads(json.dumps(document)) == document
    assert document["data"]["batch"] >= 2


def test_the_folder_is_runs_and_name() -> None:
    assert str(with_changes(Config(), name="x").folder) == "runs/x"
