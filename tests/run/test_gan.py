"""A GAN as a run: recorded, resumed within an epoch, swept, compared, exported; images in a classifier's features."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from multirun import multirun
from recorded_runs import artifacts, newest_run

from lightning_modules.cli import predict
from lightning_modules.comparison.compare import compare, open_run_reader
from lightning_modules.comparison.result import CompareRequest
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import SignalReceived
from lightning_modules.export.export import export_run
from lightning_modules.run.run import run
from lightning_modules.run.serve import load_module
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import open_store

QUIET = (
    "tracking.system_metrics_s=null", "tracking.pictures=false", "~callbacks.progress", "~callbacks.summary",
)  # fmt: skip
POINTS = (
    "data=gaussian_grid", "data.layout=ring", "data.std=0.2", "data.num_samples=400", "data.batch_size=50", "model=mlp_gan",
    "model.generator=[8]", "model.discriminator=[8]", "model.norm=spectral", "model.init_std=0.5", "task=gan", "task.ema=0.9",
    "task.critic_steps=2", "task.loss=wasserstein_gp", "task.discriminator_optimizer={lr: 2e-3}", "optimizer=adam",
    "task.monitor.metric=val/high_quality", "callbacks=[default,sample_pictures]", "callbacks.last.every_s=0",
    "trainer.max_epochs=3", "trainer.log_every_n_steps=1", *QUIET,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("gan") / "store"
    shutil.copytree(empty_database.parent, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}/mlflow.db")
        patch.setenv("TOUCHSTONE_TRUST", "kill_once_callbacks")
        yield open_store()


def train(*words: str) -> Any:
    run(compose_run(list(words)))
    return newest_run(open_store())


@pytest.fixture(scope="module")
def trained(store: Any) -> Any:
    return train(*POINTS, "name=whole")


def history(recorded: Any, metric: str) -> list[tuple[int, float]]:
    return [(p.step, p.value) for p in open_store().client.get_metric_history(recorded.info.run_id, metric)]


@pytest.mark.slow
def test_both_networks_are_trained_measured_and_drawn(trained: Any) -> None:
    assert {"val/modes", "val/high_quality", "test/modes", "test/high_quality"} <= set(trained.data.metrics)
    batches = [step for step, _ in history(trained, "train/discriminator_loss")]
    assert batches == list(range(24))  # 360 samples in 8 batches
    assert [step for step, _ in history(trained, "train/generator_loss")] == batches[1::2]
    assert sorted(file.name for file in (artifacts(trained) / "samples").iterdir()) == [
        f"epoch_{epoch:04}.png" for epoch in (1, 2, 3)
    ]
    checkpoint = read_checkpoint(artifacts(trained) / "checkpoints" / "last.ckpt")
    rates = [state["param_groups"][0]["lr"] for state in checkpoint["optimizer_states"]]
    assert rates == [1e-3, 2e-3]
    state = checkpoint["state_dict"]
    key = "ema.module.0.weight"
    assert int(state["ema.n_averaged"]) == 12 and not torch.equal(state[key], state["model.generator.0.weight"])
    values = [value for _, value in history(trained, "val/high_quality")]
    assert len(set(values)) > 1
    best = read_checkpoint(best_checkpoint(open_store(), trained))
    assert best["epoch"] == int(np.argmax(values)) and len(values) == 3


@pytest.mark.slow
def test_a_run_that_is_killed_within_an_epoch_resumes_bit_equal(trained: Any, tmp_path: Path, capsys: Any) -> None:
    stop = "+callbacks.stop={_target_: kill_once_callbacks.StopOnce, batch: 3, mark: '%s'}" % (tmp_path / "mark")
    with pytest.raises(SignalReceived):
        train(*POINTS, stop, "name=killed")
    killed = newest_run(open_store())
    train("resume=killed")
    assert "exact resume: off" not in capsys.readouterr().out
    for metric in ("train/discriminator_loss", "train/generator_loss", "val/high_quality", "test/high_quality"):
        assert history(killed, metric) == history(trained, metric)
    ours, theirs = (read_checkpoint(artifacts(r) / "checkpoints" / "last.ckpt") for r in (killed, trained))
    assert all(torch.equal(ours["state_dict"][key], value) for key, value in theirs["state_dict"].items())
    pictures = [(artifacts(r) / "samples" / "epoch_0003.png").read_bytes() for r in (killed, trained)]
    assert pictures[0] == pictures[1]


@pytest.mark.slow
def test_two_ranks_end_with_equal_weights(store: Any, tmp_path: Path) -> None:
    save = f"+callbacks.weights={{_target_: kill_once_callbacks.SaveWeights, folder: '{tmp_path}'}}"
    ranks = ("strategy=ddp", "trainer.devices=2", "strategy.start_method=fork", "strategy.find_unused_parameters=true")
    recorded = train(*POINTS, *ranks, save, "trainer.max_epochs=1", "name=ranks")
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert len(history(recorded, "train/discriminator_loss")) == 4  # 360 samples in 4 batches of each rank


@pytest.mark.slow
def test_rates_are_swept_and_compared(store: Any) -> None:
    assert len(multirun([*POINTS, "trainer.max_epochs=1", "optimizer.lr=1e-3,1e-2", "sweep.name=rates"])) == 2
    assert len(compare(open_run_reader(), CompareRequest(["rates"])).rows) == 2


@pytest.mark.slow
def test_the_averaged_generator_is_exported_and_predicts(trained: Any, tmp_path: Path) -> None:
    exported, _ = export_run(open_store(), trained, "onnx", False, tmp_path)
    session = onnxruntime.InferenceSession(exported.path)
    latents = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    (points,) = session.run(None, {session.get_inputs()[0].name: latents})
    task = load_module(best_checkpoint(open_store(), trained))
    with torch.no_grad():
        np.testing.assert_allclose(points, task(torch.from_numpy(latents)).numpy(), rtol=1e-4, atol=1e-5)
    np.save(tmp_path / "latents.npy", latents)
    found = predict.main(["whole", f"input={tmp_path}/latents.npy"])
    assert found["samples"] == 7


@pytest.mark.slow
def test_images_are_measured_in_the_features_of_a_classifiers_run(store: Any) -> None:
    train("data=digits", "model=mlp", "trainer.max_epochs=1", "name=classifier", *QUIET)
    words = ("data=digits", "model=dcgan", "model.width=4", "task=gan", "task.features=classifier", "optimizer=adam")
    recorded = train(*words, "task.num_samples=50", "task.monitor.metric=val/fid", "trainer.max_epochs=2",
                     "callbacks=[default,sample_pictures]", "callbacks.sample_pictures.every_n_epochs=5", *QUIET)  # fmt: skip
    values = [value for _, value in history(recorded, "val/fid")]
    best = read_checkpoint(best_checkpoint(open_store(), recorded))
    assert best["epoch"] == int(np.argmin(values)) and not any("classifier" in key for key in best["state_dict"])
    assert {"test/fid", "test/precision", "test/recall"} <= set(recorded.data.metrics)
    assert [file.name for file in (artifacts(recorded) / "samples").iterdir()] == ["epoch_0002.png"]
    with pytest.raises(UserError, match=r"task.features=whole: it is no classifier of images \[1, 8, 8\]"):
        train(*words, "task.features=whole", *QUIET)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    with pytest.raises(UserError, match=r"The loss is nan at step \d+ \(lr=1e\+30\)"):
        train(*POINTS, "optimizer.lr=1e30", "trainer.max_epochs=9")
