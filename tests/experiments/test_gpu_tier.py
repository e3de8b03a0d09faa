"""Experiments for larger machines are composed and checked as they are, and train a step on made data on this one."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataset_files import write_cifar, write_folders, write_mnist

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.reproduction.claim import Verdict
from lightning_modules.reproduction.compose import compose_claim
from lightning_modules.reproduction.discovery import claim_files
from lightning_modules.run import build
from lightning_modules.run.run import run

FOLDERS = (
    "he2016", "mmpretrain", "cutout2017", "repdistiller", "depgraph", "deep_compression", "torchvision", "mnist_cnn",
    "hinton2015",
)  # fmt: skip
CLAIMS = {name: path for name, path in claim_files().items() if name.partition("/")[0] in FOLDERS}
STEP = (
    "trainer=cpu", "trainer.accelerator=cpu", "trainer.devices=1", "strategy=auto", "trainer.max_epochs=1",
    "data.batch_size=4", "~callbacks.progress", "~callbacks.summary",
)  # fmt: skip
QUIET = ("tracking.system_metrics_s=null", "tracking.pictures=false")
MORE = {
    "depgraph/resnet56_pruned": ("trainer.max_steps=1", "compression.stages.channels.epochs=1"),
    "deep_compression/lenet300": ("compression.stages.prune.epochs=5", "compression.stages.prune.every=1"),
    "deep_compression/lenet5": ("compression.stages.prune.epochs=5", "compression.stages.prune.every=1"),
    "torchvision/resnet50": ("trainer.max_steps=1", "data.batch_size=2", "data.num_workers=0"),
}
TEACHERS = {"repdistiller/distilled": "repdistiller", "hinton2015/distilled": "hinton2015"}
QUICK = {"deep_compression/lenet300", "cutout2017/resnet18"}


@functools.cache
def data_of(name: str, folder: Path) -> list[str]:
    """Write the set that an experiment reads; return the overrides that name its place."""
    kind = compose_run([f"experiment={name}"]).data._target_.rpartition(".")[2]
    writers: dict[str, Callable[[], None]] = {
        "CIFAR10": lambda: write_cifar(folder / "set", 10),
        "CIFAR100": lambda: write_cifar(folder / "set", 100),
        "MNIST": lambda: write_mnist(folder / "set"),
        "ImageFolder": lambda: write_folders(folder / "set"),
    }
    writers[kind]()
    return [f"data.root={folder / 'set'}", f"data.cache_dir={folder / 'cache'}"]


@pytest.mark.parametrize("name", CLAIMS)
def test_the_claim_and_all_its_arms_are_checked_as_they_are_written(name: str) -> None:
    claim = compose_claim(name).claim
    assert claim.tier in ("gpu", "cluster")
    assert Verdict.INVALID not in claim.expect
    for overrides in [arm.overrides for arm in claim.arms] or [()]:
        cfg = compose_run([f"experiment={name}", *overrides])
        check_config(cfg)
        assert cfg.trainer.accelerator == "gpu"
        assert cfg.trainer.devices == (8 if claim.tier == "cluster" else 1)


# not composed, which would take seconds whenever tests are collected
TRAINED = [name for name, path in CLAIMS.items() if name not in TEACHERS and "\n  arms:" not in path.read_text()]


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in TRAINED])
def test_its_parts_are_built_and_it_trains_on_made_data(name: str, tmp_path: Path) -> None:
    more = MORE.get(name, ("trainer.max_steps=1",))
    metrics = run(compose_run([f"experiment={name}", *STEP, "tracking=none", *more, *data_of(name, tmp_path)]))
    assert compose_claim(name).claim.metric in metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", TEACHERS)
def test_a_student_is_taught_by_the_teacher_of_its_folder(name: str, tmp_path: Path, store: Any) -> None:
    words = [*STEP, *QUIET, "trainer.max_steps=1", *data_of(name, tmp_path)]
    with pytest.raises(UserError, match="-teacher"):
        run(compose_run([f"experiment={name}", *words]))
    run(compose_run([f"experiment={TEACHERS[name]}/teacher", *words, f"name={TEACHERS[name]}-teacher"]))
    metrics = run(compose_run([f"experiment={name}", *words]))
    assert compose_claim(name).claim.metric in metrics


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("he2016/resnet20", 269_722), ("he2016/resnet56", 853_018), ("mmpretrain/resnet18", 11_173_962),
        ("repdistiller/student", 278_324), ("repdistiller/teacher", 861_620), ("mnist_cnn/cnn", 421_642),
    ],
)  # fmt: skip
def test_the_network_has_as_many_parameters_as_the_sources(name: str, parameters: int) -> None:
    cfg = compose_run([f"experiment={name}"])
    shape, outputs = ([1, 28, 28], 10) if "mnist" in name else ([3, 32, 32], 100 if "repdistiller" in name else 10)
    cfg.model.update(input_shape=shape, num_outputs=outputs)
    assert sum(p.numel() for p in build.build_model(cfg).parameters()) == parameters


def test_the_difference_of_cutout_is_that_of_its_arms() -> None:
    claim = compose_claim("cutout2017/cutout_minus_baseline").claim
    cutout, baseline = (arm.value for arm in claim.arms)
    assert cutout is not None and baseline is not None
    assert claim.value == pytest.approx(cutout - baseline)
