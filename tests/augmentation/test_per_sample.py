import pytest
import torch
from torch import Tensor

from lightning_modules.augmentation.per_sample import PerSampleTransform, bernoulli_mask, uniform
from lightning_modules.config.errors import UserError


class Brighter(PerSampleTransform):
    def transform_samples(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x + uniform(len(x), 1, 2, generator).view(-1, *[1] * (x.ndim - 1)).to(x.dtype)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_so_many_samples_are_changed_and_each_by_itself() -> None:
    out = Brighter(0.3)({"x": torch.zeros(20_000, 1)}, source())["x"].squeeze(1)
    changed = out > 0
    assert abs(float(changed.float().mean()) - 0.3) < 0.02
    assert len(out[changed].unique()) > 5000
    neighbours = torch.stack((changed[:-1], changed[1:])).float()
    assert abs(float(torch.corrcoef(neighbours)[0, 1])) < 0.03


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_the_given_batch_its_other_entries_and_its_memory_format_stay(probability: float) -> None:
    x = torch.zeros(6, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    batch = {"x": x, "y": torch.arange(6)}
    out = Brighter(probability)(batch, source())
    assert not x.any()
    assert out["y"] is batch["y"]
    assert out["x"].is_contiguous(memory_format=torch.channels_last)


def test_the_same_generator_gives_the_same_batch_and_the_global_one_is_not_used() -> None:
    before, batch = torch.get_rng_state(), {"x": torch.zeros(50, 2)}
    first = Brighter(0.5)(batch, source(1))["x"]
    assert torch.equal(first, Brighter(0.5)(batch, source(1))["x"])
    assert not torch.equal(first, Brighter(0.5)(batch, source(2))["x"])
    assert torch.equal(before, torch.get_rng_state())


def test_a_probability_beyond_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"Brighter\.probability=1\.5: expected a value in \[0, 1\]"):
        Brighter(1.5)


def test_numbers_lie_in_their_range_and_certain_choices_are_certain() -> None:
    numbers = uniform(10_000, -2, 3, source())
    assert -2 <= float(numbers.min()) < -1.99 and 2.99 < float(numbers.max()) < 3
    assert bernoulli_mask(100, 1.0, source()).all() and not bernoulli_mask(100, 0.0, source()).any()
