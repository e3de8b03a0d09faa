"""Counts are exact, ties go by position, patterns lie where the hardware wants them."""

import pytest
import torch

from lightning_modules.compression.pruning.gradual import cubic_sparsity
from lightning_modules.compression.pruning.lottery import iterative_sparsity
from lightning_modules.compression.pruning.saliency import (
    count_zeros,
    exclude_pruned,
    group_by_layer,
    keep_highest,
    keep_n_of_m,
)


@pytest.mark.parametrize("sparsity", [0.001, 0.1, 0.5, 0.95, 0.999])
def test_the_count_of_zeros_is_exact(sparsity: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = {"a": torch.rand(37, 11, generator=generator), "b": torch.rand(5, 3, 3, 3, generator=generator)}
    zeros = round(sparsity * (37 * 11 + 135))
    masks = keep_highest(scores, [["a", "b"]], [zeros])
    assert count_zeros(masks, scores) == zeros
    kept = torch.cat([scores[name][masks[name]] for name in scores])
    gone = torch.cat([scores[name][~masks[name]] for name in scores])
    assert not len(gone) or gone.max() <= kept.min()


def test_of_equal_scores_the_first_go() -> None:
    masks = keep_highest({"a": torch.tensor([2.0, 1.0, 1.0]), "b": torch.tensor([1.0, 0.0])}, [["a", "b"]], [3])
    assert masks["a"].tolist() == [True, False, False]
    assert masks["b"].tolist() == [True, False]
    assert count_zeros(keep_highest({"a": torch.zeros(1000)}, [["a"]], [123]), "a") == 123


def test_nothing_to_prune_keeps_all() -> None:
    assert keep_highest({"a": torch.zeros(4)}, [["a"]], [0])["a"].all()


def test_groups_do_not_compete_with_each_other() -> None:
    masks = keep_highest({"a": torch.arange(4.0), "b": torch.arange(4.0) + 10}, [["a"], ["b"]], [2, 1])
    assert masks["a"].tolist() == [False, False, True, True]
    assert masks["b"].tolist() == [False, True, True, True]


def test_what_is_pruned_goes_before_the_lowest_score() -> None:
    scores = exclude_pruned({"a": torch.tensor([-5.0, 7.0, 1.0])}, {"a": torch.tensor([True, False, True])})
    assert keep_highest(scores, [["a"]], [2])["a"].tolist() == [False, False, True]


def test_weight_and_bias_of_a_layer_are_one_group() -> None:
    names = ["fc.weight", "fc.bias", "gru.weight_ih_l0", "gru.weight_hh_l0", "weight"]
    assert group_by_layer(names) == [["fc.weight", "fc.bias"], ["gru.weight_ih_l0", "gru.weight_hh_l0"], ["weight"]]


def test_two_of_four_consecutive_inputs_are_kept() -> None:
    score = torch.tensor([[1.0, 4.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0]])
    mask = keep_n_of_m({"a": score}, 2, 4)["a"]
    assert mask.tolist() == [[False, True, True, False, False, False, True, True]]


def test_in_a_convolution_the_pattern_runs_over_input_channels() -> None:
    score = torch.rand(6, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    mask = keep_n_of_m({"a": score}, 1, 4)["a"]
    assert mask.shape == score.shape
    assert (mask.view(6, 2, 4, 3, 3).sum(2) == 1).all()
    best = score.view(6, 2, 4, 3, 3).amax(2, keepdim=True).expand(-1, -1, 4, -1, -1).reshape(score.shape)
    assert (mask == (score == best)).all()


def test_the_cubic_is_that_of_zhu_and_gupta() -> None:
    assert [cubic_sparsity(p, 0.0, 0.8) for p in (0, 0.5, 1)] == pytest.approx([0, 0.8 - 0.8 / 8, 0.8])
    assert cubic_sparsity(0.25, 0.5, 0.9) == pytest.approx(0.9 + (0.5 - 0.9) * 0.75**3)
    assert cubic_sparsity(2.0, 0.0, 0.8) == 0.8


def test_sparsity_grows_by_equal_steps_or_by_a_factor() -> None:
    assert [iterative_sparsity(n, 4, 0.8, "equal") for n in (1, 2, 3, 4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    left = [1 - iterative_sparsity(n, 3, 0.875, "factor") for n in (1, 2, 3)]
    assert left == pytest.approx([0.5, 0.25, 0.125])
    assert iterative_sparsity(3, 3, 0.95, "factor") == 0.95
