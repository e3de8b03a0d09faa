"""A sweep in this process, its runs in processes of their own, recorded in the store of the test."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from interrupted import CALLBACKS, Command

QUICK = (
    "trainer.max_epochs=2",
    "data.per_class=10",
    "model=linear",
    "tracking.system_metrics_s=null",
    "tracking.pictures=false",
    "~callbacks.summary",
)


def multirun(words: list[str]) -> list[Any]:
    """What ``touchstone train -m WORDS`` does, in this process; returns the children."""
    from hydra import initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    from lightning_modules.config.project import PROJECT_ROOT
    from lightning_modules.sweep.hydra_plugin import register

    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", words, run_mode=RunMode.MULTIRUN)
        HydraConfig.instance().set_config(config)
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=print, config=config)
        return sweeper.sweep(list(config.hydra.overrides.task))


@pytest.fixture
def sweep(store: Any, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a sweep; gives `children` (of its run in the store), `parent`, `code` and what it `said`."""

    def launch(*words: str, quick: bool = True) -> Any:
        from lightning_modules.sweep.trial_results import read_trial_results

        code = 0
        try:
            multirun([*(QUICK if quick else ()), *words])
        except SystemExit as left:
            code = int(left.code or 0)
        said = capfd.readouterr()
        parent = newest_sweep(store)
        children = read_trial_results(store, parent.info.run_id) if parent else []
        return SimpleNamespace(children=children, parent=parent, code=code, said=said.out + said.err)

    return launch


def newest_sweep(store: Any) -> Any:
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    found = store.client.search_runs(
        experiments, "tags.`touchstone.kind` = 'sweep'", order_by=["attributes.start_time DESC"], max_results=1
    )
    return found[0] if found else None


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the gate and the marks; the callbacks can be imported here and in processes started from here."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "sweep_faults_callbacks.py").write_text(CALLBACKS)
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("TOUCHSTONE_TRUST", "sweep_faults_callbacks")
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


@pytest.fixture
def launch(store: Any, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*words: str) -> Command:
        started.append(Command(tmp_path, words))
        return started[-1]

    yield start
    for command in started:
        for process in command.left():
            process.kill()
        command.process.wait(10)
