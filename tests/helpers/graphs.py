"""Crops of one frame, made by DALI's graphs."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from fastseg.config import AugmentConfig
from fastseg.data import dali_graph
from fastseg.data.augment import FILL, Window, parameter_names
from fastseg.data.sampler import Crop, collate


def encode(image: np.ndarray, codec: str) -> np.ndarray:
    """The bytes of an image file: ``PNG``, ``JPEG`` or ``TIFF``."""
    buffer = io.BytesIO()
    options = {"TIFF": {"compression": "tiff_lzw"}, "JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}}[codec]
    Image.fromarray(image).save(buffer, codec, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def run_graph(
    image: np.ndarray,
    mask: np.ndarray,
    windows: Sequence[Window],
    augment: AugmentConfig,
    parameters: Mapping[str, float],
    *,
    codec: str = "PNG",
    on_cpu: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """A crop for each window, uint8 N×h×w×3 and N×h×w, with the same ``parameters`` drawn for all.

    ``on_cpu``: DALI only decodes, as where there is no GPU; otherwise by the GPU's graph.
    """
    drawn = tuple(parameters.get(name, 0.0) for name in parameter_names())
    encoded, encoded_mask = encode(image, codec), encode(mask, "TIFF")
    crops = collate([Crop(encoded, (0, 0), encoded_mask, window, drawn, 0) for window in windows])
    options = {"batch_size": len(windows), "num_threads": 1, "device_id": None, "prefetch_queue_depth": 1}
    if on_cpu:
        images, masks = dali_graph.windows_graph(lambda: crops, "jpg", **options).run()
        out, labels = dali_graph.CpuResizer(augment, FILL, 2)(list(images), list(masks), crops)
        return out.numpy(), labels.numpy()[..., 0]
    images, masks = dali_graph.train_graph(lambda: crops, augment, FILL, "cpu", "jpg", **options).run()
    return images.as_array(), masks.as_array()[..., 0]
