"""Systems that are no classifiers are trained, resumed bit for bit, trained on two ranks, and swept, unmodified."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.config.command_line import compose_run
from lightning_modules.run.run import run as run_config
from lightning_modules.tracking.artifacts import artifact_path

SYSTEMS = {"Translator": "Reversal", "Detector": "Boxes", "TwoHeads": "Pairs"}
QUIET = (
    "tracking.system_metrics_s=null",
    "tracking.pictures=false",
    "callbacks.progress=null",
    "callbacks.summary=null",
)


def words(task: str, *overrides: str) -> list[str]:
    groups = ["task=lightning_module", "data=lightning_datamodule"]
    targets = [f"task._target_=demo_modules.{task}", f"data._target_=demo_modules.{SYSTEMS[task]}"]
    return [*groups, *targets, *QUIET, "trainer.max_epochs=2", *overrides]


@pytest.mark.slow
@pytest.mark.parametrize("task", SYSTEMS)
def test_a_system_is_trained_resumed_and_run_on_two_ranks(
    task: str, store: Any, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "demo_modules")
    whole = train(*words(task), quick=False)
    train(*words(task, "trainer.max_epochs=1", "name=half"), quick=False)
    train("resume=half", "trainer.max_epochs=2", quick=False)
    half = next(iter(store.search_runs("attributes.run_name = 'half'")))
    states = [
        torch.load(artifact_path(store, run, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]
        for run in (whole, half)
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    both = train(*words(task, "strategy=ddp", "trainer.devices=2"), quick=False)
    assert (both.info.status, both.data.metrics["comm/world_size"]) == ("FINISHED", 2)


@pytest.mark.slow
def test_a_sweep_over_a_module_is_compared(
    command: Callable[..., Any], store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import demo_modules

    folders = [str(Path(str(demo_modules.__file__)).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"TOUCHSTONE_TRUST": "demo_modules", "PYTHONPATH": os.pathsep.join(folders)}
    monitor = "task.monitor={metric: val_loss, mode: min}"
    grid = words("Translator", "+task.width=8,16", "seed=0,1", "sweep=widths", "trainer.max_epochs=1", monitor)
    swept = command("train.py", "-m", *grid, **environment)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    compared = command("compare.py", "widths", **environment)
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert "task.width" in compared.stdout


def test_any_batch_is_counted_by_its_first_tensor() -> None:
    from lightning_modules.strategy.comm_stats import num_samples

    x = torch.zeros(5, 2)
    batches = [x, (x, x), [x], {"a": "text", "b": {"c": x}}, ([x, x], [{}]), ["text"], torch.tensor(1.0)]
    assert [num_samples(batch) for batch in batches] == [5, 5, 5, 5, 5, 1, 1]


def test_a_metric_that_is_never_logged_ends_the_run_after_the_first_validation(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    monkeypatch.setenv("TOUCHSTONE_TRUST", "demo_modules")
    with pytest.raises(MisconfigurationException, match="val_losss"):
        run_config(compose_run(words("TwoHeads", "task.monitor={metric: val_losss, mode: min}")))
