"""Structured pruning: what is removed is gone, to the budget, and the structure is built again from its record."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from handmade import work_on
from torch import Tensor, nn

from lightning_modules.compression.artifact import FILE, load_compressed
from lightning_modules.compression.profiling import count_macs, count_params
from lightning_modules.compression.stage import StageContext
from lightning_modules.compression.structured.budget_search import search_budget
from lightning_modules.compression.structured.layer_widths import find_output_layers
from lightning_modules.compression.structured.structured_pruning import StructuredPruning, restore
from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP
from lightning_modules.tracking.artifacts import local_folder
from lightning_modules.zoo.model.convnets import CifarResNet, ConvNet, LeNet5
from lightning_modules.zoo.model.time_series import MNIST1DCNN, MNIST1DGRU
from lightning_modules.zoo.model.vit import ViT

DIGIT, SMALL = (1, 8, 8), (3, 32, 32)
slow = pytest.mark.slow
NETWORKS: list[Any] = [
    pytest.param(lambda: MLP(DIGIT, 10), DIGIT, id="mlp"),
    pytest.param(lambda: MLP(DIGIT, 10, residual=True), DIGIT, id="mlp_residual"),
    pytest.param(lambda: LeNet5((1, 16, 16), 10), (1, 16, 16), id="lenet5"),
    pytest.param(lambda: CifarResNet(DIGIT, 10, depth=20), DIGIT, id="resnet20", marks=slow),
    pytest.param(lambda: CifarResNet(DIGIT, 10, depth=8), DIGIT, id="resnet8"),
    pytest.param(lambda: ViT(DIGIT, 10, depth=2), DIGIT, id="vit"),
    pytest.param(lambda: ViT(DIGIT, 10), DIGIT, id="vit_tiny", marks=slow),
    pytest.param(lambda: MNIST1DCNN((40,), 10), (40,), id="mnist1d_cnn"),
    *(
        pytest.param(lambda name=name: torchvision.models.get_model(name, num_classes=10), SMALL, id=name, marks=slow)
        for name in ("resnet18", "vgg11_bn", "mobilenet_v2")
    ),
]


def pruned(network: nn.Module, shape: tuple[int, ...], folder: Path, **arguments: Any) -> StageContext:
    stage = StructuredPruning(**arguments)
    stage.name = "channels"
    context = work_on(network, shape, folder)
    stage.check(network, context.example[:2], 10)
    stage.begin(context)
    return context


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_macs_fall_to_the_budget_and_the_record_builds_the_structure_again(
    make: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = make()
    dense = copy.deepcopy(network)
    context = pruned(network, shape, tmp_path, macs_ratio=0.5)
    kept = count_macs(context.model, context.example) / count_macs(dense, context.example)
    assert 0.44 < kept <= 0.5
    assert count_params(context.model) < count_params(dense)
    (step,) = context.state.steps
    again = restore(make(), json.loads(json.dumps(step)), context.example[:1])
    again.load_state_dict(context.model.state_dict(), strict=True)
    assert torch.equal(again.eval()(context.example), context.model.eval()(context.example))
    learns(again.train(), context.example)


def learns(network: nn.Module, x: Tensor) -> None:
    """A step of training moves every parameter of the network, and gives it finite values."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = [p.detach().clone() for p in network.parameters()]
    nn.functional.cross_entropy(network(x), torch.arange(len(x))).backward()
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
    assert sum(moved) > 0.5 * len(moved)
    assert all(p.isfinite().all() for p in network.parameters())


def test_the_check_leaves_the_network_as_it_was() -> None:
    network = CifarResNet((1, 4, 4), 10, depth=8).train()  # its last maps have one pixel: no batch norm could train
    network.stem.requires_grad_(False)
    before, flags = copy.deepcopy(network.state_dict()), [p.requires_grad for p in network.parameters()]
    StructuredPruning(macs_ratio=0.5).check(network, torch.randn(2, 1, 4, 4), 10)
    assert network.training and flags == [p.requires_grad for p in network.parameters()]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@torch.no_grad()
def _kill(outputs: Tensor, inputs: Tensor, bias: Tensor | None, dead: slice | list[int], span: int = 1) -> None:
    """Make channels worthless: what gives them, and what reads them, is zero."""
    outputs[dead] = 0
    if bias is not None:
        bias[dead] = 0
    for channel in range(len(outputs))[dead] if isinstance(dead, slice) else dead:
        inputs[:, channel * span : (channel + 1) * span] = 0


