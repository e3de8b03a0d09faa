import pytest
import torch
from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.task.manifold_mixup import manifold_mixup


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 2)
        self.mixing_point = self.embedding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(x).mean(1))


def test_what_the_layer_gives_is_blended_and_only_inside() -> None:
    model, x = Words(), torch.tensor([[1, 2], [3, 4]])
    batch = {"mix_partner": torch.tensor([1, 0]), "mix_weight": torch.tensor([0.75, 1.0])}
    plain = model(x)
    with manifold_mixup(model, batch):
        mixed = model(x)
    expected = torch.stack([0.75 * plain[0] + 0.25 * plain[1], plain[1]])  # the rest of this network is linear
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(model(x), plain)


def test_a_batch_without_partners_goes_through_as_it_is() -> None:
    model = nn.Linear(2, 2)
    with manifold_mixup(model, {"x": torch.zeros(1)}):
        assert not model._forward_hooks


def test_a_network_without_such_a_layer_is_refused() -> None:
    with (
        pytest.raises(UserError, match="Linear has no mixing_point"),
        manifold_mixup(nn.Linear(2, 2), {"mix_partner": torch.zeros(1)}),
    ):
        pass
