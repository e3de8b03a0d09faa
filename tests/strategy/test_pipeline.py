"""Two ranks with a part of the layers each compute what one process with all layers computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gloo_process_group import run_on_ranks
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.zoo.model.convnets import BasicResNet, ConvNet
from lightning_modules.zoo.model.vit import ViT
from lightning_modules.zoo.strategy.pipeline_partition import drop_other_parts, partition
from lightning_modules.zoo.strategy.pipeline_schedule import (
    PipelineExecutor,
    StepResult,
    attach_gradients,
    num_microbatches,
)

SMALL = ("data=mnist1d", "model=mlp", "data.per_class=13", "callbacks=last", "trainer.max_epochs=2", "data.batch_size=32",
         "trainer.precision=64-true", "tracking.system_metrics_s=null", "tracking.pictures=false", "~callbacks.progress",
         "~callbacks.summary")  # fmt: skip
TWO = ("trainer.devices=2", "strategy=pipeline")
ADAM = ("optimizer=adamw", "decay_norms_and_biases=false")
IMAGES = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP([3, 16, 16], 10),
    "residual mlp": lambda: MLP([3, 16, 16], 10, hidden=[9, 9, 9], residual=True),
    "convnet": lambda: ConvNet([3, 16, 16], 10, channels=[4, 8]),
    "resnet": lambda: BasicResNet([3, 16, 16], 10, widths=[4, 8]),
    "vit": lambda: ViT([3, 16, 16], 10, dim=8, depth=2),
    "vgg": lambda: nn.Sequential(*(_convolution() for _ in range(3)), nn.Flatten(), nn.Linear(768, 10)),
}


def _convolution() -> nn.Module:
    """As in torchvision's VGG, which overwrites activations; its maps lie in memory by pixels."""
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)).to(memory_format=torch.channels_last)


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().double()


# --- a training ----------------------------------------------------------------------------------------------
def state(store: Any, run: Any) -> Any:
    return read_checkpoint(artifact_path(store, run, "checkpoints/last.ckpt"))


def far_apart(store: Any, a: Any, b: Any) -> float:
    ours, theirs = (state(store, run)["state_dict"] for run in (a, b))
    assert ours.keys() == theirs.keys()
    return max(float((ours[key].double() - theirs[key].double()).abs().max()) for key in theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("optimizer=momentum", "strategy.microbatches=1"),
        (*ADAM, "strategy.schedule=1f1b", "trainer.gradient_clip_val=0.1", "trainer.accumulate_grad_batches=2"),
    ],
)
def test_a_pipeline_gives_the_weights_of_one_process_in_float64(
    store: Any, train: Callable[..., Any], words: tuple[str, ...]
) -> None:
    two = train(*SMALL, *TWO, *words, quick=False)
    one = train(*SMALL, *(word for word in words if not word.startswith("strategy.")), quick=False)
    assert far_apart(store, two, one) < 1e-12  # 104 samples: the last batch of an epoch is of 8
    for name in ("train/accuracy", "val/loss", "test/loss", "test/accuracy"):
        assert two.data.metrics[name] == pytest.approx(one.data.metrics[name], abs=1e-6)


