"""Named settings. A recipe's docstring says what to expect of it, and where that was measured or published."""

from collections.abc import Callable

from fastseg.config import Config, DataConfig, ModelConfig, OptimConfig


def cityscapes() -> Config:
    """The best published single-scale recipe for DeepLabv3-R50 on Cityscapes, on 768² crops.

    Expect: 79–80 % val mIoU after 215 epochs at a global batch of 8, as mmsegmentation (79.89, R-50-D8 769² 80k) and
    PaddleSeg (79.90, 1024×512 80k) publish for their DeepLabv3 with SGD 0.01, momentum 0.9, decay 5e-4, poly 0.9, ratio
    0.5–2, photometric distortion and 0.4 auxiliary loss. Not yet measured with fastseg, nor are larger batches, for
    which the learning rate grows in proportion.
    Differences: torchvision's head (ASPP of 256 channels), 768 for 769, norms and biases are not decayed, one epoch
    of warm-up, averaged weights, no limit on one class's share of a crop.
    """
    return Config()


def seed() -> Config:
    """The settings of the project that fastseg replaces, to compare with (loicduchesne/SemanticSegmentation).

    Expect: slow. Published: 6.2 images/s per A100 on 8 of them, 61.6 % mIoU after 20 epochs with void scored as a
    20th class on resized masks, which the official metric is not. COCO weights, fp32, NCHW, Adam 1e-4 without a
    schedule, no auxiliary loss, 8 × 3 images of 768×1024. The original squeezed whole frames to that size; here
    they are resized by 0.75 and cropped to it.
    """
    return Config(
        name="seed",
        eval_every=1,
        save_every=1,
        data=DataConfig(
            batch=3, crop=(768, 1024), scale=(0.75, 0.75), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
        ),
        model=ModelConfig(weights="coco", precision="fp32", channels_last=False, compile=False, sync_bn=False),
        optim=OptimConfig(
            epochs=20,
            name="adam",
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
    """CamVid's 11 classes at 360×480, from scratch: 367 training images, whole-frame sized crops.

    Expect: not yet measured on a GPU. The mark is FC-DenseNet103's 66.9 % test mIoU, also without pretrained
    weights (Jégou et al. 2017, arXiv 1611.09326). As a proxy, 14 epochs of the small network on 240×320 crops reach
    39 % val mIoU in half an hour on two CPU cores: --model.arch deeplabv3_mobilenet_v3_large --data.crop 240 320
    --data.scale 0.5 1.25 --data.batch 8 --optim.epochs 14 --optim.lr 0.05 --optim.lr-batch 8 --optim.warmup 0.5
    --optim.ema 0.98.
    """
    return Config(
        shards="shards/camvid",
        name="camvid",
        eval_every=10,
        save_every=10,
        data=DataConfig(batch=16, crop=(360, 480), eval_batch=8),
        model=ModelConfig(weights="none"),
        optim=OptimConfig(epochs=600, lr=0.02, lr_batch=16, warmup=10, clip=5.0),
    )


def demo() -> Config:
    """A few minutes on two CPU cores: the small network from scratch on procedural streets of 512×256.

    Expect: in four minutes the loss falls from about 4 to 1.4 and the val mIoU reaches about 20 %, where guessing
    "road" gives 2 (bench/results/cpu-demo.json). What it measures is that everything works.
    """
    return Config(
        shards="shards/demo",
        name="demo",
        eval_every=4,
        save_every=4,
        log_every=6,
        data=DataConfig(
            batch=4, crop=(192, 256), scale=(0.75, 1.5), contrast=0.0, saturation=0.0, hue=0.0, eval_batch=4
        ),
        model=ModelConfig(arch="deeplabv3_mobilenet_v3_large", weights="none"),
        optim=OptimConfig(epochs=12, lr=0.05, lr_batch=4, warmup=0.5, ema=0.9, clip=5.0),
    )


RECIPES: dict[str, Callable[[], Config]] = {f.__name__: f for f in (cityscapes, seed, camvid, demo)}
