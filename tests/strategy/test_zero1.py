"""An optimizer state that is shared out trains as a whole one does, and its checkpoints are whole."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import ListConfig

from lightning_modules.config.errors import UserError
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.zoo.strategy.sharded import _zero_redundancy

LAST = "checkpoints/last.ckpt"
WORDS = (
    "trainer.devices=2",
    "callbacks=last",
    "tracking.pictures=false",
    "data.batch_size=8",
    "optimizer=adam",
    "strategy.broadcast_buffers=false",
)


@pytest.mark.slow
def test_weights_and_checkpoint_are_those_of_ddp_and_one_process_resumes_from_it(
    store: Any, train: Callable[..., Any]
) -> None:
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run

    shared, plain = train(*WORDS, "strategy=zero1"), train(*WORDS, "strategy=ddp")
    ours, theirs = (read_checkpoint(best_checkpoint(store, r))["state_dict"] for r in (shared, plain))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    states = [read_checkpoint(artifact_path(store, r, LAST))["optimizer_states"][0]["state"] for r in (shared, plain)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][i][key], states[1][i][key]) for i in states[1] for key in states[1][i])
    sent, params = shared.data.metrics["comm/bytes"], shared.data.metrics["model/params"]
    assert sent == 8 * params  # gradients, and the parameters that the ranks tell each other
    run(compose_run([f"resume={shared.info.run_id}", "trainer.devices=1", "trainer.max_epochs=3"]))
    after = read_checkpoint(artifact_path(store, shared, LAST))
    assert after["epoch"] == 2
    assert after["optimizer_states"][0]["state"][0]["step"] > states[0][0]["step"]


def test_settings_of_the_config_become_plain_values_and_what_is_no_optimizer_is_refused() -> None:
    made = _zero_redundancy(functools.partial(torch.optim.Adam, betas=ListConfig([0.8, 0.9])))
    assert made.keywords == {"optimizer_class": torch.optim.Adam, "betas": (0.8, 0.9)}
    with pytest.raises(UserError, match=r"^strategy=zero1: the optimizer must be a class"):
        _zero_redundancy(lambda parameters: None)
