"""Codebooks: the clusters, the zeros, and the network that they make."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.compression.quantization.weight_sharing import (
    SortedRows,
    WeightSharing,
    fit_codebook,
    initial_centroids,
    k_means,
)
from lightning_modules.compression.stage import layer_weights
from lightning_modules.config.errors import UserError

KEPT = torch.ones(1, 1, dtype=torch.bool)


def error(values: Tensor, centroids: Tensor) -> float:
    return float((values.double().flatten()[:, None] - centroids.double().flatten()[None]).square().amin(1).sum())


def clusters(values: Tensor, count: int, start: Any) -> Tensor:
    return k_means(values, KEPT.expand_as(values), count, start, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("start", ["linear", "density", "random"])
@pytest.mark.parametrize("count", [2, 8, 32])
def test_k_means_is_never_worse_than_where_it_began(start: Any, count: int) -> None:
    values = torch.randn(1, 2000, generator=torch.Generator().manual_seed(1))
    rows = SortedRows.of(values, KEPT.expand_as(values))
    first = initial_centroids(rows, count, start, torch.Generator().manual_seed(0))
    assert error(values, clusters(values, count, start)) < error(values, first)


def test_k_means_is_a_fixed_point_of_lloyds_iteration() -> None:
    values = torch.randn(1, 500, generator=torch.Generator().manual_seed(2))
    centroids = clusters(values, 8, "linear")
    nearest = (values.T - centroids).abs().argmin(1)
    means = torch.stack([values[0, nearest == k].double().mean() for k in range(8)])
    assert torch.allclose(means.float(), centroids[0], atol=1e-6)


def test_k_means_finds_the_best_two_clusters_of_a_few_numbers() -> None:
    values = torch.tensor([[0.0, 0.1, 0.2, 5.0, 5.1]])
    best = min(
        sum(float((part - part.mean()).square().sum()) for part in (values[0, :cut], values[0, cut:]))
        for cut in range(1, 5)
    )
    assert error(values, clusters(values, 2, "linear")) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_a_layer_takes_no_more_values_than_its_bits_can_name(bench: Callable[[str], Any], bits: int) -> None:
    made = bench("mlp")
    before = {name: weight.detach().clone() for name, weight in layer_weights(made.model).items()}
    made.run(WeightSharing(bits=bits))
    for name, weight in layer_weights(made.model).items():
        assert not torch.equal(weight, before[name])
        assert 2 ** (bits - 1) < len(weight.unique()) <= 2**bits
        assert made.context.state.codebooks[name].indices.dtype == torch.uint8
        assert torch.equal(made.context.state.codebooks[name].values(), weight)


def test_a_codebook_for_each_channel_has_a_smaller_error_than_one_for_the_layer() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 4, 3, 3) * torch.arange(1, 7).view(-1, 1, 1, 1)
    generator = torch.Generator()
    layer = fit_codebook(weight, None, 2, "layer", "linear", generator)
    channel = fit_codebook(weight, None, 2, "channel", "linear", generator)
    assert channel.centroids.shape == (6, 4) and layer.centroids.shape == (4,)
    assert all(len(row.unique()) <= 4 for row in channel.values())
    assert (channel.values() - weight).square().sum() < (layer.values() - weight).square().sum()


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_pruned_entries_stay_zero_and_take_no_part_in_the_clusters(per: Any) -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 50) - 3.0  # zero is far from every centroid, and beyond the last
    mask = torch.rand(8, 50) > 0.7
    mask[2] = False  # a channel that is gone
    book = fit_codebook(weight * mask, mask, 2, per, "linear", torch.Generator())
    alone = fit_codebook(weight[mask][None], None, 2, "layer", "linear", torch.Generator())
    if per == "layer":
        assert torch.allclose(book.centroids, alone.centroids)
    assert not book.indices[~mask].any()
    assert book.centroids.isfinite().all()
    assert ((book.values() - weight)[mask]).abs().max() < 1.5


def test_masks_of_an_earlier_stage_stay_in_force(bench: Callable[[str], Any]) -> None:
    made = bench("lenet5")
    for name, weight in layer_weights(made.model).items():
        made.context.state.masks[name] = weight.detach().abs() > weight.detach().abs().median()
    made.context.state.apply(made.model)
    made.run(WeightSharing(bits=4))
    for name, weight in layer_weights(made.model).items():
        assert not weight[~made.context.state.masks[name]].any()
        assert len(weight.unique()) <= 17


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet", "vit", "gru"])
def test_five_bits_keep_the_accuracy_of_every_architecture(bench: Callable[[str], Any], name: str) -> None:
    made = bench(name)
    dense = made.accuracy()
    assert dense > 0.75
    made.run(WeightSharing(bits=5))
    assert made.accuracy() > dense - 0.05
    changed = set(made.context.state.codebooks)
    assert ("gru.weight_hh_l0" in changed) == (name == "gru")


def test_the_same_seed_gives_the_same_random_start(bench: Callable[[str], Any]) -> None:
    books = []
    for _ in range(2):
        made = bench("mlp")
        made.run(WeightSharing(bits=3, start="random"))
        books.append(made.context.state.codebooks["head.weight"].centroids)
    assert torch.equal(*books)


def test_layers_can_be_chosen_and_left_out(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    made.run(WeightSharing(layers=["hidden.*"], exclude=["hidden.1"]))
    assert set(made.context.state.codebooks) == {"hidden.0.weight"}


def test_mistakes_are_named_before_anything_is_trained(bench: Callable[[str], Any]) -> None:
    for settings, message in (
        ({"bits": 0}, "bits=0: expected a value in"),
        ({"bits": 9}, "bits=9"),
        ({"per": "chanel"}, "per=chanel: did you mean 'channel'"),
        ({"start": "lin"}, "start=lin: did you mean 'linear'"),
    ):
        with pytest.raises(UserError, match=message):
            WeightSharing(**settings)
    made = bench("mlp")
    with pytest.raises(
        UserError, match=r"compression.stages.tested: no layer matches hiden.0; did you mean 'hidden.0'"
    ):
        made.run(WeightSharing(layers=["hiden.0"]))
    stage = WeightSharing()
    stage.name = "share"
    with pytest.raises(UserError, match=r"stages.share: the network has no linear"):
        stage.check(nn.Flatten(), torch.zeros(2, 3), 10)


def test_sharing_twice_is_no_silent_repetition(bench: Callable[[str], Any]) -> None:
    made = bench("mlp")
    made.run(WeightSharing(bits=2))
    with pytest.raises(UserError, match="no weight changed"):
        made.run(WeightSharing(bits=8))


def test_million_of_weights_are_clustered_with_no_distance_matrix() -> None:
    values = torch.randn(1, 1_000_000, generator=torch.Generator().manual_seed(0))
    centroids = clusters(values, 256, "density")
    assert all(a < b for a, b in combinations(centroids[0, ::51].tolist(), 2))
