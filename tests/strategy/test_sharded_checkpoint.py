"""What two ranks have written in parts or as one file, one rank reads, and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.zoo.strategy.sharded_checkpoint import FULL_SHAPE, read_shards, shard_optimizer_state

SMALL = ("data=mnist1d", "model=mlp", "data.per_class=13", "data.drop_last=true", "callbacks=last",
         "trainer.precision=64-true", "tracking.system_metrics_s=null", "tracking.pictures=false", "optimizer=adamw",
         "decay_norms_and_biases=false", "strategy=fsdp2", "~callbacks.progress", "~callbacks.summary")  # fmt: skip
TWO = ("trainer.devices=2", "data.batch_size=16")
ONE = ("trainer.devices=1", "data.batch_size=32")


def folder_of(store: Any, run: Any) -> Path:
    return artifact_path(store, run, "checkpoints/last.ckpt").parent


def far_apart(store: Any, a: Any, b: Any) -> float:
    ours, theirs = (read_checkpoint(folder_of(store, run) / "last.ckpt")["state_dict"] for run in (a, b))
    return max(float((ours[key].double() - theirs[key].double()).abs().max()) for key in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", ["true", "false"])
def test_a_run_resumes_from_two_ranks_on_one_and_back(store: Any, train: Callable[..., Any], sharded: str) -> None:
    words = (*SMALL, f"strategy.sharded_checkpoint={sharded}")
    whole = train(*words, *ONE, "trainer.max_epochs=3", quick=False)
    parted = train(*words, *TWO, "trainer.max_epochs=1", quick=False)
    for epochs, ranks in ((2, ONE), (3, TWO)):
        train(f"resume={parted.info.run_id}", f"trainer.max_epochs={epochs}", *ranks, quick=False)
    assert far_apart(store, parted, whole) < 1e-12


@pytest.mark.slow
def test_the_weights_of_fsdp2_start_a_run_with_tensor_parallelism(store: Any, train: Callable[..., Any]) -> None:
    first = train(*SMALL, *TWO, "trainer.max_epochs=1", quick=False)
    words = (*SMALL, *TWO, "strategy=tensor_parallel", "trainer.max_epochs=0", f"init_from={first.info.run_id}")
    second = train(*words, quick=False)
    ours, theirs = (read_checkpoint(best_checkpoint(store, run))["state_dict"] for run in (first, second))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.slow
def test_the_parts_of_all_ranks_and_the_plain_file_hold_the_same(store: Any, train: Callable[..., Any]) -> None:
    run = train(*SMALL, *TWO, "trainer.max_epochs=1", "strategy.sharded_checkpoint=true", quick=False)
    folder = folder_of(store, run)
    assert sorted(path.name for path in (folder / "last.shards").iterdir()) == ["rank-0-of-2.ckpt", "rank-1-of-2.ckpt"]
    part = torch.load(folder / "last.shards" / "rank-1-of-2.ckpt", weights_only=True)["state_dict"][
        "model.hidden.0.weight"
    ]
    assert (part[FULL_SHAPE], part["offset"], part["part"].shape) == ([100, 40], [50, 0], (50, 40))
    plain, parts = read_checkpoint(folder / "last.ckpt"), read_shards(folder / "last.shards")
    assert plain.keys() == parts.keys()
    for key, value in plain["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][key]), key
    for number, states in plain["optimizer_states"][0]["state"].items():
        assert all(
            torch.equal(parts["optimizer_states"][0]["state"][number][key], value) for key, value in states.items()
        )


def test_a_folder_that_lacks_a_rank_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "rank-0-of-2.ckpt")
    with pytest.raises(UserError, match=r"is incomplete: it contains rank-0-of-2\.ckpt"):
        read_shards(tmp_path)


def test_states_of_other_shapes_than_their_parameter_stay_as_they_are() -> None:
    states = {"state": {3: {"step": torch.tensor(2.0)}}, "param_groups": [{"params": [3], "lr": 0.1}]}
    assert shard_optimizer_state(states, iter([torch.zeros(2)])) == states
