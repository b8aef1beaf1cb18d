"""Choose the processor that decodes JPEGs, by trying the GPU in a separate process, where a crash is a result.

nvImageCodec 0.9 has crashed on some GPUs (https://github.com/NVIDIA/nvImageCodec/issues/55), and DALI falls back to the
CPU silently if a library is missing. So a few of the set's own records are decoded by both, and compared.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fastseg.config import AugmentConfig
from fastseg.data.decoding import dali_reason
from fastseg.data.loader import Batch, EvalLoader, Processor, TrainLoader, open_files
from fastseg.distributed.ranks import Ranks, gather_states
from fastseg.errors import UserError, run_command
from fastseg.parallel import usable_cores
from fastseg.run_module import child_environment, module_command
from fastseg.shards.manifest import Manifest, read_manifest

TIMEOUT = 90.0
"""Maximum seconds of the process, which imports torch and DALI and decodes a dozen images."""
MAX_MEAN_DIFFERENCE = 1.0
"""Gray levels by which two decoders may differ on average: they round differently, and a JPEG at quality 95 is itself 3
levels off."""
MAX_DIFFERENCE = 24
"""Gray levels by which they may differ in any value."""
LARGE_DIFFERENCE, MAX_LARGE_SHARE = 8, 0.001
"""Gray levels above which they may differ in this share of the values."""
BATCH, FRAMES = 4, 2
"""Crops and whole frames that are compared."""
SAMPLING = 1.0
"""Seconds of decoding after which to ask the driver whether the JPEG engine was in use."""
FALLBACK = re.compile(r"fall(s|ing)?[ -]?back|(de|en)coded? (on|by|with) (the )?(cpu|host)", re.IGNORECASE)
"""Messages of the libraries when they fall back to the CPU."""


@dataclass(frozen=True)
class ProbeResult:
    """Result of decoding a few records on the GPU."""

    works: bool
    engine: str = "unknown"
    """The decoder in use: hardware (the JPEG engine), cuda kernels, cpu, or unknown."""
    reason: str = ""
    """Reason why it does not work, a clause without a full stop."""
    difference: float = 0.0
    """Mean absolute difference from the CPU's pixels, gray levels."""
    seconds: float = 0.0
    """Duration of the probe."""


class DecoderChoice(NamedTuple):
    """The processor that decodes images."""

    processor: Processor
    """Whom loaders take: on a GPU's machine it is gpu with PNGs, too, which the graph itself leaves to the CPU."""
    description: str
    """Description for logs and reports."""
    warning: str = ""
    """Reason why it is not the GPU although there is one; else empty."""


def choose_decoder(wanted: str, device: torch.device, codec: str, shards: str, split: str) -> DecoderChoice:
    """Choose ``wanted``; for ``auto`` the GPU of ``device`` if a probe shows that it decodes as the CPU does.

    Raises :class:`UserError` if the GPU is wanted and the CPU does the work.
    """
    if not may_use_gpu(device):
        if wanted == "gpu":
            raise UserError("the decoder is gpu, but the work is done on the CPU; leave it at auto")
        return DecoderChoice("cpu", "the CPU")
    if codec != "jpg":
        return DecoderChoice("gpu", f"the CPU, since the shards hold {codec.upper()}s")
    if wanted != "auto":
        return DecoderChoice("gpu" if wanted == "gpu" else "cpu", f"the {wanted.upper()}, as asked for")
    result = _probe_once(device.index or 0, shards, split)
    if result.works:
        return DecoderChoice("gpu", f"the GPU (engine: {result.engine})")
    return DecoderChoice(
        "cpu",
        f"the CPU, since {result.reason}",
        f"the GPU's JPEG decoder is not used, since {result.reason}; the CPU decodes instead, about 100 crops of "
        f"768² a second on each of {usable_cores()} cores. fastseg-doctor says more, --data.decoder gpu insists",
    )


def may_use_gpu(device: torch.device) -> bool:
    """Return whether ``device`` has a JPEG decoder of its own."""
    return device.type == "cuda"


