"""A config or checkpoint that was read from a store or a file builds components, and calls nothing else."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

import lightning_modules
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.trust import (
    LIBRARIES,
    is_component,
    refuse_untrusted,
    refuse_untrusted_overrides,
)  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
REVIEWED = Path(__file__).with_name("components.txt")
RAN = "ran"


def payload(folder: Path) -> dict[str, Any]:
    """Would create the file `ran` in the folder, through a function of this package."""
    arguments = ["-c", f"alias.x=!touch {folder / RAN}", "x"]
    return {"_target_": "lightning_modules.tracking.rerun._git", "_args_": arguments}


def members(owner: Any) -> Iterator[Any]:
    yield from (getattr(owner, name, value) for name, value in list(vars(owner).items()))


def callables_of_the_package() -> list[Any]:
    """Every callable that a dotted path through a module of the package leads to, those of classes included."""
    found: dict[int, Any] = {}
    for module in pkgutil.walk_packages(lightning_modules.__path__, "lightning_modules."):
        for value in members(importlib.import_module(module.name)):
            found[id(value)] = value
            if inspect.isclass(value):
                found.update({id(inner): inner for inner in members(value)})
    return [value for value in found.values() if callable(value)]


@pytest.mark.slow
def test_every_callable_that_is_admitted_has_been_reviewed() -> None:
    """To add a name to the list: building it from a hostile config must not run code, and read no file unchecked."""
    found = callables_of_the_package()
    assert len(found) > 4000
    admitted = {f"{value.__module__}.{value.__qualname__}" for value in found if is_component(value)}
    libraries = {name for name in admitted if name.startswith(LIBRARIES)}
    assert "torch.optim.optimizer.Optimizer" in libraries
    assert admitted - libraries == set(REVIEWED.read_text().split())


def targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from targets(item)


def test_every_target_of_the_shipped_configs_is_admitted() -> None:
    files = [*ROOT.glob("conf/**/*.yaml"), *ROOT.glob("experiments/**/*.yaml")]
    configs = [yaml.safe_load(path.read_text()) for path in files if "hydra" not in path.relative_to(ROOT).parts]
    shipped = sorted({target for config in configs for target in targets(config)})
    assert len(shipped) > 140
    refuse_untrusted(OmegaConf.create([{"_target_": target} for target in shipped]), "conf")


def test_every_preprocessing_that_a_checkpoint_carries_is_admitted() -> None:
    from lightning_modules.data.preprocess import Standardize, preprocess_spec
    from lightning_modules.zoo.data.log_mel import LogMel
    from lightning_modules.zoo.data.vocabulary import Vocabulary

    modules = (Standardize([0.0], [1.0]), LogMel(8000, 256, 128, 8), Vocabulary(["a"], [1]), torch.nn.Identity())
    refuse_untrusted(OmegaConf.create([preprocess_spec(module) for module in modules]), "passport")


NO_COMPONENTS = (
    "os.system", "builtins.eval", "subprocess.Popen", "torch.hub.load", "torch.load", "torch.fx.GraphModule",
    "torch.jit.ScriptModule", "torch.utils.cpp_extension.load", "torch.nn.functional.relu", "torch.nn.init.constant_",
    "torch.nn.modules.module.warnings.warn", "torchvision.models.resnet18", "torchvision.datasets.MNIST",
    "torchmetrics.functional.accuracy", "pytorch_lightning.cli.LightningCLI", "hydra.utils.call",
    "pytorch_lightning.LightningModule.load_from_checkpoint", "pytorch_lightning.serve.ServableModuleValidator",
    "lightning_modules.tracking.rerun._git", "lightning_modules.tracking.rerun.subprocess.run",
    "lightning_modules.zoo.data.image_datasets.Path", "lightning_modules.run.build.os.system", "lightning_modules.run.run.run",
    "lightning_modules.optimizer.lr_schedules._cosine_factor", "lightning_modules.config.trust.component",
    "lightning_modules.data.preprocess.Standardize.fit", "lightning_modules.sweep.sweep_callback.SweepCallback",
    "lightning_modules.zoo.model.pretrained.read_state_dict",
)  # fmt: skip


@pytest.mark.parametrize("target", NO_COMPONENTS)
@pytest.mark.parametrize("place", ["node", "nested", "args", "partial", "list"])
def test_what_is_no_component_is_refused_wherever_it_stands(target: str, place: str) -> None:
    linear = "torch.nn.Linear"
    config = {
        "node": {"model": {"_target_": target}},
        "nested": {"model": {"_target_": linear, "_recursive_": False, "a": {"b": {"_target_": target}}}},
        "args": {"model": {"_target_": linear, "_args_": [1, {"_target_": target}]}},
        "partial": {"model": {"_target_": target, "_partial_": True}},
        "list": {"model": [[{"_target_": target}]]},
    }[place]
    with pytest.raises(
        UserError, match=rf"config\.yaml: model.*_target_={target} is not called: it is not a component"
    ):
        refuse_untrusted(OmegaConf.create(config), "config.yaml")


def test_a_trusted_package_may_have_functions_but_lends_its_name_to_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_trusted_lab.py").write_text("import os\nfrom torch import nn\ndef rates(x):\n    return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def refuse(target: str) -> None:
        refuse_untrusted(OmegaConf.create({"x": {"_target_": target}}), "config.yaml")

    with pytest.raises(UserError, match="TOUCHSTONE_TRUST=mypackage"):
        refuse("my_trusted_lab.rates")
    monkeypatch.setenv("TOUCHSTONE_TRUST", "another, my_trusted_lab")
    refuse("my_trusted_lab.rates")
    refuse("my_trusted_lab.nn.Linear")
    with pytest.raises(UserError, match=r"my_trusted_lab\.os\.system is not called"):
        refuse("my_trusted_lab.os.system")
    with pytest.raises(UserError, match=r"x\._target_=my_trusted_lab\.rate: .* did you mean 'rates'"):
        refuse("my_trusted_lab.rate")


def test_nothing_of_a_recorded_config_is_resolved() -> None:
    config = {"tracking": {"uri": "${oc.env:HOME}"}, "list": ["${.x}"]}
    with pytest.raises(UserError, match=r"run 1: tracking\.uri=\$\{oc\.env:HOME\} is an interpolation"):
        refuse_untrusted(OmegaConf.create(config), "run 1")
    with pytest.raises(UserError, match=r"run 1: list\[0\]="):
        refuse_untrusted(OmegaConf.create({"list": ["${.x}"]}), "run 1")
    refuse_untrusted_overrides(["name='a-${seed}'", "optimizer.lr=1e-3,1e-2"], "sweep 1")
    with pytest.raises(UserError, match=r"sweep 1: the recorded override name=.* calls a resolver"):
        refuse_untrusted_overrides(["name=${oc.env:HOME}"], "sweep 1")


@pytest.fixture
def hostile(train: Callable[..., Any], store: Any, tmp_path: Path) -> Any:
    """A finished run whose config and whose checkpoints then were changed to hold the payload."""
    from lightning_modules.compression.artifact import save_compressed
    from lightning_modules.compression.compressed_state import CompressedState
    from lightning_modules.run.serve import load_task
    from lightning_modules.tracking.artifacts import artifact_path
    from lightning_modules.tracking.resume import best_checkpoint

    run = train("trainer.max_epochs=1", "model=linear")
    path = artifact_path(store, run, "config/config.yaml")
    config = OmegaConf.load(path)
    config.callbacks.more = payload(tmp_path)
    OmegaConf.save(config, path)
    weights = best_checkpoint(store, run)
    task = load_task(weights)
    task_spec = {**task.task_spec, "preprocess": payload(tmp_path)}
    save_compressed(weights.parent / "model.compressed.safetensors", task.model, CompressedState(), task_spec)
    torch.save({"state_dict": task.state_dict(), "passport": task_spec, "epoch": 0, "global_step": 1}, weights)
    return run


def test_no_entry_point_runs_what_a_recorded_run_names(
    hostile: Any, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from lightning_modules import load
    from lightning_modules.export.source import load_recorded_data, load_source
    from lightning_modules.recorded import main as run_recorded
    from lightning_modules.run.predict import find_model
    from lightning_modules.run.run import run
    from lightning_modules.run.serve import load_task
    from lightning_modules.tracking.artifacts import artifact_path
    from lightning_modules.tracking.rerun import rerun
    from lightning_modules.tracking.resume import best_checkpoint

    run_id = hostile.info.run_id
    weights = best_checkpoint(store, hostile)
    monkeypatch.setattr("sys.argv", ["recorded", str(artifact_path(store, hostile, "config/config.yaml"))])
    of_config, of_weights = (
        r"callbacks\.more\._target_=.*_git is not called",
        r"preprocess\._target_=.*_git is not called",
    )
    entries: dict[str, tuple[Callable[[], Any], str]] = {
        "predict": (lambda: find_model(store, run_id), of_config),
        "pyfunc": (lambda: mlflow.pyfunc.load_model(str(weights.parent)), of_weights),
        "compressed": (lambda: load_task(weights.with_name("model.compressed.safetensors")), of_weights),
        "serve": (lambda: load_task(weights), of_weights),
        "resume": (lambda: run(compose_run([f"resume={run_id}", "trainer.max_epochs=2"])), of_config),
        "rerun": (lambda: rerun(run_id), of_config),
        "rerun here": (lambda: rerun(run_id, here=True), of_config),
        "recorded": (run_recorded, of_config),
        "load": (lambda: load(run_id), of_weights),
        "export": (lambda: load_source(store, hostile), of_weights),
        "export's data": (lambda: load_recorded_data(store, hostile), of_config),
        "teacher": (lambda: distil(run_id), of_weights),
    }
    for name, (entry, message) in entries.items():
        with pytest.raises(UserError, match=message):
            entry()
        assert not (tmp_path / RAN).exists(), name
    assert store.client.get_run(run_id).info.status == "FINISHED"


def distil(run_id: str) -> None:
    from lightning_modules.compression.distillation.teacher import load_teacher

    load_teacher(f"runs:/{run_id}", None, [1, 8, 8], 10)


def test_the_payload_works_where_nothing_refuses_it(tmp_path: Path) -> None:
    from hydra.utils import instantiate

    instantiate(payload(tmp_path))
    assert (tmp_path / RAN).exists()


def test_a_trial_of_a_recorded_sweep_may_name_components_only(tmp_path: Path) -> None:
    from lightning_modules.sweep.trial_job import check_configs

    node = payload(tmp_path)
    listed = ",".join(f"'{word}'" for word in node["_args_"])
    words = ["model=linear", f"+callbacks.more={{_target_:{node['_target_']},_args_:[{listed}]}}"]
    [mistake] = check_configs([words], trusted=False)
    assert "callbacks.more._target_=lightning_modules.tracking.rerun._git is not called" in mistake
    assert not (tmp_path / RAN).exists()
