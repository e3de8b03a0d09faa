"""Batch norm over two ranks is batch norm over their batches together."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.strategy.sync_batch_norm import SyncBatchNormLayers
from tests.gloo_process_group import run_on_ranks


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5),
                           nn.BatchNorm1d(5, momentum=None, affine=False))  # fmt: skip
    return layers.double()


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3 + 1


def step(model: nn.Module, x: Tensor, total: int) -> dict[str, Tensor]:
    """Gradients of the loss per sample of the whole batch, and the buffers, after two batches."""
    for _ in range(2):
        model.zero_grad()
        out = model(x)
        (F.softplus(out * torch.arange(1.0, 6.0)).square().sum() / total).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {name: b.clone() for name, b in model.named_buffers()} | {"out": out.detach()}


def on_a_rank(rank: int, cut: int) -> dict[str, Any]:
    model = SyncBatchNormLayers().apply(network())
    x = images(10)
    return step(model, x[:cut] if rank == 0 else x[cut:], 10)


@pytest.mark.parametrize("cut", [5, 3])
def test_two_ranks_have_the_statistics_outputs_and_gradients_of_one_batch(cut: int) -> None:
    wanted = step(network(), images(10), 10)
    first, second = run_on_ranks(on_a_rank, cut)
    for name, value in wanted.items():
        if name == "out":
            got = torch.cat([first[name], second[name]])
        elif "running" in name or "tracked" in name:
            assert torch.equal(first[name], second[name])
            got = first[name]
        else:
            got = first[name] + second[name]
        torch.testing.assert_close(got, value, rtol=1e-12, atol=1e-13)


def test_the_layers_are_given_back_as_they_were() -> None:
    model = network()
    names = list(model.state_dict())
    changed = SyncBatchNormLayers().apply(model)
    assert "forward" in vars(changed[1])
    assert list(SyncBatchNormLayers().revert(changed).state_dict()) == names
    assert "forward" not in vars(changed[1])
    torch.testing.assert_close(step(changed, images(10), 10)["out"], step(network(), images(10), 10)["out"])
