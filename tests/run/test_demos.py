"""Systems of many kinds are trained, killed and resumed, swept, compared, run again and trained on two ranks, unmodified."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from command_process import run_forked
from multirun import multirun
from optional_package import require_package

from lightning_modules.comparison.compare import compare, open_run_reader
from lightning_modules.comparison.result import CompareRequest
from lightning_modules.compression.artifact import load_compressed
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import SignalReceived
from lightning_modules.export.export import export_run
from lightning_modules.run.run import run as run_config
from lightning_modules.run.serve import model_weights
from lightning_modules.tracking import rerun as rerun_module
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.tags import COMPRESSED_MODEL_TAG

ROOT = Path(__file__).resolve().parents[2]
QUIET = (
    "tracking.system_metrics_s=null",
    "tracking.pictures=false",
    "callbacks.progress=null",
    "callbacks.summary=null",
)
BORING = "pytorch_lightning.demos.boring_classes."
STOP = ("+callbacks.stop._target_=kill_once_callbacks.StopOnce", "callbacks.last.every_s=0")


@dataclass(frozen=True)
class System:
    """A task and its data; `metric`: what it logs and is selected by, if anything; `swept`: a setting with two values."""

    task: str
    data: str
    settings: tuple[str, ...] = ()
    swept: str = "+task.width=8,12"
    metric: str | None = "val_loss"
    ranks: tuple[str, ...] = ()

    def words(self, *overrides: str) -> list[str]:
        targets = [f"task._target_={_path(self.task)}", f"data._target_={_path(self.data)}"]
        monitor = [f"task.monitor={{metric: {self.metric}, mode: min}}"] if self.metric else []
        chosen = ["task=lightning_module", "data=lightning_datamodule", *targets, *monitor]
        return [*chosen, *QUIET, "trainer.max_epochs=2", *self.settings, *overrides]


def _path(name: str) -> str:
    return name if "." in name else f"demo_modules.{name}"


SYSTEMS = {
    "boring": System(f"{BORING}BoringModel", f"{BORING}BoringDataModule", swept="seed=0,1", metric=None),
    "png": System("png_classifier.module.Classifier", "png_classifier.data.PngFolder", metric="val/loss"),
    "stream": System("user_modules.Classifier", "user_modules.Stream"),
    "memmap": System("RowModel", "Memmap"),
    "dcgan": System("DCGAN", "Discs", metric="generator_loss", ranks=("strategy.find_unused_parameters=true",)),
    "transformer": System("Translator", "Reversal"),
    "detector": System("Detector", "Boxes", metric="val_boxes"),
    "unet": System("Segmenter", "Discs"),
    "simclr": System("SimCLR", "Views"),
    "heads": System("TwoHeads", "Pairs"),
    "bert": System("Bert", "Sentences"),
    "lightly": System(
        "lightly.utils.benchmarking.linear_classifier.FinetuneClassifier",
        "Labelled",
        ("+task.model={_target_: demo_modules.Features}", "+task.feature_dim=16", "+task.num_classes=4",
         "+task.batch_size_per_device=8", "+task.topk=[1,2]"),
        "+task.model.width=8,12",
    ),
    "torch_uncertainty": System(
        "torch_uncertainty.routines.ClassificationRoutine",
        "Labelled",
        ("+task.model={_target_: demo_modules.Features, outputs: 4}", "+task.num_classes=4",
         "+task.loss._target_=torch.nn.CrossEntropyLoss",
         "+task.optim_recipe={_target_: torch_uncertainty.optim_recipes.optim_cifar10_resnet18, _partial_: true}"),
        "+task.model.width=8,12",
        "val/cls/NLL",
    ),
}  # fmt: skip
SWEPT = ("boring", "png", "stream", "dcgan", "bert", "torch_uncertainty")  # the others differ in what no sweep looks at
OPTIONAL = {"bert": "transformers", "lightly": "lightly", "torch_uncertainty": "torch_uncertainty"}


@pytest.fixture
def system(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """The system, with its data; what is not installed here fails in CI, which installs all."""
    name = request.param
    require_package(OPTIONAL.get(name, "torch"))
    monkeypatch.setattr(sys, "path", ["", *sys.path, str(ROOT / "examples")])  # a script replaces the first
    trusted = ("demo_modules", "kill_once_callbacks", "user_modules", "png_classifier", "lightly", "torch_uncertainty")
    monkeypatch.setenv("TOUCHSTONE_TRUST", ",".join(trusted))
    found = SYSTEMS[name]
    places = {"png": f"+data.folder='{tmp_path}/photos'", "memmap": f"+data.file='{tmp_path}/rows.dat'"}
    if name == "png":
        write_photos(tmp_path / "photos")
    return replace(found, settings=(*found.settings, *filter(None, [places.get(name)])))


def write_photos(folder: Path) -> None:
    from PIL import Image

    draw = np.random.default_rng(0)
    for name, brightest in (("dark", 120), ("light", 255)):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = draw.integers(brightest, size=(20, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def last_state(store: Any, run: Any) -> dict[str, torch.Tensor]:
    return torch.load(artifact_path(store, run, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS, indirect=True)
def test_a_system_is_killed_resumed_rerun_and_trained_on_two_ranks(
    system: System,
    store: Any,
    train: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = train(*system.words(), quick=False)
    stop = (*STOP, f"+callbacks.stop.mark='{tmp_path}/mark'", "name=killed")
    with pytest.raises(SignalReceived):
        train(*system.words(*stop), quick=False)
    (killed,) = store.search_runs("attributes.run_name = 'killed'")
    assert killed.info.status == "KILLED"
    train("resume=killed", quick=False)
    assert store.client.get_run(killed.info.run_id).info.status == "FINISHED"
    expected, found = last_state(store, whole), last_state(store, killed)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    if system.metric:
        assert len(store.client.get_metric_history(killed.info.run_id, system.metric)) == 2
    both = train(*system.words("strategy=ddp", "trainer.devices=2", *system.ranks), quick=False)
    assert (both.info.status, both.data.metrics["comm/world_size"]) == ("FINISHED", 2)
    rerun_forked(whole.info.run_id, tmp_path, monkeypatch)
    assert "all metrics are equal" in capsys.readouterr().out


def rerun_forked(run_id: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it again in a process that is forked from one with the imports done."""
    start = subprocess.run

    def run(words: list[str], **options: Any) -> Any:
        if words[:3] != [sys.executable, "-m", "lightning_modules.recorded"]:
            return start(words, **options)
        done = run_forked([str(ROOT / "lightning_modules" / "recorded.py"), *words[3:]], options["cwd"], options["env"])
        print(done.stdout, done.stderr)
        return done

    monkeypatch.setattr(rerun_module.subprocess, "run", run)
    rerun_module.rerun(run_id, here=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "system",
    [name if name in SWEPT else pytest.param(name, marks=pytest.mark.long) for name in SYSTEMS],
    indirect=True,
)
def test_a_sweep_over_a_system_is_compared(system: System, store: Any) -> None:
    assert len(multirun(system.words(system.swept, "sweep.name=two", "trainer.max_epochs=1"))) == 2
    request = CompareRequest(["two"])
    if system.metric is None:  # it logs nothing
        with pytest.raises(UserError, match="choose another with metric="):
            compare(open_run_reader(), request)
        return
    assert len(compare(open_run_reader(), request).rows) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "system, network, metric",
    [("png", "layers", "test/acc"), ("unet", "model", "test_loss")],
    indirect=["system"],
    ids=["png", "unet"],
)
def test_a_system_is_compressed_and_exported(
    system: System, network: str, metric: str, store: Any, train: Callable[..., Any], tmp_path: Path
) -> None:
    stages = ("compression=magnitude", "compression.stages.prune.epochs=1", "compression.runtimes=[]")
    run = train(*system.words(*stages, f"compression.module={network}"), quick=False)
    assert f"dense/{metric}" in run.data.metrics and f"compressed/{metric}" in run.data.metrics
    file = model_weights(store, f"models:/{run.data.tags[COMPRESSED_MODEL_TAG]}")
    task = load_compressed(file)
    weights = torch.cat([w.flatten() for w in task.get_submodule(network).parameters() if w.ndim > 1])
    assert float((weights == 0).float().mean()) == pytest.approx(0.9, abs=0.01)
    exported, x = export_run(store, run, "onnx", False, tmp_path)
    session = onnxruntime.InferenceSession(exported.path)
    (outputs,) = session.run(None, {session.get_inputs()[0].name: x})
    assert np.allclose(outputs, task(torch.from_numpy(x)).detach().numpy(), atol=1e-4)


