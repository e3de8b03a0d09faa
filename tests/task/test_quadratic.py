"""DeepOBS' noisy quadratic: its points, its Hessian and where training ends."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.generated_datasets import NoisyQuadratic
from lightning_modules.zoo.task.noisy_quadratic import QuadraticLoss, random_rotation, rotated_hessian


def test_the_points_are_those_of_the_two_seeds() -> None:
    data = NoisyQuadratic(val_fraction=0)
    x, y = data.arrays.x, data.arrays.y
    assert isinstance(x, torch.Tensor)
    assert torch.equal(x, y)
    assert x.shape == (1000, 100)
    first = np.random.RandomState(42).normal(0, 0.6, 100).astype(np.float32)
    assert x[0].tolist() == first.tolist()
    assert not torch.equal(x, data.arrays.test[1])  # type: ignore[index]


def test_the_eigenvalues_are_ninety_small_and_ten_large_ones() -> None:
    values = np.linalg.eigvalsh(rotated_hessian(100, 42))
    draws = np.random.RandomState(42)
    drawn = np.concatenate([draws.uniform(0, 1, 90), draws.uniform(30, 60, 10)])
    assert values == pytest.approx(np.sort(drawn))


def test_the_hessian_is_the_one_of_the_original() -> None:
    """Its first numbers as DeepOBS' own recipe gives them: the draws are taken in the same order."""
    assert rotated_hessian(100, 42)[0, :3] == pytest.approx([6.22142944, 1.1270199, -0.54728195])


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_a_rotation_keeps_lengths_and_is_another_for_each_draw(dim: int) -> None:
    rotation = random_rotation(dim, np.random.RandomState(0))
    assert rotation @ rotation.T == pytest.approx(np.eye(dim), abs=1e-12)
    assert not np.allclose(rotation, random_rotation(dim, np.random.RandomState(1)))


def test_a_rotation_carries_the_first_axis_anywhere_with_equal_chance() -> None:
    """Of a uniform direction in three dimensions each coordinate is uniform in [-1, 1]: mean 0, variance a third."""
    draws = np.random.RandomState(0)
    ends = np.array([random_rotation(3, draws)[:, 0] for _ in range(4000)])
    assert ends.mean(0) == pytest.approx(np.zeros(3), abs=0.05)
    assert ends.var(0) == pytest.approx(np.full(3, 1 / 3), abs=0.03)


def test_the_loss_is_the_mean_of_the_quadratic_forms() -> None:
    loss = QuadraticLoss(dim=10, seed=3)
    theta, x = torch.full((4, 10), 0.5), torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    each = [0.5 * (t - p) @ loss.hessian @ (t - p) for t, p in zip(theta, x, strict=True)]
    assert float(loss(theta, x)) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)


def test_training_ends_at_the_mean_of_the_points_that_it_saw(fit: Callable[..., Any]) -> None:
    """In the stiff directions alone; the test loss is then near half the trace of the Hessian by the noise."""
    overrides = ("experiment=deepobs/quadratic_deep_adam", "trainer.max_epochs=20")
    run = fit(*overrides, small=False)
    assert run.task.steps_per_call > 1
    order = torch.cat([batch["index"] for batch in run.data.train_dataloader()])
    assert len(order) == 896
    away = run.task.model.theta.detach() - run.data.arrays.x[order].mean(0)
    stiff = torch.linalg.eigh(run.task.loss.hessian)[1][:, -10:]
    assert float((away @ stiff).norm()) < 0.2
    assert 80 < run.metrics["test/loss"] < 100


def test_each_seed_has_an_order_of_its_own_that_stays(build_run: Callable[..., Any]) -> None:
    def orders(seed: int) -> list[list[int]]:
        sampler: Any = (
            build_run("experiment=deepobs/quadratic_deep_sgd", f"seed={seed}", small=False)
            .data.train_dataloader()
            .sampler
        )
        found = []
        for epoch in (0, 7):
            sampler.set_epoch(epoch)
            found.append(torch.cat(list(sampler)).tolist())
        return found

    (first, later), (other, _) = orders(42), orders(43)
    assert first == later
    assert first != other


def test_the_test_loss_is_of_the_first_896_test_points(fit: Callable[..., Any]) -> None:
    run = fit("experiment=deepobs/quadratic_deep_sgd", "trainer.max_epochs=1", small=False)
    x = run.data.arrays.test[0][:896]
    theta = run.task.model.theta.detach().expand(len(x), -1)
    assert run.metrics["test/loss"] == pytest.approx(float(run.task.loss(theta, x)), rel=1e-5)


def test_settings_that_make_no_points_are_told() -> None:
    with pytest.raises(UserError, match=r"NoisyQuadratic\.dim=1: expected 2 or more") as caught:
        NoisyQuadratic(dim=1, noise=0)
    assert "NoisyQuadratic.noise=0: expected more than 0" in str(caught.value)


def test_the_parts_of_the_quadratic_are_composed_by_hand_too(fit: Callable[..., Any]) -> None:
    words = ("data=quadratic", "model=constant", "task=quadratic", "data.dim=10", "task.loss.dim=10")
    assert compose_run(list(words)).model.value == 1.0
    assert fit(*words, small=False).metrics["test/loss"] > 0
