"""Packed records, read by tarfile and Pillow alone."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def read_records(shards: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Split and name → what the tars hold."""
    records: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                file = tar.extractfile(member)
                assert file
                data = file.read()
                value = json.loads(data) if extension == "json" else np.asarray(Image.open(io.BytesIO(data)))
                records.setdefault((path.name.split("-")[0], key), {})[extension] = value
    return {(split, record["json"]["name"]): record for (split, _), record in records.items()}
