"""Settings of an evaluation, for the command and for Python."""

from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fastseg.cli_help import shown_as
from fastseg.errors import UserError, shown

if TYPE_CHECKING:
    from fastseg.model.inference import TtaViews


@dataclass(frozen=True)
class EvalSettings:
    """Which frames are scored, and how."""

    split: str = "val"
    """Split to score; without masks: to predict."""
    max_images: Annotated[int | None, shown_as("N")] = None
    """Score only the first N frames."""
    tta: Annotated[bool, shown_as("")] = False
    """Average over 6 scales and mirrors: 17 times the work."""
    window: Annotated[tuple[int, int] | None, shown_as("H W")] = None
    """Size of sliding windows, which overlap by a third."""
    batch: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Whole frames per GPU and step."""
    threads: Annotated[int | None, shown_as("N")] = None
    """Decoding threads per GPU. Default: its share of all cores."""
    decoder: Literal["auto", "gpu", "cpu"] = "auto"
    """JPEG decoder on a machine with a GPU."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: the fastest that the hardware has."""
    verify_shards: Annotated[bool, shown_as("")] = False
    """Compare files with their SHA-256 first."""
    max_corrupt_samples: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Maximum damaged frames to leave out."""

    def check(self) -> None:
        """Raise :class:`UserError` for an invalid number."""
        for name, least in (("batch", 1), ("max_corrupt_samples", 0), ("max_images", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or value < least):
                raise UserError(f"--{name.replace('_', '-')} is {shown(value)}; it must be {least} or more")
        if self.decoder not in ("auto", "gpu", "cpu"):
            raise UserError(f"--decoder is {shown(self.decoder)}; it must be auto, gpu or cpu")

    def views(self) -> "TtaViews":
        """Return the views of a frame. Raises :class:`UserError` for an invalid window."""
        from fastseg.model.inference import MULTI_SCALE, ONCE

        return replace(MULTI_SCALE if self.tta else ONCE, window=self.window)
