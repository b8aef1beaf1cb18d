"""Check sums in a record's JSON: damage within a JPEG or a mask is silent to their decoders."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

SUMS = "crc32"


def seal(document: dict[str, Any], members: Mapping[str, bytes]) -> bytes:
    """``document`` as a record's JSON: with the CRC-32 of the record's other files, and of itself with those."""
    sums = {extension: zlib.crc32(data) for extension, data in members.items()}
    return _dump({**document, SUMS: {**sums, "json": zlib.crc32(_dump({**document, SUMS: sums}))}})


def changed(key: str, text: bytes, members: Mapping[str, bytes | memoryview]) -> str | None:
    """Extension of the first of a record's files that is not as it was packed; None where all are.

    ``text`` is its JSON, ``members`` are the others.
    """
    try:
        document = json.loads(text)
        if document["key"] != key:
            return "json"
        sums = document[SUMS]
        if sums.pop("json") != zlib.crc32(_dump(document)):
            return "json"
        return next((name for name, data in members.items() if sums[name] != zlib.crc32(data)), None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "json"


def call(extension: str) -> str:
    """``its image``, ``its mask`` or ``its JSON``, for sentences."""
    return "its JSON" if extension == "json" else "its mask" if extension.startswith("mask.") else "its image"


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