def _half_dead_lenet() -> nn.Module:
    network = LeNet5((1, 16, 16), 10)
    first, second = network.features[0], network.features[2]
    _kill(first.weight, second.weight, first.bias, slice(3, 13))
    _kill(second.weight, network.fc.weight, second.bias, slice(20, 45))
    _kill(network.fc.weight, network.head.weight, network.fc.bias, slice(0, 250))
    return network


def _half_dead_resnet() -> nn.Module:
    network = CifarResNet(DIGIT, 10, depth=8)
    for block in network.blocks:
        dead = slice(1, 1 + len(block.conv1.weight) // 2 + 2)
        _kill(block.conv1.weight, block.conv2.weight, None, dead)
        with torch.no_grad():
            block.bn1.weight[dead] = 0
    return network


def _half_dead_vit() -> nn.Module:
    network = ViT(DIGIT, 10, depth=2)
    for block in network.blocks:
        _kill(block.mlp[0].weight, block.mlp[3].weight, block.mlp[0].bias, slice(5, 90))
        rows = torch.arange(192).view(3, 4, 16)[:, 1:3].flatten().tolist()  # heads 1 and 2
        with torch.no_grad():
            block.qkv.weight[rows] = 0
            block.qkv.bias[rows] = 0
            block.projection.weight[:, 16:48] = 0
    return network


@pytest.mark.parametrize(
    ("make", "shape", "ratio"),
    [
        pytest.param(_half_dead_lenet, (1, 16, 16), 0.5, id="lenet5"),
        pytest.param(_half_dead_resnet, DIGIT, 0.53, id="resnet8"),
        pytest.param(_half_dead_vit, DIGIT, 0.6, id="vit"),
    ],
)
def test_what_is_worth_nothing_goes_first_and_the_outputs_stay(
    make: Callable[[], nn.Module], shape: tuple[int, ...], ratio: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = make().eval()
    dense = copy.deepcopy(network)
    context = pruned(network, shape, tmp_path, macs_ratio=ratio)
    difference = (context.model(context.example) - dense(context.example)).abs().max()
    assert count_params(context.model) < 0.7 * count_params(dense)
    assert difference < 1e-5


@pytest.mark.slow
def test_a_residual_stream_that_is_padded_keeps_its_width(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = CifarResNet(DIGIT, 10, depth=8)
    pruned(network, DIGIT, tmp_path, macs_ratio=0.3)
    assert [network.stem[0].out_channels, *(block.conv2.out_channels for block in network.blocks)] == [16, 16, 32, 64]


def test_a_residual_stream_goes_in_all_its_layers_at_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = MLP(DIGIT, 10, hidden=[50, 50], residual=True)
    pruned(network, DIGIT, tmp_path, macs_ratio=0.5)
    assert network.hidden[0].out_features == network.hidden[1].out_features == network.head.in_features < 50


@pytest.mark.slow
def test_heads_go_whole_and_the_block_knows_how_many_are_left(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = _half_dead_vit()
    pruned(network, DIGIT, tmp_path, macs_ratio=0.6)
    for block in network.blocks:
        assert block.heads == 2
        assert block.qkv.out_features == 96 and block.projection.in_features == 32


def test_taylor_removes_what_the_loss_does_not_feel_however_large(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MLP(DIGIT, 10, hidden=[40])
    with torch.no_grad():
        network.hidden[0].weight[:20] *= 50
        network.hidden[0].bias[:20] = -1e6  # large, and always off behind the ReLU
    kept = {
        importance: pruned(copy.deepcopy(network), DIGIT, tmp_path, macs_ratio=0.5, importance=importance).model
        for importance in ("taylor", "magnitude")
    }
    assert (kept["taylor"].hidden[0].bias > -1).all()
    assert (kept["magnitude"].hidden[0].bias < -1).all()
    assert all(p.grad is None for p in kept["taylor"].parameters())


def test_taylor_without_a_batch_says_so(tmp_path: Path) -> None:
    stage, context = StructuredPruning(macs_ratio=0.5, importance="taylor"), work_on(MLP(DIGIT, 10), DIGIT, tmp_path)
    stage.name, context.batches = "channels", lambda: iter([])
    with pytest.raises(UserError, match=r"^compression\.stages\.channels: importance=taylor needs training batches"):
        stage.begin(context)


def test_random_is_a_function_of_the_seed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MLP(DIGIT, 10)

    def rows(seed: int) -> Tensor:
        stage = StructuredPruning(macs_ratio=0.5, importance="random")
        context = work_on(copy.deepcopy(network), DIGIT, tmp_path)
        context.seed = seed
        stage.begin(context)
        thin: Any = context.model
        return thin.hidden[0].weight.detach()

    assert torch.equal(rows(1), rows(1))
    assert rows(1).shape != rows(2).shape or not torch.equal(rows(1), rows(2))


@pytest.mark.slow
def test_widths_are_rounded_and_no_layer_loses_more_than_it_may(tmp_path: Path) -> None:
    torch.manual_seed(0)
    context = pruned(LeNet5((1, 16, 16), 10), (1, 16, 16), tmp_path, params_ratio=0.4, round_to=8, max_ratio=0.6)
    network: Any = context.model
    widths = [network.features[0].out_channels, network.features[2].out_channels, network.fc.out_features]
    for width, dense in zip(widths, (20, 50, 500), strict=True):
        assert width == dense or width % 8 == 0
        assert width >= math.floor(0.4 * dense)
    assert count_params(network) <= 0.4 * count_params(LeNet5((1, 16, 16), 10))


def test_however_small_its_weights_a_layer_keeps_its_share(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = MLP(DIGIT, 10)
    with torch.no_grad():
        network.hidden[0].weight[:95] *= 1e-3
        network.hidden[1].weight *= 1e-3
    pruned(network, DIGIT, tmp_path, macs_ratio=0.4, max_ratio=0.6)
    assert network.hidden[0].out_features == 40


def test_without_global_pruning_all_layers_lose_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = pruned(MLP(DIGIT, 10), DIGIT, tmp_path, params_ratio=0.5, global_pruning=False).model
    first, second = (layer.out_features for layer in network.hidden)
    assert abs(first - second) <= 1


def test_layers_that_are_excluded_keep_their_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = pruned(
        LeNet5((1, 16, 16), 10), (1, 16, 16), tmp_path, params_ratio=0.6, exclude=["features.*"]
    ).model
    assert network.features[0].out_channels == 20 and network.features[2].out_channels == 50
    assert network.fc.out_features < 500


def test_a_hidden_layer_as_wide_as_the_output_is_no_output_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MLP(DIGIT, 10, hidden=[10, 10])
    assert find_output_layers(network, torch.randn(1, *DIGIT)) == {"head"}
    pruned(network, DIGIT, tmp_path, macs_ratio=0.5)
    assert network.hidden[0].out_features < 10 and network.head.out_features == 10


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    network = MLP(DIGIT, 10)
    network.hidden.requires_grad_(False)
    pruned(network, DIGIT, tmp_path, macs_ratio=0.5)
    assert not network.hidden[0].weight.requires_grad and network.head.weight.requires_grad


@pytest.mark.slow
def test_a_measured_latency_is_a_budget_too(tmp_path: Path) -> None:
    shape = (3, 32, 32)  # work enough that ten times less of it is quicker on a busy machine too
    dense = ConvNet(shape, 10, channels=[96, 96], depth=1)
    context = pruned(copy.deepcopy(dense), shape, tmp_path, latency_ratio=0.8)
    example = torch.zeros(1, *shape)
    assert count_macs(context.model, example) < count_macs(dense, example), "by how much is up to the machine"
    assert torch.get_num_threads() >= 1


def test_what_is_left_is_logged_drawn_and_recorded(tmp_path: Path) -> None:
    logged: dict[str, float] = {}
    context = work_on(MLP(DIGIT, 10), DIGIT, tmp_path, logged)
    stage = StructuredPruning(macs_ratio=0.5)
    stage.name = "thin"
    stage.begin(context)
    assert logged["compression/thin/reached_macs_ratio"] == stage.settings()["reached_macs_ratio"] <= 0.5
    assert (tmp_path / "thin_channels.png").stat().st_size > 5000
    other = StructuredPruning(macs_ratio=0.5)
    other.load_state_dict(stage.state_dict())
    assert other.settings() == stage.settings()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"macs_ratio": 1.2}, r"macs_ratio=1.2: expected a value in \(0, 1\)"),
        ({}, "one of macs_ratio, params_ratio, latency_ratio"),
        ({"macs_ratio": 0.5, "params_ratio": 0.5}, "one of macs_ratio, params_ratio, latency_ratio"),
        ({"macs_ratio": 0.5, "max_ratio": 1.0}, "max_ratio=1.0"),
        ({"macs_ratio": 0.5, "round_to": 0}, "round_to=0"),
        ({"macs_ratio": 0.5, "importance": "magnitud"}, "did you mean 'magnitude'"),
        ({"macs_ratio": 0.5, "when": "fit"}, "choose one of: after"),
    ],
)
def test_senseless_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        StructuredPruning(**arguments)


@pytest.mark.parametrize(
    ("network", "shape", "arguments", "message"),
    [
        (MNIST1DGRU((40,), 10), (40,), {"macs_ratio": 0.5}, "recurrent layers are not supported"),
        (CifarResNet(DIGIT, 10, depth=8), DIGIT, {"macs_ratio": 0.05}, r"cannot be met: the smallest .* is 0\.1"),
        (MLP(DIGIT, 10), DIGIT, {"macs_ratio": 0.5, "exclude": ["hiden.0"]}, "did you mean 'hidden.0'"),
        (MLP(DIGIT, 10), DIGIT, {"macs_ratio": 0.5, "exclude": ["hidden.*"]}, "there is no layer besides"),
        (MLP(DIGIT, 10, hidden=[]), DIGIT, {"macs_ratio": 0.5}, "there is no layer besides"),
    ],
    ids=["gru", "budget", "name", "all excluded", "linear"],
)
def test_what_cannot_work_is_refused_with_the_reason_before_training(
    network: nn.Module, shape: tuple[int, ...], arguments: dict[str, Any], message: str
) -> None:
    stage = StructuredPruning(**arguments)
    stage.name = "channels"
    with pytest.raises(UserError, match=f"compression.stages.channels: .*{message}"):
        stage.check(network, torch.randn(2, *shape), 10)


def test_a_network_whose_trace_never_ends_is_not_tried() -> None:
    network = torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [1, 2], [2, 2], num_classes=10)
    with pytest.raises(UserError, match="cannot trace a SwinTransformer"):
        StructuredPruning(macs_ratio=0.5).check(network, torch.randn(2, *SMALL), 10)


def test_a_network_that_shuffles_its_channels_is_refused_with_the_reason() -> None:
    network = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    with pytest.raises(
        UserError, match=r"cannot trace a ShuffleNetV2, which shuffles channels .*compression=magnitude"
    ):
        StructuredPruning(macs_ratio=0.5).check(network, torch.randn(2, *SMALL), 10)


@pytest.mark.slow
def test_torchs_own_attention_keeps_its_width_and_the_mlps_lose_theirs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10)
    nn.init.normal_(network.heads.head.weight)
    context = pruned(network, SMALL, tmp_path, macs_ratio=0.85)
    assert network.encoder.layers[0].mlp[0].out_features < 64
    assert network.conv_proj.out_channels == 32
    with pytest.raises(UserError, match="cannot be met"):
        StructuredPruning(macs_ratio=0.5).check(network, context.example[:2], 10)


