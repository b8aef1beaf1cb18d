"""fastseg: pack images and masks, train DeepLabv3 on them fast, and use the trained network.

>>> import fastseg
>>> model = fastseg.load("ckpt.pt")
>>> mask = model("street.jpg").mask
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fastseg.config import AugmentConfig as AugmentConfig
    from fastseg.config import Config as Config
    from fastseg.data.augment import Augmentation as Augmentation
    from fastseg.data.batches import ShardBatches as ShardBatches
    from fastseg.data.batches import open_shards as open_shards
    from fastseg.data.loader import Batch as Batch
    from fastseg.deploy.exporting import export as export
    from fastseg.deploy.predictor import Predictor as Predictor
    from fastseg.deploy.predictor import load as load
    from fastseg.deploy.result import Result as Result
    from fastseg.errors import UserError as UserError
    from fastseg.evaluation.scoring import evaluate as evaluate
    from fastseg.interface.finished import Run as Run
    from fastseg.interface.packing import PackedSet as PackedSet
    from fastseg.interface.packing import guess_classes as guess_classes
    from fastseg.interface.packing import merge_parts as merge_parts
    from fastseg.interface.packing import pack as pack
    from fastseg.interface.packing import pack_part as pack_part
    from fastseg.interface.packing import relabel as relabel
    from fastseg.interface.packing import verify_shards as verify_shards
    from fastseg.interface.training import train as train
    from fastseg.labels import SegmentationClass as SegmentationClass
    from fastseg.model.architectures import register_network as register_network
    from fastseg.training.callbacks import Callback as Callback

    __version__: str
    """Version of the installed package."""
    recipes: Mapping[str, Callable[[], Config]]
    """Functions that return a :class:`Config`, by name: ``fastseg.train(config=fastseg.recipes["camvid"]())``."""

_HOMES = {
    "AugmentConfig": "fastseg.config",
    "Augmentation": "fastseg.data.augment",
    "Batch": "fastseg.data.loader",
    "Callback": "fastseg.training.callbacks",
    "Config": "fastseg.config",
    "PackedSet": "fastseg.interface.packing",
    "Predictor": "fastseg.deploy.predictor",
    "Result": "fastseg.deploy.result",
    "Run": "fastseg.interface.finished",
    "SegmentationClass": "fastseg.labels",
    "ShardBatches": "fastseg.data.batches",
    "UserError": "fastseg.errors",
    "evaluate": "fastseg.evaluation.scoring",
    "export": "fastseg.deploy.exporting",
    "guess_classes": "fastseg.interface.packing",
    "load": "fastseg.deploy.predictor",
    "merge_parts": "fastseg.interface.packing",
    "open_shards": "fastseg.data.batches",
    "pack": "fastseg.interface.packing",
    "pack_part": "fastseg.interface.packing",
    "recipes": "fastseg.recipe_table",
    "register_network": "fastseg.model.architectures",
    "relabel": "fastseg.interface.packing",
    "train": "fastseg.interface.training",
    "verify_shards": "fastseg.interface.packing",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, because torch and DALI take seconds to import (PEP 562).

    Raises :class:`UserError` if one of the libraries is missing or cannot be loaded.
    """
    if name == "__version__":
        from fastseg.libraries import OURS, package_version

        return package_version(OURS)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOMES[name]), name)
    except (ImportError, OSError, RuntimeError) as error:
        from fastseg.errors import UserError
        from fastseg.libraries import import_problem

        if sentence := import_problem(error):
            raise UserError(sentence) from error
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
