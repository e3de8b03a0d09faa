"""Services for any task and datamodule: augmentation by config, our tasks on other data, and what is rejected at the start."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import service_modules
import torch
from hydra.utils import instantiate
from service_modules import SEEN, Samples

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.quality.commands import COMMANDS, compose_quality
from lightning_modules.run.run import run
from lightning_modules.task.rng import derive_seed
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.run_cache import CachedRun

RECORD = ("tracking.system_metrics_s=null", "tracking.pictures=false")
QUIET = (
    "callbacks.progress=null",
    "callbacks.summary=null",
    "trainer.max_epochs=2",
)
CROP = "augmentation=image_basic"


@pytest.fixture(autouse=True)
def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "service_modules,user_modules")
    for batches in SEEN.values():
        batches.clear()


def words(task: str = "ImageTask", data: str = "Images", *overrides: str) -> list[str]:
    groups = ["task=lightning_module", f"task._target_=service_modules.{task}"] if task else ["model=linear"]
    return [*groups, "data=lightning_datamodule", f"data._target_=service_modules.{data}", *QUIET, *overrides]


def augmented_by_hand(scale: float = 1.0) -> list[torch.Tensor]:
    """The training batches of two epochs in the order of the file, augmented with the random numbers of their steps."""
    augmentation = instantiate(compose_run([CROP]).augmentation)
    batches = [{"x": part * scale, "y": part} for part in Samples(43, 0, "tuple").x.split(8)] * 2
    seeds = [torch.Generator().manual_seed(derive_seed(0, step, 0)) for step in range(len(batches))]
    return [augmentation(batch, seed)["x"] for batch, seed in zip(batches, seeds, strict=True)]


@pytest.mark.parametrize(
    ("form", "data", "kind", "scale"),
    [
        ("tuple", "Images", list, 1.0),  # as torch collates tuples
        pytest.param("named", "Images", service_modules.Pair, 1.0, marks=pytest.mark.slow),
        ("dict", "Images", dict, 1.0),
        ("tuple", "HalvedImages", list, 0.5),
    ],
)
def test_training_batches_are_augmented_after_the_own_hook(form: str, data: str, kind: type, scale: float) -> None:
    run(compose_run(words("ImageTask", data, "tracking=none", "+task.keep=true", f"+data.form={form}", CROP)))
    expected = augmented_by_hand(scale)
    assert len(SEEN["train"]) == len(expected)
    for batch, x in zip(SEEN["train"], expected, strict=True):
        assert isinstance(batch, kind)
        assert torch.equal(batch["x"] if kind is dict else batch[0], x)
    held_out = torch.cat([batch["x"] if kind is dict else batch[0] for batch in SEEN["val"]])
    plain = [Samples(21, 1, form).x] * 2 + [Samples(31, 2, form).x]
    assert torch.equal(held_out, torch.cat(plain))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((CROP, "+data.form=three"), r"need batches \(x, y\) or \{x, y\} .* got \['Tensor \[8, 1, 8, 8\]', 'Tensor"),
        ((CROP, "+data.form=boxes"), r"got \{'image': 'Tensor \[8, 1, 8, 8\]'\}"),
        (("augmentation=text_sentences",), r"'Images' object has no attribute '\w+', which a transform reads"),
        (("augmentation=series_basic",), r"TimeSeriesJitter needs series of floats"),
        (
            ("augmentation=image_mixup",),
            r"augmentation=image_mixup: it mixes or adds targets, which only tasks derived",
        ),
        (("augmentation=image_cutmix",), r"it mixes or adds targets"),
        (
            ("augmentation=image_color", "+data.form=signed"),
            r"ColorJitter needs images of floats in 0\.\.1, but .* values in -0\.499",
        ),
        ((CROP, "+data.form=mask"), r"image_basic: targets \[4, 8, 8\] would not be changed with their inputs"),
        (("tta=flip",), r"tta=flip: only for tasks derived from Supervised; use tta=none"),
        ((CROP, "task._target_=service_modules.OwnIterator"), r"takes batches from dataloader_iter itself"),
    ],
)
def test_what_cannot_be_augmented_is_rejected_before_the_run(
    overrides: tuple[str, ...], message: str, store: Any
) -> None:
    with pytest.raises(UserError, match=message):
        run(compose_run(words("ImageTask", "Images", *overrides)))
    assert not store.client.search_runs([e.experiment_id for e in store.client.search_experiments()])


def state_of(store: Any, recorded: Any) -> dict[str, Any]:
    return torch.load(artifact_path(store, recorded, "checkpoints/last.ckpt"), weights_only=True)


def test_our_task_trains_on_any_datamodule(train: Callable[..., Any], store: Any, capsys: Any) -> None:
    recorded = train(*words("", "Images", *RECORD, CROP, "callbacks=last", "+data.shuffle=true"), quick=False)
    assert recorded.info.status == "FINISHED"
    assert "fast loop: only for tasks derived from Supervised, with our datamodules" in capsys.readouterr().out
    served = mlflow.pyfunc.load_model(f"models:/{recorded.data.tags['touchstone.model_id']}")
    test = Samples(31, 2, "tuple")
    scores = torch.from_numpy(served.predict(test.x.numpy()))
    assert recorded.data.metrics["test/accuracy"] == pytest.approx(float((scores.argmax(1) == test.y).float().mean()))
    assert recorded.data.metrics["train/accuracy"] > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("task", ["", "ImageTask"])
def test_an_augmented_run_on_other_data_resumes_bit_for_bit(train: Callable[..., Any], store: Any, task: str) -> None:
    settings = words(task, "Images", *RECORD, CROP, "+data.shuffle=true")
    whole = train(*settings, quick=False)
    train(*settings, "trainer.max_epochs=1", "name=half", quick=False)
    train("resume=half", "trainer.max_epochs=2", quick=False)
    half = next(iter(store.search_runs("attributes.run_name = 'half'")))
    for name, value in state_of(store, whole)["state_dict"].items():
        assert torch.equal(value, state_of(store, half)["state_dict"][name]), name


@pytest.mark.slow
def test_our_task_on_other_data_evaluates_each_sample_once_on_two_ranks(train: Callable[..., Any], store: Any) -> None:
    settings = words("", "Images", *RECORD, CROP, "callbacks=last", "+data.shuffle=true")
    recorded = train(*settings, "strategy=ddp", "trainer.devices=2", quick=False)
    weights = state_of(store, recorded)["state_dict"]
    net = torch.nn.Linear(64, 3)
    net.load_state_dict({key.rpartition(".")[2]: value for key, value in weights.items() if key.startswith("model.")})
    for part, samples in (("val", Samples(21, 1, "tuple")), ("test", Samples(31, 2, "tuple"))):
        outputs = net(samples.x.flatten(1)).detach()
        assert recorded.data.metrics[f"{part}/accuracy"] == pytest.approx(
            float((outputs.argmax(1) == samples.y).float().mean())
        )
        loss = torch.nn.functional.cross_entropy(outputs, samples.y)
        assert recorded.data.metrics[f"{part}/loss"] == pytest.approx(float(loss), abs=1e-6)


@pytest.mark.slow
def test_augmentation_of_two_ranks_is_repeated_by_the_same_run(train: Callable[..., Any], store: Any) -> None:
    settings = words("ImageTask", "Images", *RECORD, CROP, "strategy=ddp", "trainer.devices=2", "+data.shuffle=true")
    first, second = (state_of(store, train(*settings, quick=False))["state_dict"] for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("data", "overrides", "message"),
    [
        ("NamelessImages", (), r"NamelessImages\.input_shape is None, its samples have \[1, 8, 8\]; set it"),
        (
            "NamelessImages",
            ("model.input_shape=[1,8,8]",),
            "NamelessImages.num_classes is missing; set it, or model.num_outputs=NUMBER",
        ),
        ("Images", ("+data.form=three",), r"need batches \(x, y\)"),
        ("Images", ("steps_per_call=5",), "data=service_modules.Images acts on single steps"),
        (
            "Images",
            ("compression=magnitude",),
            "compression=magnitude: only for tasks derived from Supervised, with our",
        ),
        ("TwoValidations", (), "one validation loader, TwoValidations has 2"),
        ("Images", ("task=regression",), "the targets of Images are classes"),
        ("Images", ("model=mlp", "model.num_outputs=2"), "the data \\(Images\\) needs 3"),
    ],
)
def test_what_our_task_lacks_is_named_before_the_run(
    data: str, overrides: tuple[str, ...], message: str, store: Any
) -> None:
    with pytest.raises(UserError, match=message):
        run(compose_run(words("", data, *RECORD, *overrides)))
    assert not store.client.search_runs([e.experiment_id for e in store.client.search_experiments()])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("callbacks=latency", "LatencyMonitor needs 'example'"),
        ("callbacks=weight_probe", "WeightProjections needs 'model'"),
        ("+callbacks.loss._target_=lightning_modules.zoo.task.epoch_loss.EpochLoss", "EpochLoss needs 'extra_losses'"),
        ("steps_per_call=5", "steps_per_call=5: only for tasks derived from Supervised"),
        ("decay_norms_and_biases=false", "decay_norms_and_biases=False: only for tasks derived from Supervised"),
        ("cuda_graphs=true", "cuda_graphs=True: only for tasks derived from Supervised"),
        ("compile=true", "compile=True: only for tasks derived from Supervised, or with a model"),
        ("channels_last=true", "channels_last=True: only for tasks derived from Supervised, or with a model"),
    ],
)
def test_what_another_task_would_ignore_or_fail_on_is_rejected(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(compose_run(words("ImageTask", "Images", "tracking=none", override)))


@pytest.mark.parametrize("verb", ["clean", "split"])
def test_verbs_on_whole_data_sets_name_what_they_need(verb: str) -> None:
    data = ["data=lightning_datamodule", "data._target_=service_modules.Images", "data.data_files=[images]"]
    with pytest.raises(
        UserError, match=r"data=Images: this reads and splits the whole data set, for which Images must be der"
    ):
        COMMANDS[verb](compose_quality([*data, "tracking=none"]))


def test_finished_runs_are_found_only_where_the_data_are_known(train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "images").write_text("1")
    known = words("ImageTask", "Images", *RECORD, f"data.data_files=['{tmp_path}/images']")
    recorded = train(*known, quick=False)
    with pytest.raises(CachedRun, match=recorded.info.run_id):
        run(compose_run(known), skip_cached=True)
    declared = words("ImageTask", "Images", *RECORD)
    with pytest.raises(
        UserError, match="skip_finished=true needs the content of the data=Images, which is declared by"
    ):
        run(compose_run(declared), skip_cached=True)


@pytest.mark.slow
def test_a_rerun_says_whether_the_data_are_those_of_the_record(
    train: Callable[..., Any], command: Callable[..., Any], tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.write_text("1")
    recorded = train(*words("ImageTask", "Images", *RECORD, f"data.data_files=['{images}']"), quick=False)
    folders = [str(Path(str(service_modules.__file__)).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"TOUCHSTONE_TRUST": "service_modules", "PYTHONPATH": os.pathsep.join(folders)}
    images.write_text("2")
    rerun = command("rerun.py", recorded.info.run_id, "here=true", **environment)
    assert rerun.returncode == 1, rerun.stdout + rerun.stderr
    assert "all metrics are equal" in rerun.stdout and "data: other values than recorded" in rerun.stdout


def test_our_task_trains_on_a_stream_with_a_schedule_of_known_length() -> None:
    stream = ("data._target_=user_modules.Stream", "model.input_shape=[4]", "model.num_outputs=3", "tracking=none")
    settings = words("", "Images", *stream, "scheduler=cosine")
    metrics = run(compose_run([*settings, "trainer.limit_train_batches=5"]))
    assert metrics.keys() == {"val/loss", "val/accuracy", "train/accuracy"}
    with pytest.raises(
        UserError, match=r"scheduler: the number of steps is not known; set trainer\.max_steps or limit"
    ):
        run(compose_run(settings))


def test_shapes_may_be_given_in_the_config() -> None:
    given = ("model.input_shape=[1,8,8]", "model.num_outputs=3", "tracking=none", "+data.batch_size=1")
    assert "test/accuracy" in run(compose_run(words("", "NamelessImages", *given)))
