"""What only a GPU can show: kernels without a deterministic form, scalers, graphs, NCCL, memory, power, int8 and 2:4 kernels."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _cuda() -> None:
    assert torch.cuda.is_available(), "these tests need a CUDA GPU"


def pictures(folder: Path, size: int = 64, count: int = 160) -> tuple[str, ...]:
    """Noise in two classes, brighter and darker."""
    rng = np.random.RandomState(0)
    for label, low in (("dark", 0), ("bright", 120)):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            pixels = rng.randint(low, low + 100, (size, size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return ("data=image_folder", f"data.root={folder}", f"data.image_size={size}", "data.batch_size=8")


@pytest.mark.parametrize("name", ["vgg16", "alexnet"])
def test_without_a_deterministic_operator_the_run_warns_once_and_goes_on(
    fit: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with caplog.at_level(logging.WARNING, logger="lightning_modules.run.cuda"):
        run = fit(*pictures(tmp_path / "pictures"), "model=torchvision", f"model.name={name}", "trainer.max_steps=20")
    assert run.info.status == "FINISHED"
    assert run.data.params["trainer.deterministic"] == "warn"
    assert sum("no deterministic implementation" in message for message in caplog.messages) == 1


def test_float16_trains_with_a_loss_scaler(fit: Callable[..., Any]) -> None:
    half, plain = fit("trainer.precision=16-mixed"), fit()
    assert half.data.metrics["val/loss"] == pytest.approx(plain.data.metrics["val/loss"], rel=0.2)


def test_a_compiled_model_agrees(fit: Callable[..., Any]) -> None:
    compiled, plain = fit("compile=true", "model=mlp"), fit("model=mlp")
    assert compiled.data.metrics["val/loss"] == pytest.approx(plain.data.metrics["val/loss"], rel=1e-2)


def test_cuda_graphs_give_the_numbers_of_the_ordinary_way(fit: Callable[..., Any]) -> None:
    graphed, plain = fit("cuda_graphs=true"), fit()
    assert graphed.data.metrics["val/loss"] == pytest.approx(plain.data.metrics["val/loss"], rel=1e-4)


def test_the_loader_pins_what_it_hands_over(fit: Callable[..., Any]) -> None:
    from lightning_modules.zoo.data.image_datasets import Digits

    data = Digits()
    data.setup()
    loader = data._loader(data.arrays.x, data.arrays.y, "train", 8)
    assert not loader.pin_memory, "there is no trainer yet"


@pytest.mark.parametrize("hook", ["ddp", "ddp_fp16", "ddp_bf16", "ddp_powersgd", "ddp_topk", "fsdp2", "zero1"])
def test_a_strategy_trains_on_one_rank_of_nccl(
    command: Callable[..., CompletedProcess[str]], store: Any, hook: str
) -> None:
    """Launched as one process of torchrun would be: a process group of size 1 exists."""
    done = command(
        "train.py", "trainer=ddp", "trainer.devices=1", "trainer.accelerator=gpu", f"strategy={hook}",
        "trainer.max_epochs=1", "tracking.system_metrics_s=null", "tracking.pictures=false",
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1", GROUP_RANK="0", NODE_RANK="0",
        MASTER_ADDR="127.0.0.1", MASTER_PORT="29611", TORCHELASTIC_RUN_ID="one",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _mean_gradients(rank: int) -> Any:
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(20, 5).cuda())
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(rank)).cuda()
    model(x).square().mean().backward()
    return [p.grad.cpu().numpy() for p in model.parameters() if p.grad is not None]


def test_two_gloo_ranks_on_one_gpu_average_as_one_process_would(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (  # a process of its own: CUDA must not be initialised before the ranks are forked
        "import sys; sys.path[:0] = ['tests', 'tests/gpu']\n"
        "from gloo_ranks import on_ranks\nfrom test_cuda_only import _mean_gradients, one_process\n"
        "first, second = on_ranks(_mean_gradients)\nwhole = one_process()\n"
        "import numpy as np\n"
        "assert all((a == b).all() and np.allclose(a, c, atol=1e-6) for a, b, c in zip(first, second, whole))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def one_process() -> Any:
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 5).cuda()
    x = torch.cat([torch.randn(8, 20, generator=torch.Generator().manual_seed(rank)) for rank in range(2)]).cuda()
    model(x).square().mean().backward()
    return [p.grad.cpu().numpy() for p in model.parameters() if p.grad is not None]


def test_two_runs_of_a_sweep_share_one_gpu(command: Callable[..., CompletedProcess[str]]) -> None:
    done = command(
        "train.py", "-m", "trainer=gpu", "trainer.max_epochs=1", "optimizer.lr=1e-3,1e-2", "sweep.jobs=2", "sweep=pair",
        "tracking.system_metrics_s=null", "tracking.pictures=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 finished" in done.stdout


def test_a_run_out_of_memory_fails_alone_and_names_what_to_lower(command: Callable[..., CompletedProcess[str]]) -> None:
    width = 400_000  # one layer of 640 GB
    done = command(
        "train.py", "-m", "trainer=gpu", "trainer.max_epochs=1", "model=mlp", f"model.hidden=[16],[{width},{width}]",
        "sweep.jobs=1", "sweep.retries=0", "sweep=big", "tracking.system_metrics_s=null", "tracking.pictures=false",
    )  # fmt: skip
    assert "1 finished" in done.stdout
    assert "1 failed" in done.stdout
    assert "memory" in done.stdout + done.stderr


def test_power_memory_and_utilisation_are_recorded(train: Callable[..., Any]) -> None:
    run = train(
        "trainer=gpu", "data=fashion_mnist", "model=resnet20", "trainer.max_epochs=1", "tracking.system_metrics_s=1",
        "data.fraction=0.5", "steps_per_call=1", quick=False,
    )  # fmt: skip
    names = " ".join(run.data.metrics)
    for part in ("gpu_0_utilization", "gpu_0_memory_usage", "gpu_0_power_usage"):
        assert part in names
    assert run.data.metrics["system/gpu_peak_memory_bytes"] > 10**6
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def test_int8_and_two_four_kernels_agree_with_floats() -> None:
    torch.manual_seed(0)
    a, b = torch.randint(-8, 8, (64, 64), dtype=torch.int8), torch.randint(-8, 8, (64, 64), dtype=torch.int8)
    assert torch.equal(torch._int_mm(a.cuda(), b.cuda()).cpu(), a.int() @ b.int())
    dense = torch.randn(64, 64).masked_fill(torch.tensor([False, False, True, True]).repeat(64, 16), 0).half().cuda()
    sparse = torch.sparse.to_sparse_semi_structured(dense)
    x = torch.randn(64, 64).half().cuda()
    assert torch.allclose(torch.mm(sparse, x), torch.mm(dense, x), atol=1e-1)
