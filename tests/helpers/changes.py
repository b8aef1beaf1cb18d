"""Configurations that differ in a few values, for tests."""

import dataclasses

from fastseg.config import Config


def with_changes(config: Config, **changes: object) -> Config:
    """``config`` with other values, ``data__batch=2`` reaching into its parts."""
    for name, value in changes.items():
        part, _, inner = name.partition("__")
        if inner:
            value = dataclasses.replace(getattr(config, part), **{inner: value})
        config = dataclasses.replace(config, **{part: value})
    return config