@pytest.mark.slow
def test_a_run_resumes_from_two_ranks_on_one_and_back(store: Any, train: Callable[..., Any]) -> None:
    words = (*SMALL, *ADAM, "data.drop_last=true")
    whole = train(*words, "trainer.max_epochs=3", quick=False)
    parted = train(*words, *TWO, "trainer.max_epochs=1", quick=False)
    saved = state(store, parted)["optimizer_states"][0]
    assert sorted(saved["state"]) == list(range(6))
    assert [saved["state"][n]["exp_avg"].shape[0] for n in range(6)] == [100, 100, 10, 100, 100, 10]  # decayed first
    for epochs, ranks in ((2, "trainer.devices=1"), (3, "trainer.devices=2")):
        train(f"resume={parted.info.run_id}", f"trainer.max_epochs={epochs}", ranks, quick=False)
    assert far_apart(store, parted, whole) < 1e-12
    (hidden, outputs), sizes = (100, 10), 32 * 8
    parted = store.client.get_run(parted.info.run_id)
    assert parted.data.metrics["comm/bytes"] == sizes * (hidden + hidden + outputs) / 2  # the mean over two ranks


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("strategy.microbatches=5", r"strategy\.microbatches=5 does not divide data\.batch_size=32"),
        ("model=linear", r"MLP cannot be split into 2 .*; use strategy=fsdp2 or strategy=ddp"),
        (
            "task.class_weights=[1,2,3,4,5,6,7,8,9,10]",
            r"is not the mean over its microbatches .*strategy\.microbatches=1",
        ),
    ],
)
def test_what_a_pipeline_cannot_follow_is_refused(train: Callable[..., Any], word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(*SMALL, *TWO, word, quick=False)


# --- a batch -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def passes() -> list[Any]:
    return run_on_ranks(_passes)


def _passes(rank: int) -> dict[str, Any]:
    """By model and schedule: outputs, gradients and buffers of a rank, and of how many microbatches it kept activations."""
    found = {}
    for name in MODELS:
        for schedule, microbatches in (("gpipe", 1), ("gpipe", 4), ("1f1b", 4)):
            model, target = built(name), torch.arange(12) % 10
            part = partition(model, IMAGES[:2], 2)[rank]
            drop_other_parts(model, part)
            passing = PipelineExecutor(part, rank, 2, torch.device("cpu"), microbatches, schedule)
            kept = _count_kept(part, passing)
            done = passing.step(IMAGES, target, F.cross_entropy)
            loss, outputs = attach_gradients(F.cross_entropy(done.outputs, target), done)
            (2 * loss).backward()
            gradients = {key: p.grad for key, p in model.named_parameters() if not p.is_meta}
            buffers = dict(part.named_buffers())
            evaluated = passing.part.eval() and passing.outputs(IMAGES[:7])
            found[f"{name} {schedule} {microbatches}"] = (outputs.detach(), gradients, buffers, evaluated, max(kept))
    return found


def _count_kept(part: nn.Module, passing: PipelineExecutor) -> list[int]:
    kept, stages = [0], []
    make = passing._new

    def new(*args: Any) -> Any:
        stages.append((made := make(*args))._stage)
        return made

    passing._new = new
    part.register_forward_hook(lambda *_: kept.append(len(stages[-1].fwd_cache) + 1))
    return kept


@pytest.mark.parametrize("case", ["gpipe 1", "gpipe 4", "1f1b 4"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_gradients_and_buffers_are_those_of_the_whole_network(passes: list[Any], name: str, case: str) -> None:
    model, pieces = built(name), int(case[-1])
    batches = IMAGES.chunk(pieces)  # batch norm takes the statistics of a microbatch
    expected = torch.cat([model(x) for x in batches])
    (2 * F.cross_entropy(expected, torch.arange(12) % 10)).backward()
    together: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for rank in (0, 1):
        outputs, gradients, own, evaluated, _ = passes[rank][f"{name} {case}"]
        assert torch.allclose(outputs, expected, atol=1e-12)
        assert gradients, "a rank without weights"
        assert not together.keys() & gradients.keys()
        together |= gradients
        buffers |= own
    assert {key: p.shape for key, p in model.named_parameters()} == {key: g.shape for key, g in together.items()}
    assert all(torch.allclose(together[key], p.grad, atol=1e-12) for key, p in model.named_parameters())
    assert all(torch.allclose(buffers[key], b, atol=1e-12) for key, b in model.named_buffers())
    with torch.no_grad():
        assert torch.allclose(evaluated, model.eval()(IMAGES[:7]), atol=1e-12)


def test_1f1b_keeps_the_activations_of_as_many_microbatches_as_there_are_ranks(passes: list[Any]) -> None:
    assert [rank["resnet gpipe 4"][-1] for rank in passes] == [4, 4]
    assert [rank["resnet 1f1b 4"][-1] for rank in passes] == [2, 1]


# --- the parts -----------------------------------------------------------------------------------------------
def test_the_parts_have_equal_operations_or_equal_parameters() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(1152, 10))
    images = IMAGES.float()
    assert [list(part.state_dict()) for part in partition(network, images, 2, "operations")] == [
        ["0.weight", "0.bias"],
        ["2.weight", "2.bias", "4.weight", "4.bias"],
    ]
    assert [next(iter(part.state_dict())) for part in partition(network, images, 2, "parameters")] == [
        "0.weight",
        "4.weight",
    ]
    assert len(partition(network, images, 3)) == 3


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.b(self.a(x)))


class _Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.a(x) + self.b(x)


@pytest.mark.parametrize("model", [_Tied(), _Dense(), nn.Linear(4, 4), nn.GRU(4, 4)], ids=lambda m: type(m).__name__)
def test_a_network_that_is_no_chain_is_refused_with_what_else_there_is(model: nn.Module) -> None:
    with pytest.raises(
        UserError, match=rf"strategy=pipeline: {type(model).__name__} .*; use strategy=fsdp2 or strategy=ddp"
    ):
        partition(model, torch.rand(2, 4), 2)


def test_a_batch_is_cut_into_as_many_equal_pieces_as_are_allowed() -> None:
    assert [num_microbatches(samples, 4) for samples in (32, 30, 9, 7, 2, 1)] == [4, 3, 3, 1, 2, 1]


def test_what_adds_to_the_loss_from_the_outputs_is_refused_instead_of_forgotten() -> None:
    weight = nn.Parameter(torch.ones(()))
    loss, outputs = attach_gradients(torch.ones(()), StepResult(torch.ones(3), 1.0, [weight], [torch.ones(())], 0.0))
    with pytest.raises(UserError, match="a term computed from the outputs"):
        (loss + outputs.sum()).backward()
