"""Learning rates of large batches."""

import pytest
from torch import nn
from torch.optim import SGD

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.optimizer.large_batch import scaled_warmup


def rates(steps: int = 11, **settings: object) -> list[float]:
    optimizer = SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    schedule = scaled_warmup(optimizer, total_steps=steps, steps_per_epoch=4, **settings)["scheduler"]  # type: ignore[arg-type]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_in_equal_steps_to_as_many_times_as_the_batch_is_larger() -> None:
    found = rates(batch_size=512, warmup_epochs=1, decay="none")
    assert found == pytest.approx([0.1, 0.175, 0.25, 0.325, *[0.4] * 7])


def test_all_that_makes_a_step_counts() -> None:
    whole = rates(batch_size=1024, warmup_epochs=0.5)
    assert rates(batch_size=128, accumulated=4, ranks=2, warmup_epochs=0.5) == whole
    assert rates(batch_size=256, reference_batch=32, warmup_epochs=0.5) == whole


def test_the_cosine_falls_to_zero_in_the_last_step() -> None:
    found = rates(batch_size=256, warmup_epochs=0.5)
    assert found[2] == max(found) == pytest.approx(0.2)
    assert found[6] == pytest.approx(0.1)
    assert found[-1] == 0.0


def test_the_root_of_the_ratio_and_no_scaling_are_choices() -> None:
    assert max(rates(batch_size=2048, rule="sqrt", warmup_epochs=1)) == pytest.approx(0.4)
    assert max(rates(batch_size=2048, rule="none", warmup_epochs=1)) == pytest.approx(0.1)


def test_a_reference_batch_has_the_optimizers_own_rate() -> None:
    assert rates(batch_size=128, warmup_epochs=1, decay="none") == pytest.approx([0.1] * 11)


def test_settings_that_cannot_be_are_named() -> None:
    with pytest.raises(UserError, match=r"scaled_warmup.rule=liner: did you mean 'linear'"):
        rates(rule="liner")
    with pytest.raises(UserError, match=r"scheduler.warmup_epochs=5.0: a warm-up of 20 steps does not fit"):
        rates()
    with pytest.raises(UserError, match=r"scaled_warmup.reference_batch=0"):
        rates(reference_batch=0, warmup_epochs=0)
