"""Ranks that disagree all raise the same error before training."""

from typing import Any

import pytest
import torch
from gloo_process_group import run_on_ranks
from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.strategy.launch.agreement import flatten_config, verify_ranks_agree, weight_hashes

CONFIG = {"optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "data": {"root": "/a", "batch_size": 8}, "name": "a"}


def verify(rank: int, second: dict[str, Any]) -> str:
    """What a rank is told; `second` says how rank 1 differs."""
    told: dict[str, Any] = {"world_size": 2, "config": CONFIG, "data": "f00d", "weight": 0.0}
    if rank == 1:
        told |= second
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1.0)
    nn.init.constant_(model[0].weight, told.pop("weight"))  # type: ignore[arg-type]
    try:
        verify_ranks_agree(model, **told)
    except UserError as error:
        return str(error)
    return "one job"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({}, "one job"),
        ({"config": {**CONFIG, "name": "b", "data": {"root": "/b", "batch_size": 8}}}, "one job"),
        (
            {"config": {**CONFIG, "optimizer": {"lr": 0.2}, "seed": 3}},
            "rank 1 has optimizer.lr=0.2 (rank 0: 0.1), optimizer.betas=nothing (rank 0: [0.9, 0.99]), "
            "seed=3 (rank 0: nothing)",
        ),
        ({"weight": 1e-7}, "rank 1 starts from different parameters than rank 0: 0.weight"),
        ({"world_size": 3}, "trainer.devices: 2 processes joined, but 3 were expected (by rank 1)"),
        ({"data": "beef"}, "rank 1 has data fingerprint beef, rank 0 f00d"),
    ],
    ids=["equal", "other_place", "other_config", "other_weights", "other_world_size", "other_data"],
)
def test_both_ranks_report_the_same_differences(second: dict[str, Any], message: str) -> None:
    first, other = run_on_ranks(verify, second)
    assert first == other
    assert first == (message if message == "one job" else f"The ranks disagree:\n  {message}")


def test_all_differences_are_reported_at_once() -> None:
    first, other = run_on_ranks(verify, {"weight": 2.0, "config": {}, "world_size": 4})
    assert first == other
    assert [word in first for word in ("4 were expected", "optimizer.lr=nothing", "0.weight")] == [True] * 3


def test_a_config_is_compared_leaf_by_leaf_without_what_may_differ() -> None:
    assert flatten_config(CONFIG) == {"optimizer.lr": "0.1", "optimizer.betas": "[0.9, 0.99]", "data.batch_size": "8"}


def test_weights_are_compared_bit_by_bit() -> None:
    model = nn.Linear(2, 2).bfloat16()
    before = weight_hashes(model)
    with torch.no_grad():
        model.bias[0] = -0.0 if model.bias[0] == 0 else model.bias[0].nextafter(torch.tensor(9.0).bfloat16())
    assert [key for key, value in weight_hashes(model).items() if value != before[key]] == ["bias"]
    assert weight_hashes(nn.Linear(2, 2, device="meta")) == {}
