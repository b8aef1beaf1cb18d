"""The DALI graphs: encoded records in, training-ready uint8 batches out. Nothing else lives here.

The training graph is a list of steps: read → draw → decode what the crop needs → resize → colour → pad. Scale,
position and flip are drawn once and handed to image and mask alike; drawing twice with one seed has drifted
apart for others (https://github.com/NVIDIA/DALI/issues/2546).

Geometry, for a frame of height H and a crop of height h (widths alike): a ratio r resizes the frame to
S = round(r·H) rows; the crop takes rows o … o+h-1 of it, with o an integer in [0, S-h], or in [S-h, 0] where the
resized frame is smaller than the crop and has to be padded. Resizing, cropping and flipping are then one
``fn.resize`` from the region of the frame that stays visible.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import nvidia.dali.fn as fn
import nvidia.dali.math as math
import nvidia.dali.types as types
from nvidia.dali import pipeline_def

from fastseg.labels import IGNORE


@dataclass(frozen=True)
class Files:
    """The tars and indexes of one split, and which part of them this rank reads."""

    tars: tuple[str, ...]
    indexes: tuple[str, ...]
    image_codec: str
    mask_codec: str
    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Augmentation:
    """What the training graph draws at random for every sample."""

    crop: tuple[int, int]
    """Height and width of the output, pixels."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the ratio by which frames are resized before the crop."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    brightness: float = 0.0
    """Brightness is multiplied by 1 ± this, in half of the samples; contrast and saturation alike."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Hue is turned by ± this many degrees, in half of the samples."""
    fill: tuple[int, int, int] = (124, 116, 104)
    """RGB of the padding: the data's mean, which normalisation turns into zero."""


class Draw(NamedTuple):
    """One sample's random geometry; DALI nodes of one or two (vertical, horizontal) numbers."""

    ratio: Any
    offset: Any
    """First row and column of the crop in the resized frame; negative where padding comes first."""
    flip: Any
    """1 to flip left-right, 0 not to."""


class Window(NamedTuple):
    """Where a draw looks: all (vertical, horizontal), integers kept in floats unless said."""

    start: Any
    """First visible row and column in the frame, fractional."""
    stop: Any
    size: Any
    """Rows and columns of the crop that show the frame; the rest is padding."""
    before: Any
    """Rows above and columns left of the visible part, in the finished crop."""
    low: Any
    """First row and column to decode, int32."""
    high: Any
    """One past the last row and column to decode, int32."""


@pipeline_def(enable_checkpointing=True)
def train_graph(files: Files, augmentation: Augmentation, device: str, fill_buffer: int, read_seed: int) -> Any:
    """Endless shuffled, augmented samples: image uint8 h×w×3 and mask uint8 h×w×1 on ``device``."""
    encoded_image, encoded_mask = _read(files, shuffle=fill_buffer, seed=read_seed)
    frame = frame_size(encoded_image)
    draw = draw_geometry(frame, augmentation)
    window = look(frame, draw, augmentation)
    image = crop_image(encoded_image, draw, window, augmentation, device, files.image_codec)
    return image, crop_mask(encoded_mask, draw, window, augmentation, device)


@pipeline_def
def eval_graph(files: Files, device: str) -> Any:
    """Whole frames in order: image uint8 H×W×3 and mask uint8 H×W×1 on ``device``."""
    encoded_image, encoded_mask = _read(files)
    decoder = _decoder(device, files.image_codec)
    image = fn.decoders.image(encoded_image, output_type=types.RGB, **decoder)
    mask = fn.decoders.image(encoded_mask, output_type=types.GRAY)
    return (image.gpu(), mask.gpu()) if device == "gpu" else (image, mask)


def _read(files: Files, shuffle: int = 0, seed: int = 0) -> Any:
    """Encoded components of this rank's samples; its last ones repeat until all ranks have equally many."""
    return fn.readers.webdataset(
        paths=list(files.tars),
        index_paths=list(files.indexes),
        ext=[files.image_codec, f"mask.{files.mask_codec}"],
        missing_component_behavior="error",
        shard_id=files.rank,
        num_shards=files.world,
        pad_last_batch=True,
        # In training each rank moves on to another part every epoch; in evaluation it keeps its own.
        stick_to_shard=shuffle == 0,
        random_shuffle=shuffle > 0,
        initial_fill=max(shuffle, 1),
        seed=seed,
        dont_use_mmap=files.tars[0].startswith("s3://"),
        name="reader",
    )


def frame_size(encoded_image: Any) -> Any:
    """Height and width from the image's header, float32."""
    return fn.cast(fn.peek_image_shape(encoded_image)[:2], dtype=types.FLOAT)


