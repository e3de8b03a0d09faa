"""torch's optimizers and schedules, and functions of a trusted package, by `_target_` alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.run import build
from lightning_modules.run.preflight import check_optimizer
from lightning_modules.run.serve import load_task
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.resume import best_checkpoint

SCHEDULERS = "torch.optim.lr_scheduler"


@pytest.mark.parametrize(
    "words, kept",
    [
        (["optimizer._target_=torch.optim.RMSprop"], {"lr": 0.002, "weight_decay": 0.01, "eps": 1e-8}),
        (["++optimizer={_target_: torch.optim.RMSprop, alpha: 0.5}"], {"lr": 0.002, "alpha": 0.5}),
        (["optimizer._target_=torch.optim.LBFGS", "optimizer.lr=1"], {"lr": 1}),
    ],
)
def test_an_optimizer_needs_its_target_only(words: list[str], kept: dict[str, float]) -> None:
    cfg = compose_run(["model=linear", *words])
    check_config(cfg)
    assert "betas" not in cfg.optimizer and kept.items() <= dict(cfg.optimizer).items()


@pytest.mark.parametrize(
    "words, message",
    [
        (["optimizer._target_=torch.optim.RMSprop", "optimizer.betas=[0.1, 0.2]"], "RMSprop has no argument 'betas'"),
        (["scheduler._target_=torch.optim.lr_scheduler.StepLR"], "scheduler.step_size: missing argument"),
        (["scheduler._target_=torch.optim.lr_scheduler.StepLR", "+scheduler.step=1"], "StepLR has no argument 'step'"),
        (["scheduler=cosine", "scheduler._target_=torch.optim.lr_scheduler.LinearLR", "+scheduler.gama=1"], "'gama'"),
        (
            [
                f"+scheduler={{_target_: {SCHEDULERS}.ChainedScheduler, schedulers: [{{_target_: {SCHEDULERS}.LinearLR}}]}}"
            ],
            r"scheduler.schedulers\[0\].optimizer: missing argument",
        ),
    ],
)
def test_what_a_class_does_not_take_is_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        check_config(compose_run(["model=linear", *words]))
    assert "warmup" not in str(error.value) and "fused" not in str(error.value)


def test_a_plateau_monitors_what_the_task_does(build_own: Callable[..., Any]) -> None:
    cfg, schedule = build_own(f"scheduler._target_={SCHEDULERS}.ReduceLROnPlateau")
    assert (cfg.scheduler.monitor, cfg.scheduler.mode) == ("val/accuracy", "max")
    assert (schedule["monitor"], schedule["scheduler"].mode) == ("val/accuracy", "max")
    cfg, schedule = build_own(f"scheduler._target_={SCHEDULERS}.ReduceLROnPlateau", "+scheduler.monitor=val/loss")
    assert (schedule["monitor"], schedule["scheduler"].mode) == ("val/loss", "min")


def test_the_weight_decay_of_a_factory_is_kept(build_own: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules")
    words = ("optimizer._target_=user_modules.adam", "scheduler._target_=user_modules.halving")
    _, schedule = build_own(*words, "decay_norms_and_biases=false")
    groups = schedule["scheduler"].optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.125, 0.0]


@pytest.fixture
def build_own() -> Callable[..., Any]:
    def make(*words: str) -> Any:
        cfg = compose_run(["model=linear", "data.per_class=10", *words])
        check_config(cfg)
        data = build.build_data(cfg)
        build.infer_shapes(cfg, data)
        task = build.build_task(cfg, data, [])
        check_optimizer(cfg, task, data)
        task.trainer = build.build_trainer(cfg, [], None, Path())
        task.trainer.datamodule = data  # type: ignore[attr-defined]
        return cfg, task.configure_optimizers()["lr_scheduler"]  # type: ignore[call-overload,index]

    return make


@pytest.mark.slow
def test_an_optimizer_that_needs_a_closure_runs_in_the_ordinary_loop(train: Any) -> None:
    words = ("model=linear", "optimizer._target_=torch.optim.LBFGS", "optimizer.lr=0.5", "trainer.max_epochs=1")
    assert train(*words).data.metrics["val/accuracy"] > 0.5
    with pytest.raises(UserError, match="LBFGS acts on single steps"):
        train(*words, "steps_per_call=5")


@pytest.mark.slow
def test_functions_of_a_trusted_package_are_resumed_rerun_and_exported(
    train: Any, store: Any, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tests_on_path: dict[str, str]
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_modules")
    words = [f"{key}._target_=user_modules.{name}" for key, name in PARTS.items()]
    whole = train("model=linear", "optimizer.lr=0.01", *words, "trainer.max_epochs=4")
    half = train("model=linear", "optimizer.lr=0.01", *words, "trainer.max_epochs=2", "name=half")
    train("resume=half", "trainer.max_epochs=4", quick=False)
    states = [
        torch.load(artifact_path(store, run, "checkpoints/last.ckpt"), weights_only=True) for run in (whole, half)
    ]
    for name, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][name]), name
    assert states[0]["optimizer_states"][0]["param_groups"] == states[1]["optimizer_states"][0]["param_groups"]
    load_task(best_checkpoint(store, whole))  # as predict, serve and export do
    done = command("rerun.py", whole.info.run_id, **tests_on_path)
    assert done.returncode == 0, done.stdout + done.stderr


PARTS = {"optimizer": "adam", "scheduler": "halving", "task.loss": "smooth_loss"}


def test_a_run_that_could_not_be_resumed_says_so_at_its_start(
    train: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TOUCHSTONE_TRUST", raising=False)
    train("model=linear", "scheduler._target_=user_modules.halving", "trainer.max_epochs=1")
    assert "scheduler._target_=user_modules.halving: a run with it cannot be resumed" in capsys.readouterr().err


@pytest.fixture
def tests_on_path() -> dict[str, str]:
    import os

    import user_modules

    folders = [str(Path(str(user_modules.__file__)).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"TOUCHSTONE_TRUST": "user_modules", "PYTHONPATH": os.pathsep.join(folders)}
