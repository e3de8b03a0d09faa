"""What runs on CUDA need, as far as a machine without a GPU can show it; `scripts/benchmark.py gpu` does the rest."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import QUICK, newest_run
from torch import nn

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.run import cuda
from lightning_modules.run.run import run
from lightning_modules.task.profiling import latency_ms
from lightning_modules.zoo.data.image_datasets import Digits


@pytest.fixture(autouse=True)
def _determinism() -> Any:
    yield
    torch.use_deterministic_algorithms(False)


class Unpooled(nn.Module):
    """Max unpooling, which has no deterministic implementation, on the CPU too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled, index = nn.functional.max_pool2d(x, 2, return_indices=True)
        return nn.functional.max_unpool2d(pooled, index, 2)


def test_an_operator_without_a_deterministic_form_lowers_the_setting_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cfg = compose_run([])
    cuda.allow_nondeterministic(cfg, lambda: nn.ReLU()(torch.zeros(1)))
    assert cfg.trainer.deterministic is True
    with caplog.at_level(logging.WARNING):
        cuda.allow_nondeterministic(cfg, lambda: Unpooled()(torch.rand(1, 1, 4, 4)))
    assert cfg.trainer.deterministic == "warn"
    assert len(caplog.messages) == 1
    assert "max_unpooling2d" in caplog.messages[0]


def test_an_error_of_another_kind_is_raised() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        cuda.allow_nondeterministic(compose_run([]), lambda: torch.rand(2, 3) @ torch.rand(2, 3))


def test_a_claim_computes_in_float32_and_other_runs_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    cfg = compose_run([])
    cuda.set_matmul_precision(cfg)
    assert cfg.matmul_precision is None, "the CPU has no such setting"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for experiment, precision, backend in ((None, "high", "tf32"), ("mnist1d/linear", "highest", "ieee")):
        cfg = compose_run(["trainer=gpu", *([f"experiment={experiment}"] if experiment else [])])
        cuda.set_matmul_precision(cfg)
        assert (cfg.matmul_precision, matmul.fp32_precision, conv.fp32_precision) == (precision, backend, backend)
    matmul.fp32_precision, conv.fp32_precision = before


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="matmul_precision=low: expected null or one of highest, high, medium"):
        cuda.set_matmul_precision(compose_run(["matmul_precision=low"]))


def test_too_little_gpu_memory_is_refused_before_training() -> None:
    cfg = compose_run([])
    cuda.require_free_memory(cfg, weights=10**9, dataset=0, free=4 * 10**9, name="a GPU")
    with pytest.raises(
        UserError, match=r"a GPU has 4\.0 GB of free memory, but the run needs at least 4\.0 GB .* 1\.0 GB"
    ):
        cuda.require_free_memory(cfg, weights=10**9, dataset=10**9, free=4 * 10**9, name="a GPU")


class FullGpu(pl.Callback):
    """Raises what torch does on a GPU whose memory is full."""

    def on_train_batch_start(self, trainer: pl.Trainer, *rest: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_run_out_of_memory_fails_with_what_to_lower(store: Any) -> None:
    with pytest.raises(UserError, match=r"Tried to allocate 2\.00 GiB.*\n.*data\.batch_size=32 .*bf16-mixed"):
        run(compose_run([*QUICK, "tracking.pictures=false"]), extra=[FullGpu()])
    assert newest_run(store).info.status == "FAILED"


@pytest.mark.slow
def test_data_on_the_trainers_device_give_the_same_numbers(train: Callable[..., Any]) -> None:
    one, other = (
        train("augmentation=image_basic", f"data.device={place}").data.metrics for place in ("cpu", "trainer")
    )
    assert {key: value for key, value in one.items() if key.startswith(("val/", "test/", "train/"))} == {
        key: value for key, value in other.items() if key.startswith(("val/", "test/", "train/"))
    }


def test_data_are_moved_once_for_all_loaders() -> None:
    data = Digits(device="trainer")
    data.setup()
    first, second = (data._to_device(torch.device("meta"), data.arrays.x, data.arrays.y) for _ in range(2))
    assert first[0] is second[0]
    assert first[0].device.type == "meta"
    assert data.bytes_in_memory == data.arrays.x.nbytes + data.arrays.y.nbytes


def test_another_device_is_refused() -> None:
    with pytest.raises(UserError, match=r"device=gpu: did you mean 'cpu'"):
        Digits(device="gpu")  # type: ignore[arg-type]


def test_latency_is_a_positive_median() -> None:
    assert 0 < latency_ms(nn.Linear(4, 4), torch.zeros(1, 4)) < 1000


def test_nvidia_metrics_are_installed() -> None:
    import pynvml

    assert pynvml.nvmlInit
