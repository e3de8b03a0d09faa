import pytest
import torch
from torch import Tensor

from lightning_modules.augmentation.mixup import CutMix, Mixup


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixed(transform: Mixup | CutMix, x: Tensor, y: Tensor, num_classes: int | None = 10) -> dict[str, Tensor]:
    transform.num_classes = num_classes
    return transform({"x": x, "y": y, "index": torch.arange(len(y))}, seeded())


def constant(count: int = 500, side: int = 12) -> tuple[Tensor, Tensor]:
    """Images of one value each, their class being that value's tens."""
    y = torch.arange(count) % 10
    return (y * 20).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, side, side).contiguous(), y


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_soft_labels_add_up_to_one_and_say_what_is_in_the_image(kind: type[Mixup] | type[CutMix]) -> None:
    x, y = constant()
    out = mixed(kind(), x, y)
    assert out["y"].shape == (500, 10)
    assert torch.allclose(out["y"].sum(1), torch.ones(500))
    said = (out["y"] * torch.arange(10) * 20).sum(1)
    seen = out["x"].float().mean((1, 2, 3))
    assert (said - seen).abs().max() <= (0.51 if kind is Mixup else 1e-3)
    assert torch.equal(out["index"], torch.arange(500))


def test_cutmix_replaces_one_rectangle_that_may_be_cut_off_at_the_border() -> None:
    x = torch.stack([torch.full((1, 9, 14), i / 500) for i in range(500)])
    out = mixed(CutMix(), x, torch.arange(500) % 10)["x"][:, 0]
    other = out != x[:, 0]
    tall, wide = other.any(2).sum(1), other.any(1).sum(1)
    assert torch.equal(other.sum((1, 2)), tall * wide)
    assert other.any(0).all()
    assert ((tall > 0) & (tall < 9)).any()
    covered = other.float().mean(0)
    assert abs(float(covered[:5].mean() - covered[4:].mean())) < 0.04, "centred on any pixel alike"
    assert abs(float(covered[:, :7].mean() - covered[:, 7:].mean())) < 0.04


def test_the_weights_are_drawn_for_each_pair_from_beta() -> None:
    x, y = torch.rand(20_000, 1, 2, 2), torch.arange(20_000) % 10
    for alpha in (0.2, 1.0, 5.0):
        transform = Mixup(alpha)
        _, weight = transform.draw(len(x), seeded())
        assert abs(float(weight.mean()) - 0.5) < 0.01
        assert abs(float(weight.var()) - 0.25 / (2 * alpha + 1)) < 0.005
    assert mixed(Mixup(0.2), x, y)["x"].shape == x.shape


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_with_probability_0_images_stay_and_labels_are_hard(kind: type[Mixup] | type[CutMix]) -> None:
    x, y = constant()
    out = mixed(kind(probability=0.0), x, y)
    assert torch.equal(out["x"], x)
    assert torch.equal(out["y"], torch.nn.functional.one_hot(y, 10).float())


def test_labels_that_are_soft_already_are_mixed_again() -> None:
    x, y = constant()
    transform = CutMix()
    first = mixed(Mixup(), x, y)
    transform.num_classes = 10
    again = transform(first, seeded(1))
    assert torch.allclose(again["y"].sum(1), torch.ones(500))
    said = (again["y"] * torch.arange(10) * 20).sum(1)
    assert (said - again["x"].float().mean((1, 2, 3))).abs().max() < 0.6


def test_values_are_blended_like_the_samples() -> None:
    x, y = constant()
    values = y.float() * 20
    out = mixed(Mixup(), x.float() / 255, values, num_classes=None)
    assert torch.allclose(out["y"] / 255, out["x"].mean((1, 2, 3)), atol=1e-5)


def test_mixup_takes_samples_of_any_shape_and_a_batch_of_one() -> None:
    y = torch.arange(6)
    assert mixed(Mixup(), torch.randn(6, 40), y)["x"].shape == (6, 40)
    one = mixed(Mixup(), torch.ones(1, 3, 4, 4), y[:1])
    assert torch.allclose(one["x"], torch.ones(1, 3, 4, 4))
    assert torch.allclose(one["y"], torch.eye(10)[:1])
