"""Decodes a set on the GPU, for test_gpu_engine.py: ``python decode.py DEVICE SHARDS``, in a process of its own.

What libraries say goes to stderr, what they did to stdout, as JSON.
"""

import ctypes
import json
import sys
from pathlib import Path

import torch
from gpu_sets import COLORED, eval_loader, train_loader

from fastseg.data.decoder_probe import engine_in_use


def main() -> None:
    """Crops, cached crops and whole frames."""
    device, shards = torch.device(sys.argv[1]), Path(sys.argv[2])
    for loader in (train_loader(shards, device, COLORED), train_loader(shards, device, cached=True)):
        for _ in range(6):
            loader.next()
    frames = sum(sum(batch.valid.tolist()) for batch in eval_loader(shards, device))
    answer = {"frames": frames, "nvjpeg": loaded("libnvjpeg.so"), "nvcuvid": can_be_loaded("libnvcuvid.so.1")}
    if device.type == "cuda":
        torch.cuda.synchronize()
        answer["engine"] = engine_in_use(device.index, str(shards), "train")
    print(json.dumps(answer))


def loaded(library: str) -> bool:
    """Return whether this process has mapped it."""
    return library in Path("/proc/self/maps").read_text(encoding="ascii", errors="replace")


def can_be_loaded(library: str) -> bool:
    """Return whether the dynamic linker finds it, and what it needs."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