@cache
def _probe_once(device_index: int, shards: str, split: str) -> ProbeResult:
    return probe_gpu_decoder(device_index, TIMEOUT, shards, split)


def probe_gpu_decoder(
    device_index: int = 0, timeout: float = TIMEOUT, shards: str | None = None, split: str = "train"
) -> ProbeResult:
    """Decode a few records of a split (or of a set drawn for this) on the GPU, in another process, and compare.

    Never raises for a failing decoder: a crash, no answer within ``timeout`` seconds, a fallback to the CPU and other
    pixels all give ``works=False`` with a reason.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fastseg-probe-") as folder:
        answer, said = Path(folder) / "answer.json", Path(folder) / "stderr"
        arguments = [str(device_index), str(answer), shards or "", split]
        command = module_command("fastseg.data.decoder_probe", *arguments)
        with said.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(timeout)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        result = _verdict(code, answer, said.read_text(encoding="utf-8", errors="replace"), timeout)
    return ProbeResult(**asdict(result) | {"seconds": time.monotonic() - began})


def _verdict(code: int | None, answer: Path, said: str, timeout: float) -> ProbeResult:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if code is None:
        return ProbeResult(False, reason=f"it did not answer within {timeout:g} seconds")
    if code < 0:
        return ProbeResult(False, reason=f"it crashed ({signal.Signals(-code).name})")
    if code or not answer.exists():
        return ProbeResult(
            False, reason=f"it failed ({lines[-1].removeprefix('error: ') if lines else f'exit {code}'})"
        )
    result = ProbeResult(**json.loads(answer.read_text(encoding="utf-8")))
    fallback = next((line for line in lines if FALLBACK.search(line)), None)
    if result.works and fallback:
        return ProbeResult(False, "cpu", f"it falls back to the CPU ({fallback})", result.difference)
    return result


def compare_decoders(device_index: int, shards: str, split: str) -> ProbeResult:
    """Decode the same crops and frames on the GPU and on the CPU, in this process, and compare them."""
    difference = 0.0
    pairs = zip(decoded_by_gpu(device_index, shards, split), decoded_by_cpu(shards, split), strict=True)
    for ours, expected in pairs:
        levels = (ours.image.cpu().int() - expected.image.int()).abs().numpy()
        difference = max(difference, float(levels.mean()))
        large = float((levels > LARGE_DIFFERENCE).mean())
        if levels.mean() > MAX_MEAN_DIFFERENCE or large > MAX_LARGE_SHARE or levels.max() > MAX_DIFFERENCE:
            reason = (
                f"its pixels differ from the CPU's by {levels.mean():.2f} gray levels on average and {levels.max()} at "
                f"most (allowed: {MAX_MEAN_DIFFERENCE:g} and {MAX_DIFFERENCE})"
            )
            return ProbeResult(False, reason=reason, difference=difference)
        if not torch.equal(ours.label.cpu(), expected.label):
            return ProbeResult(False, reason="its masks differ from the CPU's", difference=difference)
    engine = engine_in_use(device_index, shards, split)
    if engine == "cpu":
        reason = "DALI decodes on the CPU without a word, as it does where libnvjpeg cannot be loaded"
        return ProbeResult(False, engine, reason, difference)
    return ProbeResult(True, engine, difference=difference)


def decoded_by_gpu(device_index: int, shards: str, split: str) -> Iterator[Batch]:
    """Yield crops, then whole frames, by the loaders that training and evaluation use."""
    yield from _decoded(torch.device("cuda", device_index), shards, split)


def decoded_by_cpu(shards: str, split: str) -> Iterator[Batch]:
    """Yield the same batches, decoded on the CPU."""
    yield from _decoded(torch.device("cpu"), shards, split)


def _decoded(device: torch.device, shards: str, split: str) -> Iterator[Batch]:
    manifest = read_manifest(shards)
    files, part = open_files(shards, manifest, split, unlabeled=True), manifest.split(split)
    if part.labeled:
        smallest = (min(height for height, _, _ in part.sizes), min(width for _, width, _ in part.sizes))
        crop = (min(max(smallest[0], 16), 512), min(max(smallest[1], 16), 512))
        # Resized and colored crops need not be equal: only what the decoders make of them is compared.
        plain = AugmentConfig(crop, scale=(1.0, 1.0), flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
        batch = min(BATCH, part.samples)
        yield TrainLoader(files, part, plain, batch=batch, device=device, threads=2, prefetch=1, seed=0).next()
    yield from EvalLoader(files, part, batch=1, device=device, threads=2, most=FRAMES)


def engine_in_use(device_index: int, shards: str, split: str) -> str:
    """Return what decodes in this process: ``hardware``, ``cuda kernels``, ``cpu`` or ``unknown``."""
    if "libnvjpeg" not in Path("/proc/self/maps").read_text(encoding="ascii", errors="replace"):
        return "cpu"
    until = time.monotonic() + SAMPLING
    while time.monotonic() < until:
        for _ in decoded_by_gpu(device_index, shards, split):
            pass
    used = jpeg_engine_use(device_index)
    return "unknown" if used is None else "hardware" if used > 0 else "cuda kernels"


def jpeg_engine_use(device_index: int) -> int | None:
    """Return how long of the last second the JPEG engine worked, percent; None if the driver does not tell."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        uuid = f"GPU-{torch.cuda.get_device_properties(device_index).uuid}".encode()
        handle, used, period = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
        ready = nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)) == 0
        if ready and nvml.nvmlDeviceGetJpgUtilization(handle, ctypes.byref(used), ctypes.byref(period)) == 0:
            return used.value
    except (OSError, AttributeError):  # no such library, or one without this function
        pass
    return None


