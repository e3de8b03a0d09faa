import torch
from torch import nn

from lightning_modules.zoo.task.weight_projections import project_weights


def network(change: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.Linear(30, 5))
    with torch.no_grad():
        model[2].weight[3, 7] += change
    return model


def test_equal_weights_give_equal_numbers_and_another_seed_gives_others() -> None:
    assert project_weights(network(), 8, 0) == project_weights(network(), 8, 0)
    assert (
        project_weights(network(), 8, 0)["weights/projection_0"]
        != project_weights(network(), 8, 1)["weights/projection_0"]
    )
    assert project_weights(network(), 8, 0)["weights/norm"] == project_weights(network(), 2, 1)["weights/norm"]


def test_one_weight_that_is_another_shows_in_the_projections() -> None:
    ours, theirs = project_weights(network(), 8, 0), project_weights(network(1e-3), 8, 0)
    apart = [abs(ours[f"weights/projection_{k}"] - theirs[f"weights/projection_{k}"]) for k in range(8)]
    assert all(1e-6 < difference < 5e-3 for difference in apart)


def test_projections_of_a_difference_spread_like_its_length() -> None:
    ours, theirs = project_weights(network(), 400, 0), project_weights(network(0.5), 400, 0)
    apart = torch.tensor([ours[f"weights/projection_{k}"] - theirs[f"weights/projection_{k}"] for k in range(400)])
    assert abs(float(apart.std()) - 0.5) < 0.06
    small = (apart.abs() <= 0.05).float().mean()  # a tenth of the length: below 0.8 / 10 in theory
    assert 0.04 < float(small) < 0.12


def test_the_statistics_of_batch_norm_count_as_weights() -> None:
    model = network()
    before = project_weights(model, 1, 0)
    model[1].running_mean += 1.0  # type: ignore[index,operator]
    assert project_weights(model, 1, 0)["weights/projection_0"] != before["weights/projection_0"]