def _first_rank_decides(rank: int, rendezvous: str, answers: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    answers[rank] = search_budget(lambda index: 1 - index / 100 + 0.1 * rank, 50, 0.7)
    torch.distributed.destroy_process_group()


@slow
def test_all_ranks_remove_what_the_first_found(tmp_path: Path) -> None:
    with torch.multiprocessing.get_context("spawn").Manager() as manager:
        answers = manager.dict()
        torch.multiprocessing.spawn(_first_rank_decides, (str(tmp_path / "meeting"), answers), nprocs=2)
        assert answers[0] == answers[1] == (30, pytest.approx(0.7))


@slow
@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("channels", ["compression.stages.channels.epochs=1"]),
        ("low_rank", ["compression.stages.low_rank.energy=0.5", "compression.stages.low_rank.epochs=1"]),
        ("fold", []),
    ],
)
def test_a_run_ends_with_a_file_of_the_smaller_structure(
    recipe: str, overrides: list[str], store: Any, train: Any
) -> None:
    found = train("model=convnet", f"compression={recipe}", "compression.runtimes=[eager]", *overrides)
    metrics = found.data.metrics
    assert metrics["compressed/params"] < metrics["dense/params"]
    assert metrics["compressed/macs"] <= metrics["dense/macs"] * (1 if recipe == "fold" else 0.5)
    (model,) = (
        model
        for model in store.client.search_logged_models([found.info.experiment_id])
        if model.model_id == found.data.tags["touchstone.compressed_model_id"]
    )
    folder = local_folder(model.artifact_location)
    assert folder is not None
    task = load_compressed(folder / FILE)
    assert count_params(task.model) == metrics["compressed/params"]
