"""Every setting of a training run: one tree of frozen dataclasses, checked when it is made.

A field's docstring is its help on the command line: unit, reason for the default, source.
"""

import math
from dataclasses import asdict, dataclass, field, fields
from inspect import formatannotation
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from fastseg.errors import UserError, shown
from fastseg.storage import is_remote

Arch = Literal[
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "fcn_resnet50",
    "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
    "deeplabv3plus_resnet18",
]
"""Names in :data:`fastseg.model.architectures.ARCHITECTURES`, repeated because that takes seconds to import."""
Freeze = Literal["none", "backbone", "norms"]
"""Parts of the network that can be kept as they are."""
WITHOUT_AUX = ("lraspp_mobilenet_v3_large", "deeplabv3plus_resnet18")
"""Networks without an auxiliary head."""
MAX_NAME = 200
"""Maximum bytes of a run's name: a folder's may have 255, and that of a run set aside has a time behind it."""


@dataclass(frozen=True)
class AugmentConfig:
    """Random crops and color changes of training samples (:mod:`fastseg.data.augment`)."""

    crop: tuple[int, int] = (768, 768)
    """Height and width of the training crop, pixels. 769² of the literature, rounded to whole strides of 32."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random ratio by which frames are resized before the crop (mmsegmentation)."""
    resize: Literal["crop", "stretch"] = "crop"
    """crop: the crop is cut from the frame resized by scale. stretch: the whole frame is resized to the crop's height
    and width, whatever its proportions, in training and whenever the network is used; scale does not apply. For
    comparisons with networks trained so (recipe notebook)."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    brightness: float = 0.4
    """Brightness × (1 ± this) in half of the samples (PaddleSeg)."""
    contrast: float = 0.4
    """Contrast × (1 ± this) about a gray of 128 in half of the samples (PaddleSeg: about the image's mean)."""
    saturation: float = 0.4
    """Saturation × (1 ± this) in half of the samples (PaddleSeg)."""
    hue: float = 25.0
    """Hue turned by ± this many degrees in half of the samples (PaddleSeg: 18 of 256 steps)."""

    def __post_init__(self) -> None:
        _check_kinds(self, "data.")
        _check_finite(self, "data.")
        _check(all(16 <= n <= 8192 for n in self.crop), "data.crop", self.crop, "16 to 8192 pixels each way")
        _check(0 < self.scale[0] <= self.scale[1] <= 16, "data.scale", self.scale, "a low and a high ratio up to 16")
        _check(0 <= self.flip <= 1, "data.flip", self.flip, "a probability from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            _check(0 <= getattr(self, name) < 1, f"data.{name}", getattr(self, name), "from 0 to below 1")
        _check(0 <= self.hue <= 180, "data.hue", self.hue, "from 0 to 180 degrees")


@dataclass(frozen=True)
class DataConfig(AugmentConfig):
    """Batches: crops, their number, and how they are read and decoded."""

    batch: int | Literal["auto"] = 8
    """Images per GPU and step. auto: as many as a GPU's memory takes, 32 at most; 4 on a CPU; the checkpoint's when a
    run is resumed. The learning rate follows (optim.lr_batch)."""
    eval_batch: int = 1
    """Whole frames per GPU and step of the validation."""
    threads: int | None = None
    """CPU threads for decoding (and on a CPU as many for resizing), per GPU; None: all cores, shared among the GPUs
    of the machine, at most 16."""
    decoder: Literal["auto", "gpu", "cpu"] = "auto"
    """The processor that decodes JPEGs on a machine with a GPU. auto: the GPU, if it gives the CPU's pixels in a short
    trial; cpu: about 100 crops a second and core, copied while the GPU computes."""
    cache_frames: Literal["auto", "full", "sharded", "off"] = "auto"
    """Training frames kept decoded in the GPU's memory. full: all on each GPU; sharded: each GPU keeps its share and
    draws from that alone; off: none. auto: the first of these that fits beside the network; on a CPU, off."""
    prefetch: int = 2
    """Batches decoded ahead, and as many read ahead of those."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch != "auto":
            _check(self.batch >= 2, "data.batch", self.batch, "at least 2: batch norm after ASPP's pooling needs two")
        _check(self.eval_batch >= 1, "data.eval-batch", self.eval_batch, "at least 1")
        _check(self.threads is None or self.threads >= 1, "data.threads", self.threads, "at least 1")
        _check(1 <= self.prefetch <= 16, "data.prefetch", self.prefetch, "from 1 to 16")

    @property
    def micro_batch(self) -> int:
        """Return :attr:`batch`, a number by the time that anything is built of it."""
        if self.batch == "auto":
            raise ValueError("--data.batch auto is chosen by fastseg.training.memory.with_batch first")
        return self.batch


@dataclass(frozen=True)
class ModelConfig:
    """The network and its initial weights."""

    arch: Arch = "deeplabv3_resnet50"
    """Network: torchvision's DeepLabv3, FCN or LR-ASPP on a backbone, or DeepLabv3+ on a small one. Output stride 8; 16
    for DeepLabv3 on MobileNetV3, 4 for DeepLabv3+."""
    weights: str = "imagenet"
    """Initial weights: imagenet, coco, none or a file. imagenet has weights for the backbone, coco for the whole
    network but its last layers; a file holds a fastseg checkpoint, a torchvision state dict, or an mmsegmentation
    network, of which backbone and auxiliary head are taken (docs/from-mmsegmentation.md)."""
    freeze: Freeze = "none"
    """Layers that keep their initial values, for fine-tuning. backbone: the whole backbone, its batch norms included;
    norms: the statistics, weights and biases of all batch norms, for batches too small for statistics of their own."""
    sync_bn: bool | None = None
    """Batch-norm statistics over all GPUs; None: if there are several with fewer than 8 images each."""
    channels_last: bool = True
    """Memory order N×H×W×C, which tensor cores read without a transposition."""
    compile: bool | None = None
    """torch.compile; None: on a GPU, if it works there. True: the run ends if it does not."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of convolutions and matrix products; auto: bf16 if the hardware has it, else fp16 with a loss scaler on
    a GPU and fp32 on a CPU."""

    def __post_init__(self) -> None:
        _check(
            self.freeze == "none" or self.weights != "none",
            "model.freeze",
            self.freeze,
            "none with --model.weights none: nothing would ever train what is frozen",
        )


@dataclass(frozen=True)
class OptimConfig:
    """Loss, optimizer and schedule."""

    epochs: float = 215.0
    """Passes over the training split. 215 are 80,000 steps of 8 on Cityscapes."""
    name: Literal["sgd", "adamw"] = "sgd"
    """The optimizer, in torch's fused form."""
    lr: float = 0.01
    """Peak learning rate at a global batch of lr_batch."""
    lr_batch: int | None = 8
    """Global batch that lr is for: it scales linearly with the batch (Goyal et al. 2017, arXiv 1706.02677); None: it
    does not."""
    accumulate: int = 1
    """Batches whose gradients are added up for one step, which is that of a batch as many times as large, but for batch
    norm (and Dice), which sees each alone. Learning rate, epochs and steps count the large batch."""
    global_batch: int | None = None
    """Images per step of all GPUs together: accumulate is what makes it up, or comes nearest, also where machines come
    and go (torchrun --nnodes 1:2). None: accumulate × batch × GPUs."""
    momentum: float = 0.9
    """SGD's momentum; AdamW's first beta."""
    weight_decay: float = 5e-4
    """Weight decay of convolutions; norms and biases are not decayed (He et al. 2018, arXiv 1812.01187)."""
    schedule: Literal["poly", "constant"] = "poly"
    """poly: from the peak to min_lr by (1 - t) ** 0.9 (DeepLab); constant: no change."""
    min_lr: float = 0.01
    """Final learning rate of poly, as a share of the peak."""
    warmup: float = 1.0
    """Epochs over which the learning rate rises linearly from almost 0; in a shorter run, a tenth of it."""
    clip: float | None = None
    """Largest norm of the gradient; None: no clipping."""
    ema: float | None = 0.999
    """Decay per step of the averaged weights, which are then evaluated; None: no average."""
    aux: float | None = None
    """Weight of the auxiliary head's loss; 0 builds no such head. None: 0.4 (PSPNet), if the network has one."""
    dice: float = 0.0
    """Weight of a Dice loss beside the main head's cross-entropy: every class in a GPU's batch counts alike, however
    few its pixels (Milletari et al. 2016, arXiv 1606.04797); 0: none."""
    class_weights: float = 0.0
    """A pixel's weight is (median of the classes' pixels / its class's) to this power, in both heads: 1 weighs every
    class alike (Eigen and Fergus 2015, arXiv 1411.4734), 0 every pixel."""

    def __post_init__(self) -> None:
        _check_finite(self, "optim.")
        _check(self.epochs > 0, "optim.epochs", self.epochs, "more than 0")
        _check(self.lr > 0, "optim.lr", self.lr, "more than 0")
        _check(self.lr_batch is None or self.lr_batch >= 1, "optim.lr-batch", self.lr_batch, "at least 1")
        _check(0 <= self.momentum < 1, "optim.momentum", self.momentum, "from 0 to below 1")
        _check(self.weight_decay >= 0, "optim.weight-decay", self.weight_decay, "0 or more")
        _check(0 <= self.min_lr <= 1, "optim.min-lr", self.min_lr, "a share from 0 to 1")
        _check(1 <= self.accumulate <= 1024, "optim.accumulate", self.accumulate, "from 1 to 1024 batches")
        least = self.global_batch
        _check(least is None or least >= 2, "optim.global-batch", least, "at least 2 images")
        _check(self.warmup >= 0, "optim.warmup", self.warmup, "0 epochs or more")
        _check(self.clip is None or self.clip > 0, "optim.clip", self.clip, "more than 0")
        _check(self.ema is None or 0 < self.ema < 1, "optim.ema", self.ema, "between 0 and 1")
        _check(self.aux is None or self.aux >= 0, "optim.aux", self.aux, "0 or more")
        _check(self.dice >= 0, "optim.dice", self.dice, "0 or more")
        _check(0 <= self.class_weights <= 2, "optim.class-weights", self.class_weights, "from 0 to 2")


@dataclass(frozen=True)
class Config:
    """A training run."""

    shards: str = "shards/cityscapes"
    """Folder (or s3:// prefix) of the packed set. fastseg-pack packs it."""
    cache: Path | None = None
    """Folder on a local disk that caches what is read from an s3:// prefix for later epochs and runs; all GPUs and runs
    of the machine may share it."""
    cache_gb: float = 50.0
    """Maximum size of the cache, GB."""
    name: str = "cityscapes"
    """Name of the run; its results go to RUNS/NAME."""
    runs: Path = Path("runs")
    """Folder of all runs."""
    verify_shards: bool = False
    """Compare the SHA-256 of every tar and index of both splits with the manifest before the first step."""
    max_corrupt_samples: int = 0
    """Maximum damaged records to skip; with one more the run ends. In training the next record of the split takes the
    place of each, in the evaluation they do not count."""
    train_split: str = "train"
    """Split to train on."""
    eval_split: str = "val"
    """Split to evaluate on."""
    eval_every: float = 10.0
    """Epochs between two evaluations; the last is at the end in any case."""
    save_every: float = 10.0
    """Epochs between two checkpoints; others follow every evaluation, SIGTERM, SIGHUP and the end."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    checkpoints: str | None = None
    """Address in object storage (s3://, gs:// or az://) to which checkpoints are copied in the background, below the
    run's name. A run whose folder is lost, or older, resumes from there. None: nowhere."""
    checkpoints_kept: int = 3
    """Checkpoints kept there, the last ones; the best one is kept beside them."""
    tracker: Literal["none", "wandb", "mlflow"] = "none"
    """Experiment tracker that also gets the numbers of metrics.jsonl. wandb: Weights & Biases (WANDB_MODE=offline keeps
    it local); mlflow: MLflow at MLFLOW_TRACKING_URI, or in RUNS/mlruns."""
    resume: str = "auto"
    """Checkpoint to resume from: auto, changed, never or a file. auto: the run's last one, if there is one; changed:
    also if schedule, samples or loss are others now; never: start anew and move earlier results aside; a file: that
    one, until the run has a last one of its own."""
    patience: int | None = None
    """Evaluations in a row without a better mIoU after which the run ends; None: it does not."""
    max_hours: float | None = None
    """Hours after which the run saves and ends as after SIGTERM, but with exit code 0; the same command resumes it for
    as many again. None: no limit."""
    timeout: float = 600.0
    """Seconds without progress of a rank after which the others end the run, with a message that names it."""
    seed: int = 0
    """Seed of the initial weights, the order of the samples and all augmentations."""
    deterministic: bool = False
    """The same bits in every run on one machine with the same versions and ranks. On a CPU runs are so anyway; on GPUs
    torch then uses deterministic algorithms alone, which can be slower, and the CPU decodes (not yet measured)."""
    data: DataConfig = field(default_factory=DataConfig)
    """Batches: crops, their number, and how they are read and decoded."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network and its initial weights."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Loss, optimizer and schedule."""

    def __post_init__(self) -> None:
        _check_finite(self, "")
        plain = isinstance(self.name, str) and self.name.isprintable() and "/" not in self.name
        plain = plain and self.name not in ("", ".", "..") and len(self.name.encode()) <= MAX_NAME
        _check(plain, "name", shown(self.name), f"a plain folder name of at most {MAX_NAME} bytes")
        _check(0 < self.cache_gb <= 1e6, "cache-gb", self.cache_gb, "more than 0 GB, at most a million")
        _check(self.max_corrupt_samples >= 0, "max-corrupt-samples", self.max_corrupt_samples, "0 or more")
        _check(self.eval_every > 0, "eval-every", self.eval_every, "more than 0 epochs")
        _check(self.save_every > 0, "save-every", self.save_every, "more than 0 epochs")
        _check(self.log_every >= 1, "log-every", self.log_every, "at least 1 step")
        remote = self.checkpoints is None or is_remote(self.checkpoints)
        _check(remote, "checkpoints", shown(self.checkpoints), "an address such as s3://bucket/prefix, gs:// or az://")
        _check(1 <= self.checkpoints_kept <= 100, "checkpoints-kept", self.checkpoints_kept, "from 1 to 100")
        _check(self.patience is None or self.patience >= 1, "patience", self.patience, "at least 1 evaluation")
        _check(self.max_hours is None or self.max_hours > 0, "max-hours", self.max_hours, "more than 0")
        _check(5 <= self.timeout <= 1e7, "timeout", self.timeout, "from 5 seconds to 10,000,000")
        _check(0 <= self.seed < 2**31, "seed", self.seed, "from 0 to 2147483647")
        _check(
            not self.deterministic or self.data.decoder != "gpu",
            "data.decoder",
            self.data.decoder,
            "auto or cpu with --deterministic: a GPU's JPEG engine and its other decoder differ by a few levels",
        )
        arch, aux = self.model.arch, self.optim.aux
        _check(not aux or arch not in WITHOUT_AUX, "optim.aux", aux, f"0 or left out: {arch} has no auxiliary head")

    @property
    def aux_weight(self) -> float:
        """Return the weight of the auxiliary head's loss; 0 for a network without one."""
        if self.optim.aux is None:
            return 0.0 if self.model.arch in WITHOUT_AUX else 0.4
        return self.optim.aux

    @property
    def rank_batch(self) -> int:
        """Return the images that a rank contributes to a step, in ``optim.accumulate`` parts."""
        return self.data.micro_batch * self.optim.accumulate

    @property
    def folder(self) -> Path:
        """Return the folder of this run's results."""
        return self.runs / self.name

    def to_dict(self) -> dict[str, Any]:
        """Return nested dicts of numbers, strings, lists and None, for JSON and checkpoints."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _check_kinds(settings: AugmentConfig, prefix: str) -> None:
    """Refuse values whose type is not the annotated one, which Python code can pass and no command line."""
    for each in fields(settings):
        value, kind = getattr(settings, each.name), each.type
        _check(_fits(value, kind), prefix + each.name.replace("_", "-"), shown(value), _wanted(kind))


def _wanted(kind: Any) -> str:
    """Describe an annotated type."""
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_wanted, get_args(kind)))
    return "None" if kind is type(None) else formatannotation(kind)


def _fits(value: object, kind: Any) -> bool:
    """Return whether a value has the annotated type; NumPy's numbers count as numbers."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in parts
    if get_origin(kind) is tuple:
        return isinstance(value, (tuple, list)) and len(value) == len(parts) and all(map(_fits, value, parts))
    if parts:  # of a union
        return any(_fits(value, part) for part in parts)
    return isinstance(value, {int: Integral, float: Real}.get(kind, kind))


def _check_finite(settings: object, prefix: str) -> None:
    """Refuse infinity and NaN, which the command line accepts as numbers."""
    for name, value in vars(settings).items():
        if isinstance(value, float):
            _check(math.isfinite(value), prefix + name.replace("_", "-"), value, "a number")


def _check(holds: bool, flag: str, value: object, wanted: str) -> None:
    if not holds:
        raise UserError(f"--{flag} is {value}; it must be {wanted}")
