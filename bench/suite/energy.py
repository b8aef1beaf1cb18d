"""What a GPU has used, by its own counter."""

import os
from contextlib import suppress
from importlib import import_module
from typing import Any


def joules() -> float | None:
    """Energy that the first visible GPU has used since its driver was loaded, J; None where nobody tells.

    It is the whole GPU's, whoever uses it: nobody tells of a slice (MIG) alone.
    """
    try:
        nvml = import_module("pynvml")
    except ImportError:  # of the extra "bench"
        return None
    with suppress(nvml.NVMLError):  # no driver, or a GPU without a counter
        nvml.nvmlInit()
        try:
            gpu = _first(nvml)
            return None if _sliced(nvml, gpu) else nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000
        finally:
            nvml.nvmlShutdown()
    return None


def _first(nvml: Any) -> Any:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if visible.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(visible))
    return nvml.nvmlDeviceGetHandleByUUID(visible)


def _sliced(nvml: Any, gpu: Any) -> bool:
    with suppress(nvml.NVMLError):  # A GPU that cannot be sliced has no mode.
        current, _ = nvml.nvmlDeviceGetMigMode(gpu)
        return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)
    return False
