"""Networks, loss, metrics and tiles of segmentation, against torchmetrics, torch and whole images."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.segmentation import DiceScore

from lightning_modules.augmentation.image.crop_flip import HorizontalFlip
from lightning_modules.augmentation.image.masks import IGNORED
from lightning_modules.augmentation.tta import TestTimeAugmentation
from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.unet import TorchvisionSegmentation, UNet
from lightning_modules.zoo.task.pixel_metrics import PixelLoss, pixel_counts, pixel_metrics
from lightning_modules.zoo.task.segmentation import Segmentation
from lightning_modules.zoo.task.tiling import in_tiles


def logits_and_masks(ignored: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (6, 10, 12), generator=generator).to(torch.uint8)
    logits = torch.randn(6, 4, 10, 12, generator=generator) + F.one_hot(target.long(), 4).movedim(-1, 1)
    logits[:, 3] -= 100  # the fourth class is neither true nor predicted
    return logits, target.where(torch.rand(6, 10, 12, generator=generator) < 0.8, IGNORED) if ignored else target


def measured(logits: Tensor, target: Tensor, names: list[str]) -> dict[str, Tensor]:
    metrics = pixel_metrics(names, logits.shape[1])
    for one, mask in zip(logits.split(2), target.split(2), strict=True):  # batches, as in an evaluation
        metrics.update(*pixel_counts(one, mask))
    return dict(metrics.compute())


def test_metrics_are_those_of_torchmetrics_over_all_pixels() -> None:
    logits, target = logits_and_masks()
    found = measured(logits, target, ["mean_iou", "pixel_accuracy", "class_iou"])
    iou = MulticlassJaccardIndex(4, ignore_index=IGNORED, average="none")(logits, target.long())
    assert found["class_iou"][:3].tolist() == pytest.approx(iou[:3].tolist()) and found["class_iou"][3].isnan()
    mean = MulticlassJaccardIndex(4, ignore_index=IGNORED)(logits, target.long())
    assert float(found["mean_iou"]) == pytest.approx(float(mean))
    share = MulticlassAccuracy(4, ignore_index=IGNORED, average="micro")(logits, target.long())
    assert float(found["pixel_accuracy"]) == pytest.approx(float(share))


def test_dice_is_that_of_torchmetrics_over_all_images() -> None:
    logits, target = logits_and_masks(ignored=False)
    found = measured(logits, target, ["dice", "class_dice"])
    dice = DiceScore(4, average="none", aggregation_level="global", input_format="index")
    expected = dice(logits.argmax(1), target.long())[:3]
    assert found["class_dice"][:3].tolist() == pytest.approx(expected.tolist())
    assert float(found["dice"]) == pytest.approx(float(expected.mean()))


def test_an_unknown_metric_is_one_message() -> None:
    with pytest.raises(UserError, match=r"task\.metrics: unknown metric 'iou'; choose one of: class_dice"):
        pixel_metrics(["iou"], 2)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_torchs_and_zero_without_labelled_pixels(weighted: bool) -> None:
    logits, target = logits_and_masks()
    loss = PixelLoss()
    loss.weight = torch.tensor([1.0, 2.0, 3.0, 4.0]) if weighted else None
    expected = F.cross_entropy(logits, target.long(), loss.weight, ignore_index=IGNORED)
    assert float(loss(logits, target)) == pytest.approx(float(expected), rel=1e-6)
    empty = loss(logits.requires_grad_(), torch.full_like(target, IGNORED))
    empty.backward()
    assert empty.item() == 0.0 and not logits.grad.any()  # type: ignore[union-attr]


def test_the_dice_loss_is_small_where_masks_are_right_and_ignores_pixels() -> None:
    logits, target = logits_and_masks()
    sure = 50 * F.one_hot(target.long().where(target != IGNORED, 3), 4).movedim(-1, 1).float()
    cross_entropy, both = PixelLoss(), PixelLoss(dice=2.0)
    assert float(both(sure, target)) == pytest.approx(0.0, abs=1e-4)
    assert float(both(logits, target) - cross_entropy(logits, target)) > 0.3
    other = logits.clone()
    other[(target == IGNORED)[:, None].expand_as(other)] = 9.0
    assert float(both(other, target)) == pytest.approx(float(both(logits, target)))


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (8, 9)])
def test_a_unet_takes_images_of_any_size(size: tuple[int, int]) -> None:
    network = UNet((1, 16, 16), 3, width=2, depth=3).eval()
    assert network(torch.zeros(2, 1, *size)).shape == (2, 3, *size)


def test_a_unet_doubles_its_channels_at_each_level() -> None:
    assert [block[0].out_channels for block in UNet((1, 8, 8), 2, width=3, depth=3).down] == [3, 6, 12, 24]  # type: ignore[index, union-attr]
    with pytest.raises(
        UserError, match=r"model=unet needs images of at least 16x16 pixels, the data gives \(1, 8, 8\)"
    ):
        UNet((1, 8, 8), 2)


def test_a_network_of_torchvision_takes_gray_images_and_an_unknown_name_is_one_message() -> None:
    network = TorchvisionSegmentation((1, 40, 40), 3).eval()
    assert network(torch.zeros(1, 1, 40, 48)).shape == (1, 3, 40, 48)
    with pytest.raises(
        UserError, match=r"model\.name=lraspp is not a segmentation network of torchvision: choose one of: deeplab"
    ):
        TorchvisionSegmentation((3, 40, 40), 3, name="lraspp")


def test_tiles_give_what_the_whole_image_gives() -> None:
    pointwise, x = nn.Conv2d(1, 2, 1), torch.randn(2, 1, 45, 70)
    with torch.no_grad():
        assert torch.allclose(in_tiles(pointwise, x, 16, 5), pointwise(x), atol=1e-6)
        assert torch.allclose(in_tiles(pointwise, x, 64, 0), pointwise(x), atol=1e-6)  # one side fits into a tile
        network = UNet((1, 64, 64), 2, width=2, depth=1).eval()  # it sees 11 pixels around
        x = torch.randn(1, 1, 96, 96)
        whole, tiled = network(x), in_tiles(network, x, 64, 32)
    assert torch.allclose(whole[..., :20, :20], tiled[..., :20, :20], atol=1e-5)
    assert torch.allclose(whole[..., -20:, -20:], tiled[..., -20:, -20:], atol=1e-5)
    assert not torch.allclose(whole, tiled, atol=1e-5)  # near the borders of tiles


def task(**settings: Any) -> Segmentation:
    torch.manual_seed(0)
    return Segmentation(UNet((1, 16, 16), 2, width=2, depth=1), PixelLoss(), num_outputs=2, **settings)


def test_images_larger_than_a_tile_are_evaluated_in_tiles_and_trained_whole() -> None:
    x = torch.randn(1, 1, 40, 24)
    whole, tiled = task().eval(), task(tile=16, overlap=8).eval()
    with torch.no_grad():
        expected = in_tiles(whole.model, x, 16, 8)
        assert torch.equal(tiled(x), expected) and not torch.allclose(whole(x), expected)
        assert torch.equal(tiled(x[..., :16, :16]), whole(x[..., :16, :16]))
        assert torch.equal(tiled.train()(x), whole.train()(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tta": TestTimeAugmentation([HorizontalFlip()])}, "tta: the views of an image would have to be moved back"),
        ({"augmentation": HorizontalFlip()}, "HorizontalFlip would not change the masks"),
        ({"tile": 16, "overlap": 16}, r"task\.overlap=16 must be less than task\.tile=16"),
    ],
)
def test_what_does_not_fit_masks_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task(**settings)


def test_balanced_weights_are_those_of_the_pixels() -> None:
    weight = task(class_counts=torch.tensor([30, 10]), class_weights="balanced").loss.weight
    assert weight.tolist() == pytest.approx([40 / 60, 40 / 20])
