"""The script of ``torchrun fastseg/train.py --gpus 8``; nothing imports it. See :mod:`fastseg.commands.train`."""

import sys
from pathlib import Path

if __name__ == "fastseg.train":  # imported, it would take the place of the function of that name
    raise ImportError("fastseg/train.py is the script of torchrun; the function is fastseg.train: import fastseg")

# Run as a script, sys.path starts with this folder, whose modules are not for the top level.
sys.path[:] = [str(Path(__file__).resolve().parent.parent), *sys.path[not getattr(sys.flags, "safe_path", False) :]]

from fastseg.commands.train import main  # noqa: E402

if __name__ == "__main__":
    main()
