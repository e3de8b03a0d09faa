"""Two ranks with parts of the layers compute what one process with whole layers computes."""

import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import RowwiseParallel

from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.zoo.model.text import TextTransformer
from lightning_modules.zoo.model.vit import ViT
from lightning_modules.zoo.strategy.tensor_parallel import linear_pairs, parallelize_plan

SMALL = ("data=mnist1d", "model=mlp", "data.per_class=13", "data.drop_last=true", "callbacks=last", "trainer.max_epochs=2",
         "trainer.precision=64-true", "tracking.system_metrics_s=null", "tracking.pictures=false", "data.batch_size=32",
         "~callbacks.progress", "~callbacks.summary", "optimizer=adam")  # fmt: skip
MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP([40], 10),
    "lenet300": lambda: MLP([1, 28, 28], 10, hidden=[300, 100]),
    "residual mlp": lambda: MLP([40], 10, hidden=[9, 9, 9], residual=True),
    "vit_tiny": lambda: ViT([1, 8, 8], 10),
    "text_transformer": lambda: TextTransformer([9], 10, vocab_size=50, dropout=0.0),
}


@pytest.mark.slow
def test_tensor_parallel_gives_the_weights_of_one_process_in_float64(store: Any, train: Callable[..., Any]) -> None:
    two = train(*SMALL, "trainer.devices=2", "strategy=tensor_parallel", quick=False)
    one = train(*SMALL, quick=False)
    ours, theirs = (
        read_checkpoint(artifact_path(store, run, "checkpoints/last.ckpt"))["state_dict"] for run in (two, one)
    )
    assert ours.keys() == theirs.keys()
    assert max(float((ours[key].double() - theirs[key].double()).abs().max()) for key in theirs) < 1e-12
    for name in ("val/loss", "test/loss", "test/accuracy"):
        assert two.data.metrics[name] == pytest.approx(one.data.metrics[name], abs=1e-6)
    hidden, head, inputs = 100, 10 / 2, 100  # summed; gathered, a half from each; the gradient of the head's inputs
    assert two.data.metrics["comm/bytes"] == 32 * 8 * (hidden + head + inputs)


@pytest.mark.slow
def test_every_plan_leaves_outputs_and_gradients_as_they_are() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    mp.start_processes(_compare, args=(port,), nprocs=2, start_method="fork")


def _compare(rank: int, port: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh

    from lightning_modules.zoo.strategy.tensor_parallel import TensorParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build().double()
        torch.manual_seed(0)
        cut = build().double()
        TensorParallel().shard(cut, init_device_mesh("cpu", (2,)))
        x = _samples(name)
        outputs, expected = cut(x), model(x)
        assert torch.allclose(outputs, expected, atol=1e-12), name
        outputs.square().sum().backward()
        expected.square().sum().backward()
        shard = 0
        for (key, mine), whole in zip(cut.named_parameters(), model.parameters(), strict=True):
            shard += isinstance(mine, DTensor)
            gradient = mine.grad.full_tensor() if isinstance(mine.grad, DTensor) else mine.grad
            assert torch.allclose(gradient, whole.grad, atol=1e-10), f"{name}: {key}"
        assert shard >= 4, name
        with torch.no_grad():
            assert torch.allclose(cut.eval()(x), model.eval()(x), atol=1e-12), name


def _samples(name: str) -> torch.Tensor:
    if name == "text_transformer":
        return torch.randint(1, 50, (4, 9))
    shape = {"lenet300": (1, 28, 28), "vit_tiny": (1, 8, 8)}.get(name, (40,))
    return torch.rand(4, *shape, dtype=torch.float64)


def test_layers_are_paired_only_where_units_stay_apart_between_them() -> None:
    assert linear_pairs(MLP([4], 2, hidden=[8, 8, 8])) == [("hidden.0", "hidden.1"), ("hidden.2", "head")]
    assert linear_pairs(MLP([4], 2, hidden=[8, 8], residual=True)) == []
    assert linear_pairs(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(), nn.Linear(8, 4))) == [("0", "3")]
    assert linear_pairs(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4))) == []
    plan = parallelize_plan(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4)), 2)
    assert {name: isinstance(style, RowwiseParallel) for name, style in plan.items()} == {
        "0": False,
        "2": True,
        "4": False,
    }


def test_a_model_without_a_layer_to_cut_is_refused_with_what_else_there_is() -> None:
    with pytest.raises(UserError, match=r"strategy=tensor_parallel: Conv2d has no linear layer .* use strategy=fsdp2"):
        parallelize_plan(nn.Conv2d(1, 2, 3), 2)


@pytest.mark.slow
def test_clipping_by_a_norm_over_cut_and_whole_layers_is_refused(train: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"trainer\.gradient_clip_val: torch cannot compute a norm"):
        train(*SMALL, "trainer.devices=2", "strategy=tensor_parallel", "trainer.gradient_clip_val=1.0", quick=False)
