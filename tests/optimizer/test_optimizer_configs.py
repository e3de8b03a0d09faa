"""Every shipped optimizer and scheduler config is built, stepped, and saved as plain values."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_modules.optimizer.param_groups import parameter_groups

CONF = Path(__file__).parents[2] / "conf"
OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
SCHEDULERS = sorted(path.stem for path in (CONF / "scheduler").glob("*.yaml"))


def composed(optimizer: str, scheduler: str) -> DictConfig:
    run = ["+data.batch_size=64", "+trainer.accumulate_grad_batches=1"]  # what a schedule takes from a run's config
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(overrides=[f"+optimizer={optimizer}", f"+scheduler={scheduler}", *run])


def test_the_shipped_kinds_are_all_here() -> None:
    assert OPTIMIZERS == ["adadelta", "adagrad", "adam", "adamw", "lamb", "lars", "momentum", "rmsprop", "sgd"]
    assert SCHEDULERS == ["cosine", "none", "one_cycle", "plateau", "scaled", "step"]


def test_no_schedule_is_an_empty_node() -> None:
    config = composed("adamw", "none")
    assert not config.get("scheduler")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "none"])
def test_any_optimizer_goes_with_any_schedule_and_saves_plain_values(
    optimizer: str, scheduler: str, tmp_path: Path
) -> None:
    config = composed(optimizer, scheduler)
    model = nn.Linear(3, 2)
    groups = parameter_groups(model, config.optimizer.weight_decay, decay_norms_and_biases=False)
    built = instantiate(config.optimizer)(groups)
    schedule = instantiate(config.scheduler)(built, total_steps=20, steps_per_epoch=3)
    before = model.weight.clone()
    model(torch.ones(4, 3)).square().sum().backward()
    built.step()
    arguments = [torch.tensor(1.0)] if isinstance(schedule["scheduler"], ReduceLROnPlateau) else []
    schedule["scheduler"].step(*arguments)
    assert not torch.equal(before, model.weight)
    assert [group["weight_decay"] for group in built.param_groups] == [config.optimizer.weight_decay, 0.0]
    state = {"optimizer": built.state_dict(), "scheduler": schedule["scheduler"].state_dict()}
    torch.save(state, tmp_path / "state.pt")
    torch.load(tmp_path / "state.pt", weights_only=True)


def test_momentum_is_sgd_with_momentum() -> None:
    config = OmegaConf.merge(OmegaConf.load(CONF / "optimizer" / "momentum.yaml"), {"nesterov": True})
    optimizer = instantiate(config)(nn.Linear(2, 2).parameters())
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.9 and optimizer.defaults["nesterov"]
