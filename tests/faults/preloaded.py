"""What the process that the commands of zygote.py are forked from has done already."""

import torchvision.models  # noqa: F401
import webdataset  # noqa: F401

import fastseg.commands.evaluate
import fastseg.training.run  # noqa: F401
from commands import TINY
from fastseg.commands.train import parse
from fastseg.training.flops import run_flops
from tools import make_shards  # noqa: F401

# Counted for each run on tensors without memory, which takes longer than its first step.
run_flops(parse(TINY)[1], 19)
