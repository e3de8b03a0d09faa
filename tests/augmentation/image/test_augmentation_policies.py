"""Policies: their operations equal torchvision's of each image, and are drawn as the papers say."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from lightning_modules.augmentation.image.policies import (
    AugMix,
    AutoAugment,
    RandAugment,
    TrivialAugment,
    sample_dirichlet,
)
from lightning_modules.augmentation.image.policy_operations import (
    AUTO,
    MIX,
    RAND,
    TRIVIAL,
    OperationRanges,
    apply_operations,
    operation_strengths,
)
from lightning_modules.config.errors import UserError

THEIRS = {
    "identity": "Identity", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX",
    "translate_y": "TranslateY", "rotate": "Rotate", "brightness": "Brightness", "color": "Color",
    "contrast": "Contrast", "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize",
    "autocontrast": "AutoContrast", "equalize": "Equalize", "invert": "Invert",
}  # fmt: skip
SPACES = {
    "RandAugment": (RAND, v2.RandAugment._AUGMENTATION_SPACE, 31),
    "TrivialAugment": (TRIVIAL, v2.TrivialAugmentWide._AUGMENTATION_SPACE, 31),
    "AutoAugment": (AUTO, v2.AutoAugment._AUGMENTATION_SPACE, 10),
    "AugMix": (MIX, v2.AugMix._PARTIAL_AUGMENTATION_SPACE, 10),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, channels: int = 3) -> Tensor:
    coarse = torch.rand(count, channels, 5, 5, generator=seeded())
    return (torch.nn.functional.interpolate(coarse, (24, 33), mode="bilinear") * 255).to(torch.uint8)


@pytest.mark.parametrize("space", SPACES)
def test_the_operations_and_their_strengths_are_torchvisions(space: str) -> None:
    ours, theirs, bins = SPACES[space]
    assert {THEIRS[name] for name in ours} == set(theirs)
    level = torch.arange(bins) / (bins - 1)
    for name, at in ours.items():
        expected, signed = theirs[THEIRS[name]][0](bins, 24, 33), theirs[THEIRS[name]][1]
        assert at.signed == signed
        if expected is not None:
            strength = operation_strengths(at, level, 24 if name == "translate_y" else 33)
            strength = strength.round() if name == "posterize" else strength
            assert torch.allclose(strength, expected.float(), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(THEIRS))
def test_an_operation_does_to_its_images_what_torchvisions_does(name: str, channels: int) -> None:
    spaces: OperationRanges = {**TRIVIAL, "invert": AUTO["invert"]}
    x = pictures(12, channels)
    operation = torch.full((12,), list(spaces).index(name))
    operation[::4] = -1
    level, sign = torch.linspace(0.05, 1, 12), torch.tensor([1.0, -1.0]).repeat(6)
    sign = sign if spaces[name].signed else torch.ones(12)
    out = apply_operations(x, spaces, operation, level, sign, "nearest", 30)
    one_by_one = v2.AutoAugment(fill=30)
    for i in range(12):
        if operation[i] < 0:
            assert torch.equal(out[i], x[i])
            continue
        side = 24 if name == "translate_y" else 33
        strength = float(operation_strengths(spaces[name], level[i], side) * sign[i])
        strength = round(strength) if name == "posterize" else strength
        theirs = one_by_one._apply_image_or_video_transform(x[i], THEIRS[name], strength, "nearest", one_by_one._fill)
        off = (theirs.int() - out[i].int()).abs()
        assert (off > 1).float().mean() < 0.01, "but for pixels on the edge between two"


def test_different_operations_in_one_batch_do_not_disturb_each_other() -> None:
    x, n = pictures(60), 60
    operation = torch.arange(n) % len(TRIVIAL)
    level, sign = torch.rand(n, generator=seeded(1)), torch.ones(n)
    together = apply_operations(x, TRIVIAL, operation, level, sign, "bilinear", 0)
    for i in range(n):
        one = slice(i, i + 1)
        alone = apply_operations(x[one], TRIVIAL, operation[one], level[one], sign[one], "bilinear", 0)
        assert (alone.int() - together[one].int()).abs().max() <= 1


def test_the_policies_are_torchvisions() -> None:
    for name, theirs in (("cifar10", "CIFAR10"), ("svhn", "SVHN"), ("imagenet", "IMAGENET")):
        policy = AutoAugment(name)  # type: ignore[arg-type]
        operation, chance, level = policy.operation, policy.chance, policy.level
        table = v2.AutoAugment(getattr(v2.AutoAugmentPolicy, theirs))._policies
        assert operation.shape == (25, 2) == (len(table), 2)
        for i, pair in enumerate(table):
            for j, (what, probability, magnitude) in enumerate(pair):
                assert THEIRS[list(AUTO)[operation[i, j]]] == what
                assert float(chance[i, j]) == pytest.approx(probability)
                assert round(float(level[i, j]) * 9) == (magnitude or 0)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What was drawn for each operation: numbers, levels, signs."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def note(
        x: Tensor, named: OperationRanges, operation: Tensor, level: Tensor, sign: Tensor, *rest: object
    ) -> Tensor:
        seen.append((operation, level, sign))
        return x

    for module in ("policies",):
        monkeypatch.setattr(f"lightning_modules.augmentation.image.{module}.apply_operations", note)
    return seen


def test_randaugment_draws_evenly_and_independently_with_one_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = recorded(monkeypatch)
    RandAugment(num_ops=3, magnitude=15)({"x": torch.zeros(7000, 3, 1, 1)}, seeded())
    assert len(seen) == 3
    for operation, level, sign in seen:
        assert operation.bincount(minlength=14).sub(500).abs().max() < 90
        assert (level == 0.5).all()
        turned = operation == list(RAND).index("rotate")
        assert abs(float(sign[turned].mean())) < 0.15
        assert (sign[operation == list(RAND).index("solarize")] == 1).all()
    assert abs(float(torch.corrcoef(torch.stack((seen[0][0], seen[1][0])).float())[0, 1])) < 0.05


def test_trivialaugment_draws_one_operation_of_any_of_31_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = recorded(monkeypatch)
    TrivialAugment()({"x": torch.zeros(9300, 3, 1, 1)}, seeded())
    [(operation, level, _)] = seen
    assert (level * 30).round().long().bincount(minlength=31).sub(300).abs().max() < 80
    assert len(operation.unique()) == 14


def test_autoaugment_does_each_of_a_pair_with_its_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = recorded(monkeypatch)
    transform = AutoAugment("svhn")
    x = torch.zeros(20_000, 3, 1, 1)
    transform({"x": x}, seeded())
    for half, (operation, _, _) in enumerate(seen):
        assert abs(float((operation >= 0).float().mean()) - float(transform.chance[:, half].mean())) < 0.02


def test_a_policy_can_be_kept_to_some_operations() -> None:
    x = pictures(50)
    out = TrivialAugment(operations=["translate_x", "identity"])({"x": x}, seeded())["x"]
    changed = (out != x).flatten(1).any(1).float().mean()
    assert 0.2 < changed < 0.8
    assert list(RandAugment(operations=["rotate"]).named) == ["rotate"]


def test_augmix_of_chains_that_change_nothing_is_the_image() -> None:
    x = pictures(20)
    transform = AugMix(operations=["solarize"], severity=0.1)  # at this level only the highest values are inverted
    assert (transform({"x": x.clamp(max=200)}, seeded())["x"].int() - x.clamp(max=200).int()).abs().max() <= 1


def test_augmix_mixes_by_weights_that_add_up_to_one() -> None:
    x = torch.full((200, 3, 8, 8), 100, dtype=torch.uint8)
    out = AugMix(operations=["posterize"], severity=0.1, alpha=1.0)({"x": x}, seeded())["x"]  # 4 bits: 96
    assert out.min() >= 96
    assert out.max() <= 100
    assert len(out.unique()) == 5


def test_augmix_stays_closer_to_the_image_at_lower_severity() -> None:
    x = pictures(100)
    off = [
        float((AugMix(severity=s)({"x": x}, seeded())["x"].int() - x.int()).abs().float().mean()) for s in (1, 5, 10)
    ]
    assert off == sorted(off)


def test_dirichlet_weights_have_their_mean_and_variance() -> None:
    for alpha in (0.5, 1.0, 4.0):
        weights = sample_dirichlet(20_000, 3, alpha, seeded())
        assert torch.allclose(weights.sum(1), torch.ones(20_000))
        assert torch.allclose(weights.mean(0), torch.full((3,), 1 / 3), atol=0.01)
        assert torch.allclose(weights.var(0), torch.full((3,), 2 / 9 / (3 * alpha + 1)), atol=0.005)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandAugment(magnitude=31), r"magnitude=31: expected a value in \[0, 31\)"),
        (lambda: RandAugment(num_ops=0), "num_ops=0: expected 1 or more"),
        (lambda: TrivialAugment(operations=["rotation"]), "rotation: did you mean 'rotate'"),
        (lambda: TrivialAugment(operations=[]), "operations is empty"),
        (lambda: AutoAugment("cifar"), "policy=cifar: did you mean 'cifar10'"),
        (lambda: AutoAugment(interpolation="cubic"), "AutoAugment.interpolation=cubic"),
        (lambda: AugMix(severity=11), r"severity=11: expected a value in \[0.1, 10\]"),
        (lambda: AugMix(width=0), "width=0: expected 1 or more"),
        (lambda: AugMix(depth=0), "depth=0 must be at least 1"),
        (lambda: AugMix(alpha=0), "alpha=0: expected more than 0"),
    ],
)
def test_senseless_settings_are_refused(build: type, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()
