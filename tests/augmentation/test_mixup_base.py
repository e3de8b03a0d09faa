import math
from typing import Any

import pytest
import torch
from scipy import stats

from lightning_modules.augmentation.mixup import Mixing, sample_beta, soft_targets
from lightning_modules.config.errors import UserError
from lightning_modules.task.manifold_mixup import blend


class Data:
    def __init__(self, num_classes: int | None) -> None:
        self.num_classes = num_classes


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prepared(num_classes: int | None, **settings: Any) -> Mixing:
    mixing = Mixing(**settings)
    mixing.prepare(Data(num_classes))
    return mixing


def test_weights_are_of_the_beta_distribution_and_partners_a_permutation() -> None:
    partner, weight = prepared(10, alpha=0.4).draw(5000, source())
    assert torch.equal(partner.sort().values, torch.arange(5000))
    assert stats.kstest(weight.numpy(), stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_with_a_probability_the_others_keep_their_whole_weight() -> None:
    _, weight = prepared(10, probability=0.25).draw(20_000, source())
    assert abs(float((weight < 1).float().mean()) - 0.25) < 0.02


def test_targets_are_blended_as_the_samples_are() -> None:
    batch, partner = {"y": torch.tensor([0, 2])}, torch.tensor([1, 0])
    soft = prepared(3).mix_targets(batch, partner, torch.tensor([0.75, 1.0]))
    assert soft.tolist() == [[0.75, 0.0, 0.25], [0.0, 0.0, 1.0]]
    values = prepared(None).mix_targets({"y": torch.tensor([2.0, 4.0])}, partner, torch.tensor([0.5, 0.25]))
    assert values.tolist() == [3.0, 2.5]


def test_soft_targets_leave_soft_ones_and_values_as_they_are() -> None:
    soft = torch.tensor([[0.3, 0.7]])
    assert torch.equal(soft_targets(soft, 2), soft)
    assert soft_targets(torch.tensor([1]), 3).tolist() == [[0.0, 1.0, 0.0]]
    assert math.isclose(float(blend(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0.25])).sum()), 0.5)


def test_the_same_generator_draws_the_same_weights_and_the_global_ones_are_not_used() -> None:
    before = torch.get_rng_state()
    assert torch.equal(sample_beta(9, 1.0, source(3)), sample_beta(9, 1.0, source(3)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "message"), [({"alpha": 0}, r"alpha=0: expected"), ({"probability": 2}, r"probability=2: expected")]
)
def test_wrong_settings_are_explained(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixing(**settings)