def test_the_network_of_the_task_itself_replaces_that_of_the_group() -> None:
    own = "+task.model={_target_: demo_modules.Features}"
    cfg = compose_run(System("Wrapper", "Pairs").words(own))
    assert cfg.model is None and "model" not in cfg.choices
    assert cfg.name == "Pairs-Wrapper"
    assert cfg.optimizer is not None
    with pytest.raises(UserError, match=r"model=mlp: task\.model is set, too"):
        compose_run(System("Wrapper", "Pairs").words(own, "model=mlp"))


def test_any_batch_is_counted_by_its_first_tensor() -> None:
    from lightning_modules.strategy.comm_stats import num_samples

    x = torch.zeros(5, 2)
    batches = [x, (x, x), [x], {"a": "text", "b": {"c": x}}, ([x, x], [{}]), ["text"], torch.tensor(1.0)]
    assert [num_samples(batch) for batch in batches] == [5, 5, 5, 5, 5, 1, 1]


def test_a_metric_that_is_never_logged_ends_the_run_after_the_first_validation(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "demo_modules")
    with pytest.raises(UserError, match=r"task\.monitor\.metric=val_losss: not logged; did you mean 'val_loss'"):
        run_config(compose_run(SYSTEMS["heads"].words("task.monitor={metric: val_losss, mode: min}")))
