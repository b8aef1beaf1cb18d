"""fastseg: train DeepLabv3 fast, and use the trained network.

>>> import fastseg
>>> model = fastseg.load("ckpt.pt")
>>> mask = model.predict("street.jpg")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastseg.config import AugmentConfig as AugmentConfig
    from fastseg.data.batches import ShardBatches as ShardBatches
    from fastseg.data.batches import open_shards as open_shards
    from fastseg.data.loader import Batch as Batch
    from fastseg.deploy.predictor import Predictor as Predictor
    from fastseg.deploy.predictor import load as load
    from fastseg.errors import UserError as UserError
    from fastseg.labels import SegmentationClass as SegmentationClass

__all__ = [
    *("AugmentConfig", "Batch", "Predictor", "SegmentationClass", "ShardBatches", "UserError"),
    *("load", "open_shards"),
]

_HOMES = {
    "AugmentConfig": "fastseg.config",
    "Batch": "fastseg.data.loader",
    "Predictor": "fastseg.deploy.predictor",
    "SegmentationClass": "fastseg.labels",
    "ShardBatches": "fastseg.data.batches",
    "UserError": "fastseg.errors",
    "load": "fastseg.deploy.predictor",
    "open_shards": "fastseg.data.batches",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, because torch and DALI take seconds to import (PEP 562).

    Raises :class:`UserError` if one of the libraries is missing or cannot be loaded.
    """
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
