"""Named settings. A recipe's docstring says what to expect, and where that was measured or published."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from fastseg.config import Config, DataConfig, ModelConfig, OptimConfig


def cityscapes() -> Config:
    """Follow the best published single-scale recipes for DeepLabv3-R50 on Cityscapes.

    On 768² crops.

    Expect: 78.8–79.9 % val mIoU after 215 epochs at a global batch of 8. That is what mmsegmentation publishes for
    DeepLabv3, 769² and 80,000 steps with torchvision's stem (78.80) and with a deeper one (79.89); PaddleSeg has 79.90
    with stronger weights. Not yet measured with fastseg, nor are larger batches, for which the learning rate grows in
    proportion. Time: 640,000 crops over images/s, 61 minutes at the 174 that bench/roofline.py predicts for an H200.
    Differences and their evidence: docs/cityscapes.md. The greatest: torchvision's
    network, norms and biases not decayed, one epoch of warm-up, averaged weights, no limit on one class's
    share of a crop.
    """
    return Config()


def notebook() -> Config:
    """Settings of the notebook project, which fastseg replaces, for comparison.

    loicduchesne/SemanticSegmentation.

    Expect: slow; not yet measured with fastseg. Published: 6.2 images/s per A100 on 8 of them, and 61.6 % mIoU after 20
    epochs, but with void trained and scored as a 20th class on stretched masks, so that it compares with no other mIoU.
    As there: frames of 2048×1024 are stretched to 1024×768 (--data.resize stretch), COCO weights, fp32, NCHW, Adam 1e-4
    (AdamW without decay) and no schedule, no auxiliary loss, flips, 8 × 3 images. Not as there: void is ignored, the
    score is the official one, at full resolution; DDP for DataParallel; resizing is antialiased.
    """
    return Config(
        name="notebook",
        eval_every=1,
        save_every=1,
        data=DataConfig(
            batch=3, crop=(768, 1024), resize="stretch", brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
        ),
        model=ModelConfig(weights="coco", precision="fp32", channels_last=False, compile=False, sync_bn=False),
        optim=OptimConfig(
            epochs=20,
            name="adamw",
            lr=1e-4,
            lr_batch=None,
            weight_decay=0.0,
            schedule="constant",
            warmup=0.0,
            ema=None,
            aux=0.0,
        ),
    )


def camvid() -> Config:
    """CamVid's 11 classes at 360×480, from scratch.

    367 training images, crops as large as the frames.

    Expect: not yet measured on a GPU. The target is FC-DenseNet103's 66.9 % mIoU, on the test split, also without
    pretrained weights (Jégou et al. 2017, arXiv 1611.09326). Class weights brought the small network 3.7 points (2.0 to
    5.4, five seeds of six epochs from a checkpoint; bench/results/accuracy-cpu-camvid-rare.json) and its first
    pedestrians and bicyclists. What else was tried: docs/studies.md; the data:
    docs/recipes.md.
    """
    return Config(
        shards="shards/camvid",
        name="camvid",
        eval_every=25,
        save_every=25,
        data=DataConfig(batch=16, crop=(360, 480), eval_batch=8),
        model=ModelConfig(weights="none"),
        optim=OptimConfig(epochs=600, lr=0.02, lr_batch=16, warmup=10, clip=5.0, class_weights=0.5),
    )


def camvid_small() -> Config:
    """CamVid's 11 classes on two CPU cores in about an hour, from scratch.

    DeepLabv3+ on ResNet-18, whose decoder sees poles and signs at stride 4; crops of 240×320.

    Expect: 58.7 % mIoU on val (bench/results/accuracy-cpu-camvid-small.json, one seed); small published networks reach
    51.3 % (ENet) and 55.6 % (ESPNet) on test.
    """
    return Config(
        shards="shards/camvid",
        name="camvid-small",
        eval_every=10,
        save_every=5,
        data=DataConfig(
            batch=8,
            crop=(240, 320),
            scale=(0.75, 1.75),
            brightness=0.25,
            contrast=0.25,
            saturation=0.25,
            hue=10.0,
            eval_batch=4,
        ),
        model=ModelConfig(arch="deeplabv3plus_resnet18", weights="none"),
        optim=OptimConfig(epochs=80, lr=0.05, lr_batch=8, warmup=5, ema=0.995, clip=5.0, class_weights=0.5),
    )


def demo() -> Config:
    """A few minutes on two CPU cores: a small network on procedural streets.

    512×256 pixels, from scratch.

    Expect: in two to five minutes the val mIoU reaches about 35 %, where guessing "road" gives 2
    (bench/results/cpu-demo.json). What it measures is that everything works.
    """
    return Config(
        shards="shards/demo",
        name="demo",
        eval_every=6,
        save_every=6,
        log_every=6,
        data=DataConfig(
            batch=4,
            crop=(192, 256),
            scale=(0.75, 1.5),
            brightness=0.125,
            contrast=0.0,
            saturation=0.0,
            hue=0.0,
            eval_batch=4,
        ),
        model=ModelConfig(arch="deeplabv3plus_resnet18", weights="none"),
        optim=OptimConfig(epochs=30, lr=0.05, lr_batch=4, warmup=0.5, ema=0.95, clip=5.0, class_weights=0.5),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    make.__name__.replace("_", "-"): make for make in (cityscapes, notebook, camvid, camvid_small, demo)
}
recipes: Mapping[str, Callable[[], Config]] = MappingProxyType(RECIPES)
"""``fastseg.recipes``: by name a function that returns the settings; its docstring says what to expect."""

DEFAULT = "cityscapes"


def recipe_in(arguments: Sequence[str]) -> str:
    """Return the recipe that a training's command line names, or else :data:`DEFAULT`."""
    for i, argument in enumerate(arguments):
        if argument.startswith("--recipe="):
            return argument.removeprefix("--recipe=")
        if argument == "--recipe" and i + 1 < len(arguments):
            return arguments[i + 1]
    return DEFAULT
