"""The device that a name means, if it is here."""

import torch

from fastseg.errors import UserError, shown


def device_of(name: str | torch.device) -> torch.device:
    """``auto`` (a GPU if there is one), ``cuda``, ``cuda:N``, ``cpu`` or torch's object; a GPU with its number.

    Raises :class:`UserError` for what is no such device, and for one that is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"the device is {shown(name)}; it must be auto, cuda, cuda:N or cpu")
    if device.type == "cpu":
        return device
    if (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"the device is {name}, but torch sees {torch.cuda.device_count()} GPUs here; use cpu or auto")
    return device if device.index is not None else torch.device("cuda", torch.cuda.current_device())
