"""Augmentations for tests."""

from typing import Any

from fastseg.config import AugmentConfig


def augment_config(crop: tuple[int, int], scale: tuple[float, float] = (0.5, 2.0), **changes: Any) -> AugmentConfig:
    """Crops of this size and range of ratios; colors stay as they are, unless ``changes`` say otherwise."""
    plain: dict[str, Any] = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    return AugmentConfig(crop, scale, **plain | changes)
