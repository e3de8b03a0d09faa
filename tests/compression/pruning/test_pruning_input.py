"""What cannot be pruned is refused with the reason, before anything is trained."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.compression.pruning.gradual import Gradual, Movement
from lightning_modules.compression.pruning.lottery import LotteryTicket
from lightning_modules.compression.pruning.one_shot import NOfM, OneShot
from lightning_modules.compression.quantization.mixed_precision import MixedPrecision
from lightning_modules.compression.quantization.weight_sharing import WeightSharing
from lightning_modules.compression.recipe import Recipe, check_recipe
from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP
from lightning_modules.zoo.model.convnets import LeNet5


@pytest.mark.parametrize("sparsity", [1.0, 1.2, -0.1, 0.0, float("nan")])
@pytest.mark.parametrize("make", [OneShot, Gradual, Movement, LotteryTicket])
def test_sparsity_outside_zero_and_one_is_refused(make: Any, sparsity: float) -> None:
    with pytest.raises(UserError, match=r"sparsity=(.*\[0, 1\)|0 needs control=dense)"):
        make(sparsity, epochs=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneShot(0.5, criterion="magnitud"), "criterion=magnitud: did you mean 'magnitude'"),
        (lambda: OneShot(0.5, scope="world"), "scope=world: choose one of: global, layer, sensitivity"),
        (lambda: OneShot(0.5, control="rand"), "control=rand: did you mean 'random'"),
        (lambda: OneShot(0.5, control="reinit"), "control=reinit trains, so it needs epochs"),
        (lambda: OneShot(0.0, control="dense"), "control=dense trains, so it needs epochs"),
        (lambda: OneShot(0.5, when="always"), "when=always"),
        (lambda: OneShot(0.5, batches=0), "batches=0"),
        (lambda: OneShot(0.5, levels=[0.5, 1.0]), "levels="),
        (lambda: Gradual(0.5), "set epochs, or when=fit"),
        (lambda: Gradual(0.5, epochs=1, every=0), "every=0"),
        (lambda: Gradual(0.5, epochs=1, initial_sparsity=0.6), "initial_sparsity=0.6"),
        (lambda: Gradual(0.5, epochs=1, start_fraction=0.8), "expected start_fraction < end_fraction"),
        (lambda: Gradual(0.5, when="fit", control="reinit"), "when=after"),
        (lambda: Movement(0.5, epochs=1, criterion="snip"), "criterion=snip"),
        (lambda: LotteryTicket(0.5), "set epochs and when=after"),
        (lambda: LotteryTicket(0.5, epochs=1, rounds=0), "rounds=0"),
        (lambda: LotteryTicket(0.5, epochs=1, steps="linear"), "steps=linear: choose one of: equal, factor"),
        (lambda: LotteryTicket(0.5, epochs=1, rewind_epochs=1), "rewind_epochs=1"),
        (lambda: NOfM(4, 4), "0 < n < m"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_its_name(make: Any, message: str) -> None:
    with pytest.raises(UserError, match="=") as told:
        make()
    assert message in str(told.value)


def check(stage: Any, model: nn.Module, shape: tuple[int, ...]) -> None:
    stage.name = "prune"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        stage.check(model, torch.zeros(2, *shape), 3)
    finally:
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_layer_name_that_matches_nothing_is_told_with_the_nearest() -> None:
    for key in ("layers", "exclude"):
        with pytest.raises(UserError, match=r"^compression.stages.prune: no layer matches heat; did you mean 'head'"):
            check(OneShot(0.5, **{key: ["heat"]}), MLP((8,), 3), (8,))


def test_two_four_names_the_layers_of_wrong_size_and_how_to_leave_them_out() -> None:
    with pytest.raises(UserError) as told:
        check(NOfM(), LeNet5((1, 16, 16), 3), (1, 16, 16))
    assert "features.0.weight [20, 1, 5, 5], fc.weight [500, 50]" in str(told.value)
    assert "compression.stages.prune.exclude=[features.0,fc]" in str(told.value)
    check(NOfM(exclude=["features.0", "fc"]), LeNet5((1, 16, 16), 3), (1, 16, 16))


def test_a_network_without_such_layers_is_refused() -> None:
    with pytest.raises(UserError, match="no linear, convolutional or recurrent layer"):
        check(OneShot(0.5), nn.BatchNorm1d(8), (8,))


def test_a_sparsity_that_rounds_to_nothing_or_all_is_refused() -> None:
    for sparsity in (0.01, 0.99):
        with pytest.raises(UserError, match=r"sparsity=0\.\d+ of 24 weights means (0|24) zeros"):
            check(OneShot(sparsity), nn.Linear(8, 3), (8,))


def test_movement_refuses_frozen_layers() -> None:
    model = MLP((8,), 3)
    model.head.weight.requires_grad_(False)
    with pytest.raises(UserError, match=r"head\.weight is frozen"):
        check(Movement(0.5, epochs=1), model, (8,))
    check(Movement(0.5, epochs=1, exclude=["head"]), model, (8,))


def test_a_stage_that_would_prune_nothing_more_is_refused(work_on: Any, drive: Any) -> None:
    context = work_on(MLP((8,), 3, (16, 12)), (8,))
    drive(OneShot(0.5), context)
    with pytest.raises(UserError, match="means 178 zeros, but 178 weights are already pruned"):
        drive(OneShot(0.5, scope="global"), context)
    other = work_on(MLP((8,), 3, (16, 12)), (8,))
    drive(NOfM(), other)
    with pytest.raises(UserError, match="the network is already 2:4 sparse"):
        drive(NOfM(), other)


def test_a_schedule_that_was_not_reached_is_told(work_on: Any, go_on: Any) -> None:
    context, stage = work_on(MLP((8,), 3), (8,)), Gradual(0.9, epochs=1, every=2)
    stage.name = "prune"
    stage.begin(context)
    go_on(stage, context, 20, last=6)
    with pytest.raises(UserError, match="training ended before the schedule"):
        stage.end(context)


def test_a_ticket_of_a_network_that_was_not_trained_or_has_another_structure_is_refused(work_on: Any) -> None:
    context, stage = work_on(MLP((8,), 3), (8,)), LotteryTicket(0.5, epochs=1)
    stage.name = "prune"
    with pytest.raises(UserError, match=r"was not trained.*trainer\.max_epochs"):
        stage.begin(context)
    context.task.model = MLP((8,), 3, (7,))
    with pytest.raises(UserError, match="changed the network's architecture"):
        stage.begin(context)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layers"), [("resnet18", 21), ("vgg11_bn", 11), ("mobilenet_v2", 53)])
def test_the_layers_of_torchvision_are_found(name: str, layers: int) -> None:
    import torchvision

    model = torchvision.models.get_model(name, weights=None, num_classes=3)
    stage = OneShot(0.9, scope="global")
    stage.name = "prune"
    stage.check(model, torch.zeros(2, 3, 32, 32), 3)
    assert len(stage.weights(model)) == layers


def cut() -> OneShot:
    return OneShot(0.9, scope="layer")  # of 128 and 48 entries, 13 and 5 stay


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [WeightSharing(bits=8)], "share: no layer has more than"),
        (lambda: [WeightSharing(bits=6)], ""),
        (lambda: [WeightSharing(bits=4, per="channel")], "share: no channel has more than"),
        (lambda: [WeightSharing(bits=3, per="channel")], ""),
        (lambda: [cut(), WeightSharing(bits=4)], "share: no layer has more than"),
        (lambda: [cut(), WeightSharing(bits=3)], ""),
        (lambda: [OneShot(0.95, scope="global"), WeightSharing(bits=4)], "share: no layer has more than"),
        (lambda: [cut(), WeightSharing(bits=5, exclude=["head"], epochs=1)], "share: no layer has more than"),
        (lambda: [OneShot(0.9, exclude=["hidden.0"]), WeightSharing(bits=5)], ""),
        (lambda: [MixedPrecision(bits=8, choices=[6, 8])], ""),
        (lambda: [MixedPrecision(bits=8, choices=[7, 8])], "share: no layer has more than 128 entries to share 2^7"),
        (lambda: [MixedPrecision(bits=3, choices=[2, 8])], ""),
        (lambda: [MixedPrecision(size_ratio=40)], "share: size_ratio=40 cannot be met"),
        (lambda: [cut(), MixedPrecision(bits=5, choices=[4, 5])], "share: no layer has more than"),
        (lambda: [cut(), OneShot(0.5)], "share: sparsity=0.5 means 88 zeros, but 158 weights are already pruned"),
        (lambda: [cut(), OneShot(0.95)], ""),
        (lambda: [OneShot(0.5), NOfM(), WeightSharing(bits=5)], ""),
    ],
)
def test_settings_that_do_not_fit_the_network_are_found_before_it_is_trained(
    make: Any, message: str, work_on: Any
) -> None:
    recipe, model = Recipe(make()), MLP((8,), 3, (16,))
    for stage in recipe.stages:
        stage.name = "share"
    context = work_on(model, (8,))
    untouched = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = _error(lambda: check_recipe(recipe, context, torch.zeros(2, 8), 3, "val/accuracy"))
    assert all(torch.equal(untouched[name], tensor) for name, tensor in model.state_dict().items())
    assert message in found and bool(message) == bool(found)
    if "entries to share" not in found:  # then what is found is what the stages would reject after the training
        assert found == _error(lambda: [stage.begin(context) for stage in recipe.stages])


def _error(call: Callable[[], object]) -> str:
    try:
        call()
    except UserError as error:
        return str(error)
    return ""
