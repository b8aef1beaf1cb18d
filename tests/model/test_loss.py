"""The loss against torch's own cross-entropy."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fastseg.config import OptimConfig
from fastseg.errors import UserError
from fastseg.model.loss import UpsampleByProducts, class_weights, dice_loss, segmentation_loss
from fastseg.model.network import Logits, upsample
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.sources import open_source


@pytest.fixture
def logits() -> Logits:
    generator = torch.Generator().manual_seed(0)
    out, aux = (torch.randn(2, 5, 6, 8, generator=generator, requires_grad=True) for _ in range(2))
    return Logits(out, aux)


@pytest.fixture
def label() -> torch.Tensor:
    label = torch.randint(0, 5, (2, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    label[0, :20] = 255
    return label


def reference(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    full = F.interpolate(logits, size=label.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(full, label.long(), ignore_index=255)


def test_equals_cross_entropy(logits: Logits, label: torch.Tensor) -> None:
    main, pixels, aux, aux_pixels = segmentation_loss(logits, label)
    assert pixels == aux_pixels == (label != 255).sum()
    torch.testing.assert_close(main / pixels, reference(logits.out, label))
    torch.testing.assert_close(aux / pixels, reference(logits.aux, label))
    (main / pixels).backward()
    got, logits.out.grad = logits.out.grad, None
    reference(logits.out, label).backward()
    torch.testing.assert_close(got, logits.out.grad)


def test_pixels_weigh_what_their_classes_do(logits: Logits, label: torch.Tensor) -> None:
    """As torch's own weighted mean, in both heads; a class of many pixels and one of few together weigh the same."""
    weights = class_weights([6000, 300, 0, 1500, 1500], 1.0)
    torch.testing.assert_close(weights, torch.tensor([0.25, 5.0, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(class_weights([6000, 300, 0, 1500, 1500], 0.5), weights.sqrt())
    main, pixels, aux, aux_pixels = segmentation_loss(logits, label, weights=weights)
    for found, head in ((main / pixels, logits.out), (aux / aux_pixels, logits.aux)):
        full = F.interpolate(head, size=label.shape[1:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(found, F.cross_entropy(full, label.long(), weights, ignore_index=255))


def test_packed_labels_are_classes_or_ignored(shards: Path) -> None:
    """Whatever else stood in a mask was refused when the set was packed: the loss need not look."""
    masks = []
    for path in sorted(shards.rglob("*.tar")):
        with tarfile.open(path) as tar:
            masks += [tar.extractfile(m).read() for m in tar.getmembers() if ".mask." in m.name]
    values = {value for mask in masks for _, value in Image.open(io.BytesIO(mask)).getcolors()}
    assert len(masks) == 16
    assert values <= {*range(19), 255}
    assert len(values) > 5


@pytest.mark.parametrize("value", [19, 77, 254])
def test_a_label_that_is_no_class_is_refused_by_packing(value: int, tmp_path: Path) -> None:
    """Of a set with 19 classes whose train ids are their own values."""
    mask = Image.new("L", (64, 32), 3)
    mask.putpixel((5, 5), value)
    for folder, picture in (("images", Image.new("RGB", (64, 32))), ("masks", mask)):
        (tmp_path / "train" / folder).mkdir(parents=True)
        picture.save(tmp_path / "train" / folder / "a.png")
    classes = [{"value": v, "name": f"class {v}", "color": [v, v, v]} for v in range(19)]
    (tmp_path / "classes.json").write_text(json.dumps({"name": "own", "classes": classes, "ignore": [255]}))
    with pytest.raises(UserError, match=f"has 1 pixels of value {value}, which is no label of own"):
        pack(open_source(tmp_path), tmp_path / "shards", PackOptions(), workers=1)


def dice_by_hand(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Class by class over the labeled pixels, as Milletari et al. write it for sets with soft membership."""
    full = F.interpolate(logits, size=label.shape[1:], mode="bilinear", align_corners=False)
    found, true = full.softmax(1).movedim(1, -1)[label != 255], label[label != 255].long()
    losses = []
    for c in true.unique():
        p, t = found[:, c], (true == c).float()
        losses.append(1 - 2 * (p * t).sum() / (p.sum() + t.sum()))
    return torch.stack(losses).mean()


def test_dice_stands_beside_the_cross_entropy(logits: Logits, label: torch.Tensor) -> None:
    """Also in its gradient, and where a class is nowhere in the batch."""
    label = label.where(label != 3, 255)
    main, pixels, *_ = segmentation_loss(logits, label, OptimConfig(dice=0.5))
    wanted = reference(logits.out, label) + 0.5 * dice_by_hand(logits.out, label)
    torch.testing.assert_close(main / pixels, wanted)
    (main / pixels).backward()
    got, logits.out.grad = logits.out.grad, None
    wanted.backward()
    torch.testing.assert_close(got, logits.out.grad)


def test_dice_is_nothing_where_all_is_right_or_nothing_is_labeled(label: torch.Tensor) -> None:
    right = 100 * F.one_hot(label.where(label != 255, 0).long(), 5).movedim(-1, 1).float()
    assert dice_loss(right, label.long()).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(right, torch.full_like(label, 255).long()).item() == 0


def test_without_an_auxiliary_head(logits: Logits, label: torch.Tensor) -> None:
    assert segmentation_loss(Logits(logits.out, None), label)[2:].tolist() == [0, 0]


def test_an_all_void_batch_is_no_nan(logits: Logits, label: torch.Tensor) -> None:
    numbers = segmentation_loss(logits, torch.full_like(label, 255), OptimConfig(dice=0.5))
    assert numbers.tolist() == [0, 0, 0, 0]
    numbers.sum().backward()
    assert logits.out.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("small", "large"), [((6, 8), (48, 64)), ((5, 7), (33, 50)), ((1, 3), (4, 3)), ((9, 8), (4, 6))]
)
def test_upsampling_by_products_is_torchs(small: tuple[int, int], large: tuple[int, int]) -> None:
    """Within rounding, both ways: whole and broken ratios, one row, the same height, a smaller size."""
    logits = torch.randn(2, 3, *small, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradient = torch.randn(2, 3, *large, generator=torch.Generator().manual_seed(1))
    expected = upsample(logits, large)
    found = UpsampleByProducts.apply(logits, large)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, logits, gradient), torch.autograd.grad(expected, logits, gradient)
    )
    exact = logits.detach().double().requires_grad_()
    torch.testing.assert_close(
        UpsampleByProducts.apply(exact, large), F.interpolate(exact, large, mode="bilinear"), rtol=1e-12, atol=1e-12
    )
    torch.autograd.gradcheck(lambda x: UpsampleByProducts.apply(x, large), exact, fast_mode=True)
    torch.testing.assert_close(
        torch.autograd.grad(UpsampleByProducts.apply(exact, large), exact, gradient.double())[0],
        torch.autograd.grad(F.interpolate(exact, large, mode="bilinear"), exact, gradient.double())[0],
        rtol=1e-12,
        atol=1e-12,
    )


def test_upsampling_by_products_is_one_graph_whatever_autocast_says() -> None:
    def loss(logits: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return (UpsampleByProducts.apply(logits, (48, 64)) ** 2).sum()

    logits = torch.randn(2, 3, 6, 8).requires_grad_()
    expected = torch.autograd.grad((upsample(logits, (48, 64)) ** 2).sum(), logits)
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        found = torch.autograd.grad(function(logits), logits)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # bfloat16 would be off by 0.1
