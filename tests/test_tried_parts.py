"""Parts that the study camvid-second puts to the test, each against its definition."""

import numpy as np
import torch
from torch import nn

from fastseg.config import OptimConfig
from fastseg.data.draws import Augmentation, draw, draw_varied
from fastseg.labels import IGNORE
from fastseg.loop.optim import Lamb, retake_statistics
from fastseg.loop.step import LossNetwork
from fastseg.model.deeplab import DeepLab, Logits, set_dropout, use_multigrid
from fastseg.model.loss import class_weights, lovasz_loss, segmentation_loss

MOBILE = "deeplabv3_mobilenet_v3_large"


def network(arch: str = MOBILE) -> DeepLab:
    return DeepLab(arch, 3, (120.0,) * 3, (60.0,) * 3, aux=False)


def test_lovasz_is_one_minus_iou_where_predictions_are_certain() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (2, 9, 7), generator=generator)
    found = torch.randint(0, 4, (2, 9, 7), generator=generator)
    target[0, :3] = IGNORE
    scores = 1e4 * nn.functional.one_hot(found, 4).permute(0, 3, 1, 2).float()
    counted = target != IGNORE
    ious = [
        ((found == c) & (target == c)).sum() / (((found == c) | (target == c)) & counted).sum()
        for c in target[counted].unique()
    ]
    assert torch.isclose(lovasz_loss(scores, target), 1 - torch.stack(ious).mean(), atol=1e-6)


def test_lovasz_is_the_extension_of_its_set_function() -> None:
    """Of two classes and few pixels, computed as Berman et al. define it, pixel by pixel."""
    scores = torch.randn(1, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([[[0, 1, 1], [0, IGNORE, 1]]])
    losses = []
    for c in range(2):
        pixels = [(y, x) for y in range(2) for x in range(3) if target[0, y, x] != IGNORE]
        true = {p for p in pixels if target[0][p] == c}
        p_of = {p: scores[0, :, p[0], p[1]].softmax(0)[c].item() for p in pixels}
        errors = {p: 1 - p_of[p] if p in true else p_of[p] for p in pixels}
        wrong: set[tuple[int, int]] = set()
        loss = before = 0.0
        for p in sorted(pixels, key=lambda p: -errors[p]):
            wrong.add(p)
            now = len(wrong) / len(true | wrong)
            loss, before = loss + errors[p] * (now - before), now
        losses.append(loss)
    assert torch.isclose(lovasz_loss(scores, target), torch.tensor(sum(losses) / 2), atol=1e-6)


def test_weights_make_classes_count_alike() -> None:
    """At power 1 a class's pixels together weigh the same; the loss is torch's own weighted mean."""
    pixels = [6000, 300, 0, 1500]
    weights = class_weights(pixels, 1.0)
    assert torch.allclose(weights * torch.tensor(pixels), torch.tensor([1500.0, 1500.0, 0.0, 1500.0]))
    assert torch.allclose(class_weights(pixels, 0.5), weights.sqrt())
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 4, 8, 8, generator=generator)
    label = torch.randint(0, 4, (2, 8, 8), generator=generator, dtype=torch.uint8)
    label[0, :2] = IGNORE
    found = segmentation_loss(Logits(scores, scores), label, weights=weights)
    wanted = nn.functional.cross_entropy(scores, label.long(), weights, ignore_index=IGNORE)
    assert torch.allclose(found[[0, 2]] / found[[1, 3]], wanted)


def test_mixup_blends_images_and_losses_alike() -> None:
    torch.manual_seed(0)
    model = network()
    set_dropout(model, 0.0)
    image = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    label = torch.randint(0, 3, (2, 64, 64), dtype=torch.uint8)
    mixed = LossNetwork(model, OptimConfig(mixup=0.2)).train()
    torch.manual_seed(3)
    found = mixed(image, label)
    torch.manual_seed(3)
    assert mixed.share
    share = mixed.share.sample()
    logits = model(share * image.float() + (1 - share) * image.flip(0).float())
    wanted = share * segmentation_loss(logits, label) + (1 - share) * segmentation_loss(logits, label.flip(0))
    assert torch.allclose(found, wanted, rtol=1e-3)


def test_lamb_moves_a_tensor_by_a_share_of_its_length() -> None:
    weight = nn.Parameter(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
    bias = nn.Parameter(torch.ones(3))
    before = weight.detach().clone()
    weight.grad, bias.grad = torch.full_like(weight, 0.1), torch.tensor([1.0, -2.0, 3.0])
    Lamb([{"params": [weight, bias]}], lr=0.01, betas=(0.9, 0.999)).step()
    assert torch.isclose((weight - before).norm(), 0.01 * before.norm(), rtol=1e-3)
    assert torch.allclose(bias, torch.tensor([0.99, 1.01, 0.99]), atol=1e-5)


def test_multigrid_dilates_the_last_three_and_keeps_sizes() -> None:
    for arch, dilations in ((MOBILE, [2, 4, 8]), ("deeplabv3_resnet50", [2, 8, 16])):
        model = network(arch).eval()
        image = torch.zeros(1, 64, 96, 3, dtype=torch.uint8)
        before = model(image).out.shape
        use_multigrid(model)
        dilated = [m for m in model.net.backbone.modules() if isinstance(m, nn.Conv2d) and m.dilation[0] > 1]
        assert [m.dilation[0] for m in dilated[-3:]] == dilations
        assert model(image).out.shape == before


def test_retaken_statistics_are_the_mean_over_the_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2))
    images = [torch.randn(3, 2, 4, 4) + i for i in range(3)]
    retake_statistics(model, images)
    norm = model[0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, torch.stack([i.mean((0, 2, 3)) for i in images]).mean(0), atol=1e-6)
    assert norm.momentum == 0.1
    assert not model.training


def test_no_class_has_more_than_its_share_where_a_window_allows_it() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[:, 50:] = 1
    limited, free = (Augmentation((30, 30), scale=(1.0, 1.0), one_class=share) for share in (0.75, 1.0))

    def shares(windows: list) -> list[float]:  # type: ignore[type-arg]
        crops = [mask[w.top : w.bottom, w.left : w.right] for w in windows]
        return [max((crop == 0).mean(), (crop == 1).mean()) for crop in crops]

    varied = shares([draw_varied(0, 0, i, mask, limited)[0] for i in range(40)])
    plain = shares([draw(0, 0, i, (60, 80), free)[0] for i in range(40)])
    assert np.mean(np.array(varied) <= 0.75) > 0.9 > 0.6 > np.mean(np.array(plain) <= 0.75)
    assert [draw_varied(0, 0, i, mask, free) for i in range(5)] == [draw(0, 0, i, (60, 80), free) for i in range(5)]
