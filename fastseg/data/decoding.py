"""When DALI cannot decode a batch: which record it was, in a sentence instead of a trace of C++ calls."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastseg.data.images import read_labels, read_rgb
from fastseg.data.reader import Damaged, Reader
from fastseg.errors import UserError


@contextmanager
def explained(reader: Reader) -> Iterator[None]:
    """Turn DALI's error about a record into a :class:`UserError` that names tar, record and byte.

    DALI does not say which of a batch's records it was: those read last are decoded one by one with Pillow. An error
    that none of them explains is raised as it is.
    """
    try:
        yield
    except RuntimeError as error:
        # Other libraries' errors have the same type; DALI's name the operator.
        # Nor is a record to blame for what CUDA complains of.
        decoding = "nvidia.dali" in str(error) and "CUDA" not in str(error)
        for place in dict.fromkeys(reader.recent) if decoding else ():
            if fault := undecodable(reader, place):
                raise UserError(f"{fault}; pack the set again") from None
        raise


def undecodable(reader: Reader, place: int) -> str | None:
    """Why the record at ``place`` cannot be decoded; None where it can."""
    try:
        record = reader.read(place)
    except Damaged:  # and therefore not given to a decoder
        return None
    files = reader.files
    try:
        read_rgb(record.image.tobytes(), "its image")
    except UserError as error:
        return f"{reader.where(place, files.image_codec)}: {error}"
    if not files.mask_codec:
        return None
    try:
        read_labels(record.mask.tobytes(), "its mask")
    except UserError as error:
        return f"{reader.where(place, f'mask.{files.mask_codec}')}: {error}"
    return None
