"""Settings are checked when they are made, and travel as plain values."""

import json
import math

import pytest

from changes import with_changes
from fastseg.config import AugmentConfig, Config
from fastseg.errors import UserError
from fastseg.recipe_table import RECIPES


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data__batch": 1}, "--data.batch is 1"),
        ({"data__crop": (8, 64)}, r"--data.crop is \(8, 64\)"),
        ({"data__scale": (2.0, 0.5)}, "--data.scale"),
        ({"data__scale": (0, 0)}, r"--data.scale is \(0, 0\); it must be a low and a high ratio"),
        ({"data__scale": 2}, r"--data.scale is 2; it must be tuple\[float, float\]"),
        ({"data__scale": (0.5, 1, 2)}, r"it must be tuple\[float, float\]"),
        ({"data__crop": (32.5, 32)}, r"--data.crop is \(32.5, 32\); it must be tuple\[int, int\]"),
        ({"data__resize": "squeeze"}, "--data.resize is 'squeeze'; it must be crop, stretch"),
        ({"data__hue": "red"}, "--data.hue is 'red'; it must be float"),
        ({"data__eval_batch": None}, "--data.eval-batch is None; it must be int"),
        ({"data__flip": 1.5}, "--data.flip is 1.5"),
        ({"data__contrast": 1.0}, "--data.contrast is 1.0"),
        ({"data__hue": -1.0}, "--data.hue"),
        ({"data__threads": 0}, "--data.threads is 0"),
        ({"optim__epochs": 0.0}, "--optim.epochs is 0.0"),
        ({"optim__momentum": 1.0}, "--optim.momentum is 1.0"),
        ({"optim__warmup": -1.0}, "--optim.warmup is -1.0; it must be 0 epochs or more"),
        ({"optim__accumulate": 0}, "--optim.accumulate is 0; it must be from 1 to 1024 batches"),
        ({"data__batch": "all"}, "--data.batch is 'all'; it must be int or auto"),
        ({"model__weights": "none", "model__freeze": "norms"}, "--model.freeze is norms; it must be none with"),
        ({"optim__ema": 1.0}, "--optim.ema is 1.0"),
        ({"optim__class_weights": 3.0}, "--optim.class-weights is 3.0"),
        ({"name": ""}, "--name is ''"),
        ({"name": "a/b"}, "--name is 'a/b'"),
        ({"log_every": 0}, "--log-every is 0"),
        ({"eval_every": 0.0}, "--eval-every is 0.0"),
        ({"cache_gb": math.inf}, "--cache-gb is inf; it must be a number"),
        ({"cache_gb": math.nan}, "--cache-gb is nan"),
        ({"cache_gb": 1e300}, r"--cache-gb is 1e\+300; it must be more than 0 GB, at most a million"),
        ({"timeout": math.inf}, "--timeout is inf"),
        ({"timeout": math.nan}, "--timeout is nan"),
        ({"timeout": 1e14}, "--timeout is 100000000000000.0; it must be from 5 seconds"),
        ({"eval_every": math.inf}, "--eval-every is inf"),
        ({"data__flip": math.nan}, "--data.flip is nan"),
        ({"optim__weight_decay": math.inf}, "--optim.weight-decay is inf"),
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


def test_augmentations_are_settings_of_the_data() -> None:
    """One definition: what the command line, a recipe and ``open_shards`` know as an augmentation."""
    config = Config()
    assert isinstance(config.data, AugmentConfig)
    assert config.to_dict()["data"]["resize"] == "crop"
