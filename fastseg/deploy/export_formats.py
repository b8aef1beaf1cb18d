"""Export a network to ONNX, torch.export or safetensors, and read it back to compare."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastseg.data.loader import open_files
from fastseg.data.reader import Reader
from fastseg.deploy.model_card import Difference
from fastseg.errors import UserError
from fastseg.model.architectures import ARCHITECTURES
from fastseg.model.exported import InferenceFn, Picture, inference_fn, quiet, read_onnx, read_torch_export
from fastseg.model.network import SegmentationNetwork, upsample
from fastseg.shards.images import read_rgb
from fastseg.shards.manifest import read_manifest
from fastseg.shards.tar import MAX_FILE
from fastseg.storage import is_remote, read_bytes

SMALLEST = 32
"""Minimum pixels of a side: torch.export has to know that a frame is larger than the network's stride."""


class Format(NamedTuple):
    """Functions that write and read a format; :data:`fastseg.deploy.export_target.KINDS` has the rest."""

    write: Callable[[SegmentationNetwork, Path, dict[str, str], int], None]
    """Write (network on the CPU in evaluation mode, file, metadata for the file, ONNX opset)."""
    read: Callable[[Path], InferenceFn]
    """Read a file as a function, by the library that deployers use."""


class ExportWrapper(nn.Module):
    """The network from bytes to train ids and logits at full resolution, so that deployers need not add anything."""

    def __init__(self, model: SegmentationNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 N×H×W×3, RGB → train ids uint8 N×H×W, logits float32 N×C×H×W."""
        logits = upsample(self.model(image).out, (image.shape[1], image.shape[2]))
        return logits.argmax(1).to(torch.uint8), logits


def _example(model: SegmentationNetwork) -> tuple[Tensor, dict[str, dict[int, Any]]]:
    """Return a batch to trace with, and the dimensions of it that may change."""
    sides = {1: torch.export.Dim("height", min=SMALLEST), 2: torch.export.Dim("width", min=SMALLEST)}
    shape = (2, 3 * SMALLEST, 4 * SMALLEST, 3)  # equal dimensions would be tied together
    image = torch.zeros(shape, dtype=torch.uint8, device=model.mean.device)
    return image, {"image": {0: torch.export.Dim("batch", min=1), **sides}}


def _write_onnx(model: SegmentationNetwork, path: Path, metadata: dict[str, str], opset: int) -> None:
    image, dimensions = _example(model)
    with quiet():
        program = torch.onnx.export(
            ExportWrapper(model).eval(),
            (image,),
            input_names=["image"],
            output_names=["classes", "logits"],
            dynamic_shapes=dimensions,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # with dynamo there is one
        for node in program.model.graph:
            node.metadata_props.clear()  # as below
        program.model.metadata_props.update(metadata)
        program.model.producer_name = "fastseg"
        if (found := program.model.opset_imports[""]) != opset:
            raise UserError(f"--opset is {opset}, and this torch can only write the network in opset {found}; use that")
        program.save(path)


def _write_torch_export(model: SegmentationNetwork, path: Path, metadata: dict[str, str], _: int) -> None:
    image, dimensions = _example(model)
    with quiet(), path.open("wb") as file:  # given a path, torch insists on its suffix
        program = torch.export.export(ExportWrapper(model).eval(), (image,), dynamic_shapes=dimensions)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # stack traces hold source lines and paths of this machine
        torch.export.save(program, file, extra_files=dict(metadata))


def _write_safetensors(model: SegmentationNetwork, path: Path, metadata: dict[str, str], _: int) -> None:
    from safetensors.torch import save

    # save_file ignores the umask, only the owner may read its files, and its errors are no OSErrors.
    path.write_bytes(save({name: v.detach().contiguous() for name, v in model.net.state_dict().items()}, metadata))


class _Plain(nn.Module):
    """The weights of a file in the bare network, used as its model card describes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            said, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        architecture = ARCHITECTURES[said["arch"]]
        self.net = architecture.build(architecture.count_classes(state), architecture.has_aux(state))
        self.net.load_state_dict(state)
        self.eval()
        self.mean, self.std = (torch.tensor([float(v) for v in said[name].split()]) for name in ("mean", "std"))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classes, uint8, and the logits of RGB images of shape (N, H, W, 3)."""
        logits = self.net(((image - self.mean) / self.std).permute(0, 3, 1, 2))
        logits = logits["out"] if isinstance(logits, Mapping) else logits
        return logits.argmax(1).to(torch.uint8), logits


def _read_safetensors(path: Path) -> InferenceFn:
    return inference_fn(_Plain(path))


FORMATS = {
    "onnx": Format(_write_onnx, lambda path: read_onnx(path).run),
    "torch-export": Format(_write_torch_export, lambda path: read_torch_export(path).run),
    "safetensors": Format(_write_safetensors, _read_safetensors),
}


TOLERANCE = 1e-3
"""Maximum difference of logits over the largest one: other orders of summation give 1e-6 in float32, 1e-3 in TF32."""
HALF_TOLERANCE = 3e-2
"""The same for float16, whose numbers have 11 bits: 0.05 % of a value, in each of some sixty layers."""
LONGEST = 640
"""Maximum pixels of a side in the comparison: enough, and quick on a CPU."""


def check_parity(
    model: SegmentationNetwork,
    exported: InferenceFn,
    batches: Iterable[Picture],
    name: str,
    tolerance: float = TOLERANCE,
) -> list[Difference]:
    """Compare both networks on the CPU, batch by batch. Raises :class:`UserError` if more than rounding differs."""
    return [_compare(inference_fn(ExportWrapper(model)), exported, batch, name, tolerance) for batch in batches]


def _compare(wanted: InferenceFn, exported: InferenceFn, batch: Picture, name: str, tolerance: float) -> Difference:
    ours, theirs = wanted(batch), exported(batch)
    assert ours.logits is not None
    assert ours.classes is not None
    assert theirs.logits is not None
    assert theirs.classes is not None
    difference = np.abs(ours.logits - theirs.logits)
    largest, limit = float(difference.max()), tolerance * max(1.0, float(np.abs(ours.logits).max()))
    # A class may differ only within rounding.
    second, first = np.partition(ours.logits, -2, axis=1)[:, -2:].swapaxes(0, 1) if ours.logits.shape[1] > 1 else (0, 1)
    changed = ours.classes != theirs.classes
    clear = changed & (first - second > 2 * largest)
    if not largest <= limit or clear.any():  # not <=: NaN fails, too
        raise UserError(
            f"{name} is not written: its logits differ from the checkpoint's by {largest:.1e} on a batch of "
            f"{'×'.join(map(str, batch.shape[:3]))} pixels, {limit:.1e} is allowed; please report it with the versions "
            "of torch and of the format's library"
        )
    shape = (batch.shape[0], batch.shape[1], batch.shape[2])
    return Difference(shape, largest, int(changed.sum()))


def comparison_images(paths: tuple[Path, ...], shards: str) -> tuple[list[Picture], str]:
    """Return the first image alone, then all, two at a time, in another, odd size; and their source in words."""
    images, source = _images(paths, shards)
    ratio = min(1.0, LONGEST / max(images[0].size))
    width, height = (max(round(side * ratio), 32) for side in images[0].size)
    other = (max(width * 3 // 4 | 1, 33), max(height * 2 // 3 | 1, 33))
    alone, small = images[0].resize((width, height)), [np.asarray(image.resize(other)) for image in images]
    # The last of an odd number is paired with the first.
    pairs = [np.stack([small[i], small[(i + 1) % len(small)]]) for i in range(0, len(small), 2)]
    return [np.array(alone)[None], *pairs], source


def _images(paths: tuple[Path, ...], shards: str) -> tuple[list[Image.Image], str]:
    if paths:
        first, *others = (path.name for path in paths)
        more = [f"{len(others)} more"] if len(others) > 1 else others
        return [_read(path) for path in paths], " and ".join([first, *more])
    if not is_remote(shards) and (Path(shards) / "manifest.json").is_file():
        manifest = read_manifest(shards)
        split = "val" if "val" in manifest.splits else next(iter(manifest.splits))
        reader = Reader(open_files(shards, manifest, split))
        indexes = range(min(len(reader), 2))
        frames = [read_rgb(reader.read(index).image.tobytes(), reader.where(index))[0] for index in indexes]
        return frames, f"frames of {Path(shards).name}'s split {split}"
    noise = np.random.default_rng(0).integers(0, 256, (2, 256, 512, 3), np.uint8)
    return [Image.fromarray(image) for image in noise], "noise (the training's shards are not here)"


def _read(path: Path) -> Image.Image:
    try:
        return read_rgb(read_bytes(path, MAX_FILE), str(path))[0]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--images {path} cannot be read ({reason}); name another image") from None