def draw_set(folder: Path) -> str:
    """Pack a few images of noise over a gradient, for a machine without a data set; returns the shards' folder."""
    from PIL import Image

    from fastseg.packing.pack import pack
    from fastseg.packing.sources import open_source

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for number in range(BATCH):
            ramp = np.linspace(0, 200, 1024, dtype=np.float32)[None, :, None] + rng.normal(0, 12, (512, 1024, 3))
            image = Image.fromarray(ramp.clip(0, 255).astype(np.uint8))
            image.save(folder / split / "images" / f"{number}.jpg", quality=95, subsampling=2 * (number % 2))
            label = Image.fromarray((np.arange(512 * 1024).reshape(512, 1024) % 3).astype(np.uint8))
            label.save(folder / split / "masks" / f"{number}.png")
    classes = [{"name": name, "value": value, "color": [80 * value] * 3} for value, name in enumerate("abc")]
    document = {"name": "probe", "ignore": [], "classes": classes}
    (folder / "classes.json").write_text(json.dumps(document), encoding="utf-8")
    pack(open_source(folder), folder / "shards", workers=1)
    return str(folder / "shards")


def main() -> None:
    """Answer :func:`probe_gpu_decoder`: arguments are the GPU's number, the answer's file, the shards and the split."""
    number, answer, shards, split = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="fastseg-probe-") as folder:
        shards = shards or draw_set(Path(folder))
        try:
            result = compare_decoders(int(number), shards, split)
        except RuntimeError as error:
            result = ProbeResult(False, reason=f"it failed ({dali_reason(error)})")
    Path(answer).write_text(json.dumps(asdict(result)), encoding="utf-8")


def choose_decoder_for_ranks(wanted: str, shards: str, split: str, manifest: Manifest, ranks: Ranks) -> DecoderChoice:
    """Do as :func:`choose_decoder` on all ranks; one rank of each machine tries its GPU for the others.

    Every rank has to call. If one machine's GPU does not decode correctly, the CPU decodes on all: two decoders round
    differently, and all ranks must see the same pixels.
    """
    mine = None
    if ranks.local_rank == 0:
        mine = choose_decoder(wanted, ranks.device, manifest.image_codec, shards, split)
    choices = [DecoderChoice(*state["decoder"]) for state in gather_states({"decoder": mine}) if state["decoder"]]
    return next((choice for choice in choices if choice.warning), choices[0])


if __name__ == "__main__":
    # As the module that others import, not as a second copy of it.
    run_command(import_module("fastseg.data.decoder_probe").main)