def draw_geometry(frame: Any, augmentation: Augmentation) -> Draw:
    """Draw ratio, crop position and flip for each sample."""
    low, high = augmentation.scale
    ratio = low + (high - low) * fn.random.uniform(range=(0.0, 1.0))  # DALI refuses a range of one value
    free = _resized(frame, ratio) - _pair(augmentation.crop)
    # Uniform over the |free| + 1 integers from 0 to free, which is negative where the crop must be padded.
    place = math.floor(fn.random.uniform(range=(0.0, 1.0), shape=2) * (math.abs(free) + 1.0))
    offset = math.min(place, math.abs(free)) * math.clamp(free, -1.0, 1.0)
    return Draw(ratio, offset, fn.random.coin_flip(probability=augmentation.flip))


def look(frame: Any, draw: Draw, augmentation: Augmentation) -> Window:
    """The part of the frame that a draw shows, and where it goes in the crop."""
    crop = augmentation.crop
    resized = _resized(frame, draw.ratio)
    first = math.max(draw.offset, 0.0)
    size = math.min(draw.offset + _pair(crop), resized) - first
    start, stop = first * frame / resized, (first + size) * frame / resized
    left_out = math.max(-draw.offset, 0.0)
    # Flipped, what lay on the left lies on the right.
    flip = _horizontal(draw.flip)
    before = left_out + flip * (_pair(crop) - size - 2.0 * left_out)
    # Decoded is a little more, so that interpolation at the edge sees the real neighbours: antialiasing reaches
    # 1 / ratio pixels.
    margin = ceil(1 / augmentation.scale[0]) + 2.0
    low = math.max(math.floor(start) - margin, 0.0)
    high = math.min(math.ceil(stop) + margin, frame)
    return Window(start, stop, size, before, fn.cast(low, dtype=types.INT32), fn.cast(high, dtype=types.INT32))


def crop_image(encoded: Any, draw: Draw, window: Window, augmentation: Augmentation, device: str, codec: str) -> Any:
    """Decode, resize (bilinear, antialiased), flip, colour and pad the image: uint8 h×w×3."""
    image = _decode(encoded, window, _decoder(device, codec), types.RGB)
    image = image.gpu() if device == "gpu" else image
    image = _resize(image, draw, window, types.INTERP_LINEAR)
    return _pad(_colour(image, augmentation), window, augmentation.crop, augmentation.fill)


def crop_mask(encoded: Any, draw: Draw, window: Window, augmentation: Augmentation, device: str) -> Any:
    """The same for the mask, by nearest neighbour and padded with the ignore value: uint8 h×w×1."""
    mask = _decode(encoded, window, {}, types.GRAY)
    mask = mask.gpu() if device == "gpu" else mask
    return _pad(_resize(mask, draw, window, types.INTERP_NN), window, augmentation.crop, (IGNORE,))


def _decoder(device: str, codec: str) -> dict[str, Any]:
    """Where an image is decoded. Only JPEG by the GPU: a PNG under "mixed" falls back to the CPU without a word."""
    if device == "cpu" or codec != "jpg":
        return {"device": "cpu"}
    # Halved chroma is interpolated as the CPU's decoder does it, so that both see the same pixels.
    return {"device": "mixed", "jpeg_fancy_upsampling": True}


def _decode(encoded: Any, window: Window, decoder: dict[str, Any], output_type: Any) -> Any:
    return fn.decoders.image_slice(
        encoded, start=window.low, end=window.high, axes=[0, 1], output_type=output_type, **decoder
    )


def _resize(image: Any, draw: Draw, window: Window, interpolation: Any) -> Any:
    low = fn.cast(window.low, dtype=types.FLOAT)
    start, stop = window.start - low, window.stop - low
    # A region that ends before it starts is resized mirrored.
    swap = _horizontal(draw.flip) * (stop - start)
    return fn.resize(image, roi_start=start + swap, roi_end=stop - swap, size=window.size, interp_type=interpolation)


def _colour(image: Any, augmentation: Augmentation) -> Any:
    def factor(amount: float) -> Any:
        return 1.0 + fn.random.coin_flip() * fn.random.uniform(range=(-amount, amount))

    names = [name for name in ("brightness", "contrast", "saturation") if getattr(augmentation, name)]
    changes = {name: factor(getattr(augmentation, name)) for name in names}
    if augmentation.hue:
        changes["hue"] = fn.random.coin_flip() * fn.random.uniform(range=(-augmentation.hue, augmentation.hue))
    return fn.color_twist(image, **changes) if changes else image


def _pad(image: Any, window: Window, crop: tuple[int, int], fill: tuple[int, ...]) -> Any:
    return fn.slice(
        image,
        start=fn.cast(-window.before, dtype=types.INT32),
        shape=list(crop),
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=list(fill),
    )


def _resized(frame: Any, ratio: Any) -> Any:
    return math.max(math.floor(frame * ratio + 0.5), 1.0)


def _pair(numbers: tuple[int, int]) -> Any:
    return types.Constant([float(n) for n in numbers], dtype=types.FLOAT)


def _horizontal(number: Any) -> Any:
    """(0, number)."""
    return types.Constant([0.0, 1.0], dtype=types.FLOAT) * number
