"""The prediction for one image: mask, overlay, polygons, areas, files."""

import io
from collections.abc import Sequence
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastseg.deploy.polygons import trace
from fastseg.deploy.predict_io import Outputs
from fastseg.errors import UserError, shown
from fastseg.labels import SegmentationClass
from fastseg.report.overlays import ALPHA, classes_by_size, draw_overlay

NOTEBOOK_SIDE = 1024
"""Maximum pixels of a side of the picture that a notebook shows."""


class Area(NamedTuple):
    """Pixels of an image that a class takes."""

    pixels: int
    share: float
    """Of the image, 0…1."""


class Result:
    """What the network sees in an image; made by calling a :class:`Predictor`. A notebook shows its overlay.

    >>> import fastseg
    >>> result = fastseg.load("ckpt.pt", device="cpu")("street.jpg")
    >>> result.mask.dtype, result.mask.shape
    (dtype('uint8'), (64, 96))
    >>> result.classes[result.mask[0, 0]].name in result.areas()
    True
    """

    def __init__(
        self,
        frame: Tensor,
        mask: Tensor,
        classes: Sequence[SegmentationClass],
        probabilities: Tensor | None = None,
        path: Path | None = None,
    ) -> None:
        """Take uint8 H×W×3 and H×W, and float C×H×W or None, on one device."""
        self.tensor = mask
        """The mask, uint8 H×W, on the device of the tensor that was given, else on the CPU."""
        self.classes = tuple(classes)
        """Names and colors; a mask holds indexes into this tuple."""
        self.path = path
        """The image's file; None for other images."""
        self.name = Path(path.name if path else "image.png")
        """Relative path of saved files."""
        self._frame, self._probabilities = frame, probabilities

    def __repr__(self) -> str:
        height, width = self.tensor.shape
        parts = [f"{name} {100 * area.share:.0f} %" for name, area in list(self.areas().items())[:5]]
        return f"<Result: {self.path or 'an image'}, {width}×{height}: {', '.join(parts)}>"

    def called(self, name: str | Path) -> "Result":
        """Set the name of saved files, with a suffix: .jpg for an overlay as JPEG, else PNG; return the result."""
        self.name = Path(name)
        return self

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """Return the image, uint8 H×W×3, RGB."""
        array: NDArray[np.uint8] = self._frame.cpu().numpy()
        return array

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """Return the class of every pixel, uint8 H×W: indexes into :attr:`classes`."""
        array: NDArray[np.uint8] = self.tensor.cpu().numpy()
        return array

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Return the probability of every class at every pixel, float32 C×H×W.

        Raises :class:`fastseg.UserError` if they were not asked for.
        """
        if self._probabilities is None:
            raise UserError("the probabilities were not kept; ask for them: model(image, probabilities=True)")
        array: NDArray[np.float32] = self._probabilities.cpu().numpy()
        return array

    def overlay(self, alpha: float = ALPHA, *, legend: bool = True, contours: bool = False) -> Image.Image:
        """Return the image under its classes' colors, RGB, with a legend of the classes that occur.

        ``alpha``: weight of the colors, 0…1. ``contours``: outline the classes. Sides below 128 pixels have no room for
        a legend.

        >>> import fastseg
        >>> result = fastseg.load("ckpt.pt", device="cpu")("street.jpg")
        >>> result.overlay(0.4, contours=True).size
        (96, 64)
        """
        if not isinstance(alpha, Real) or not 0 <= alpha <= 1:
            raise UserError(f"alpha is {shown(alpha)}; it must be from 0 (the image alone) to 1 (the colors alone)")
        named = classes_by_size(self.mask, len(self.classes)) if legend else ()
        return Image.fromarray(
            draw_overlay(self.image, self.mask, self.classes, float(alpha), contours=contours, legend=named)
        )

    def areas(self) -> dict[str, Area]:
        """Return pixels and share of each class that occurs, by name, the largest first.

        >>> import fastseg
        >>> areas = fastseg.load("ckpt.pt", device="cpu")("street.jpg").areas()
        >>> sum(area.pixels for area in areas.values()) == 64 * 96
        True
        """
        pixels = np.bincount(self.mask.ravel(), minlength=len(self.classes))
        order = classes_by_size(self.mask, len(self.classes))
        return {self.classes[i].name: Area(int(pixels[i]), float(pixels[i] / self.mask.size)) for i in order}

    def polygons(self, tolerance: float = 0.0, min_pixels: int = 1) -> dict[str, Any]:
        """Return the connected areas of each class, the largest first, as a FeatureCollection of GeoJSON (RFC 7946).

        Each feature is a Polygon: the outer ring, then its holes, closed rings of [x, y] in pixels along the edges of
        pixels, with x to the right and y downward from the image's upper left corner. Its properties are ``class``,
        ``id`` and ``pixels``. ``tolerance``: pixels by which corners may be cut. ``min_pixels``: leave smaller areas
        out. ``json.dumps`` takes the result, and ``shapely.geometry.shape`` each of its geometries.

        >>> import fastseg
        >>> found = fastseg.load("ckpt.pt", device="cpu")("street.jpg").polygons()
        >>> sum(feature["properties"]["pixels"] for feature in found["features"]) == 64 * 96
        True
        """
        features = []
        for i in classes_by_size(self.mask, len(self.classes)):
            outlines = [outline for outline in trace(self.mask == i, tolerance) if outline.pixels >= min_pixels]
            for outline in sorted(outlines, key=lambda outline: -outline.pixels):
                about = {"class": self.classes[i].name, "id": i, "pixels": outline.pixels}
                rings = [[*ring.tolist(), ring[0].tolist()] for ring in outline.rings]
                shape = {"type": "Polygon", "coordinates": rings}
                features.append({"type": "Feature", "properties": about, "geometry": shape})
        return {"type": "FeatureCollection", "features": features}

    def save(
        self,
        folder: str | Path = "predictions",
        *,
        overlays: bool = True,
        masks: bool = True,
        probabilities: bool = False,
    ) -> list[Path]:
        """Write files as fastseg-predict does: below ``folder`` overlays/, masks/ (PNGs of train ids), probabilities/.

        They are called as the image, or numbered (:meth:`called`), and replaced. Returns their paths.

        >>> import fastseg
        >>> [str(path) for path in fastseg.load("ckpt.pt", device="cpu")("street.jpg").save("out")]
        ['out/overlays/street.jpg', 'out/masks/street.png']
        """
        outputs = Outputs(Path(folder), self.classes, overlays, masks, probabilities)
        outputs.write_image(self.name, self.image, self.mask, self.probabilities if probabilities else None)
        return list(outputs.image_paths(self.name))

    def _repr_png_(self) -> bytes:
        """Return the overlay for a notebook."""
        picture, buffer = self.overlay(), io.BytesIO()
        picture.thumbnail((NOTEBOOK_SIDE, NOTEBOOK_SIDE))
        picture.save(buffer, "PNG")
        return buffer.getvalue()
