"""Trainings of each domain on the device: they finish, repeat, resume, and agree with the CPU."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic_audio import hiss, int16, write_wav
from text_datasets import write_table

from lightning_modules.config.command_line import compose_run
from lightning_modules.run.run import run

pytestmark = pytest.mark.gpu

FASHION = ("data=fashion_mnist", "data.fraction=0.02", "data.watch_test=false")


def words(folder: Path) -> tuple[str, ...]:
    rows = [(f"a {('bad', 'good')[i % 2]} film number {i}", ("no", "yes")[i % 2]) for i in range(120)]
    write_table(folder / "texts.csv", rows)
    return ("data=text_file", f"data.path={folder}/texts.csv", "model=kim_cnn")


def sounds(folder: Path) -> tuple[str, ...]:
    for label, level in (("loud", 0.3), ("quiet", 0.02)):
        for i, sound in enumerate(hiss(30, 8000, level)):
            write_wav(folder / "sounds" / label / f"{i}.wav", int16(sound).numpy())
    return ("data=audio_folder", f"data.root={folder}/sounds", "model=audio_cnn")


def ratings(folder: Path) -> tuple[str, ...]:
    lines = [f"{u}\t{(u * 7 + k * 3) % 40 + 1}\t5\t{k}" for u in range(1, 41) for k in range(10)]
    (folder / "ml-100k").mkdir()
    (folder / "ml-100k" / "u.data").write_text("\n".join(lines) + "\n")
    return ("data=movielens_implicit", f"data.root={folder}", "model=bpr", "task=ranking")


KINDS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    "default": lambda folder: (),
    "lenet5": lambda folder: (*FASHION, "model=lenet5"),
    "resnet20": lambda folder: (*FASHION, "model=resnet20"),
    "text": words,
    "speech": sounds,
    "recommendation": ratings,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_finishes_and_repeats(
    fit: Callable[..., Any], scores: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    overrides = KINDS[kind](tmp_path)
    first, again = (fit(*overrides, f"name={name}") for name in "ab")
    assert first.info.status == "FINISHED"
    assert math.isfinite(first.data.metrics.get("test/loss", first.data.metrics["val/loss"]))
    if first.data.params["trainer.deterministic"] == "True":
        assert scores(first) == scores(again)


def test_a_resumed_training_equals_an_uninterrupted_one(fit: Callable[..., Any], weights: Callable[..., Any]) -> None:
    whole, part = fit("trainer.max_epochs=3", "name=whole"), fit("trainer.max_epochs=2", "name=part")
    run(compose_run([f"resume={part.info.run_id}", "trainer.max_epochs=3"]))
    first, second = weights(whole), weights(part)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_device_agrees_with_the_cpu(fit: Callable[..., Any]) -> None:
    plain = ("model=mlp", "matmul_precision=highest")
    there, here = fit(*plain), fit(*plain, "trainer=cpu", "trainer.max_epochs=1")
    assert there.data.metrics["val/loss"] == pytest.approx(here.data.metrics["val/loss"], rel=1e-3)


@pytest.mark.parametrize(
    "choice",
    [
        ("trainer.precision=bf16-mixed",),
        ("channels_last=true",),
        ("trainer.gradient_clip_val=0.5",),
        ("trainer.accumulate_grad_batches=2", "data.batch_size=32"),
        ("data.device=trainer", "augmentation=image_basic"),
        ("matmul_precision=high",),
    ],
    ids=" ".join,
)
def test_a_setting_trains_to_about_the_same_loss(fit: Callable[..., Any], choice: tuple[str, ...]) -> None:
    beside = [
        "model=mlp",
        *(word for word in choice if word.startswith("augmentation")),
    ]  # no batch norm: it sees half-batches
    changed, plain = fit(*beside, *choice), fit(*beside)
    assert changed.data.metrics["val/loss"] == pytest.approx(plain.data.metrics["val/loss"], rel=0.2)
