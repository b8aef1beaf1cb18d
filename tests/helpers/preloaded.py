"""What the process that the commands of zygote.py are forked from has done already."""

import gc

import nvidia.dali.plugin.pytorch  # noqa: F401
import torch.distributed.run  # noqa: F401
import torchmetrics.classification  # noqa: F401
import torchvision.models  # noqa: F401
import webdataset  # noqa: F401

import fastseg.commands.doctor
import fastseg.commands.evaluate
import fastseg.commands.export
import fastseg.commands.inspect_shards
import fastseg.commands.predict
import fastseg.deploy.export_formats
import fastseg.deploy.predict_files
import fastseg.inspection.measure
import fastseg.training.run  # noqa: F401
from commands import TINY
from fastseg.commands.train import parse
from fastseg.training.flops import run_flops
from tools import make_shards  # noqa: F401

# Counted for each run on tensors without memory, which takes longer than its first step.
run_flops(parse(TINY)[1], 19)
gc.freeze()  # or every child would copy all of this to collect what of it is garbage, when it ends
