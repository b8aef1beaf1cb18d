"""The network in files that others read: ONNX, torch.export, safetensors; written, and read back to be compared."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastseg.model.deeplab import DeepLab, upsample

Picture = NDArray[np.uint8]
"""RGB, N×H×W×3."""
SMALLEST = 32
"""Pixels of a side, at least: torch.export wants to know that a frame is larger than the network's stride."""
OPSET = 20
"""Of ONNX (2023): onnxruntime from 1.17 on reads it."""


class Answer(NamedTuple):
    """What an exported network says."""

    classes: NDArray[np.uint8]
    """Train ids, N×H×W."""
    logits: NDArray[np.float32]
    """N×C×H×W."""


Reader = Callable[[Picture], Answer]


class Format(NamedTuple):
    """How a kind of file is written and read; :data:`fastseg.use.exports.KINDS` says the rest."""

    write: Callable[[DeepLab, Path, dict[str, str]], None]
    """(network on the CPU in evaluation mode, file, what to say of it in the file)."""
    read: Callable[[Path], Reader]
    """A file as a function, by the library that deployers read it with."""


class Whole(nn.Module):
    """From bytes to train ids and logits at full resolution: what a deployer would otherwise have to add."""

    def __init__(self, model: DeepLab) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 N×H×W×3, RGB → uint8 N×H×W, float32 N×C×H×W."""
        logits = upsample(self.model(image).out, (image.shape[1], image.shape[2]))
        return logits.argmax(1).to(torch.uint8), logits


def reader_of(model: nn.Module) -> Reader:
    """A network of torch, in float32 on the CPU, as a function of arrays."""

    def answer(image: Picture) -> Answer:
        with torch.inference_mode():
            classes, logits = model(torch.from_numpy(image))
        return Answer(classes.numpy(), logits.numpy())

    return answer


def _example(model: DeepLab) -> tuple[Tensor, dict[str, dict[int, Any]]]:
    """A batch to trace with, and the dimensions of it that may change."""
    sides = {1: torch.export.Dim("height", min=SMALLEST), 2: torch.export.Dim("width", min=SMALLEST)}
    shape = (2, 3 * SMALLEST, 4 * SMALLEST, 3)  # no two dimensions alike, or they would stay so
    image = torch.zeros(shape, dtype=torch.uint8, device=model.mean.device)
    return image, {"image": {0: torch.export.Dim("batch", min=1), **sides}}


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of what is theirs to know, on stderr and by Python's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _write_onnx(model: DeepLab, path: Path, metadata: dict[str, str]) -> None:
    image, dimensions = _example(model)
    with _quiet():
        program = torch.onnx.export(
            Whole(model).eval(),
            (image,),
            input_names=["image"],
            output_names=["classes", "logits"],
            dynamic_shapes=dimensions,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # with dynamo there is one
        for node in program.model.graph:
            node.metadata_props.clear()  # as below
        program.model.metadata_props.update(metadata)
        program.model.producer_name = "fastseg"
        program.save(path)


def _read_onnx(path: Path) -> Reader:
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def answer(image: Picture) -> Answer:
        classes, logits = session.run(["classes", "logits"], {"image": image})
        return Answer(classes, logits)

    return answer


def _write_torch_export(model: DeepLab, path: Path, metadata: dict[str, str]) -> None:
    image, dimensions = _example(model)
    with _quiet(), path.open("wb") as file:  # by name torch insists on its suffix
        program = torch.export.export(Whole(model).eval(), (image,), dynamic_shapes=dimensions)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # lines of our sources, paths of this machine
        torch.export.save(program, file, extra_files=dict(metadata))


def _read_torch_export(path: Path) -> Reader:
    with _quiet(), path.open("rb") as file:
        return reader_of(torch.export.load(file).module())


def _write_safetensors(model: DeepLab, path: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save

    # Not save_file: its files are their owner's alone, whatever the umask says, and its errors no OSErrors.
    path.write_bytes(save({name: v.detach().contiguous() for name, v in model.net.state_dict().items()}, metadata))


class _Torchvision(nn.Module):
    """A file of weights in torchvision's own network, as its model card tells to use it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        from safetensors import safe_open
        from torchvision.models import get_model

        with safe_open(path, "pt") as file:
            said, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        aux = any(name.startswith("aux_classifier.") for name in state)
        classes = len(state["classifier.4.bias"])
        self.net = get_model(said["arch"], weights=None, weights_backbone=None, num_classes=classes, aux_loss=aux)
        self.net.load_state_dict(state)
        self.eval()
        self.mean, self.std = (torch.tensor([float(v) for v in said[name].split()]) for name in ("mean", "std"))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(((image - self.mean) / self.std).permute(0, 3, 1, 2))["out"]
        return logits.argmax(1).to(torch.uint8), logits


def _read_safetensors(path: Path) -> Reader:
    return reader_of(_Torchvision(path))


FORMATS = {
    "onnx": Format(_write_onnx, _read_onnx),
    "torch-export": Format(_write_torch_export, _read_torch_export),
    "safetensors": Format(_write_safetensors, _read_safetensors),
}
