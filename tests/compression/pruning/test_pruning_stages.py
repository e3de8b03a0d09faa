"""Every stage on every kind of network, step by step; the controls; a fit that is cut off and goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.pruning.gradual import Gradual, Movement
from lightning_modules.compression.pruning.lottery import LotteryTicket
from lightning_modules.compression.pruning.one_shot import NOfM, OneShot
from lightning_modules.compression.pruning.pruning_stage import PruningStage
from lightning_modules.compression.pruning.saliency import count_zeros
from lightning_modules.compression.stage import StageContext
from lightning_modules.model.mlp import MLP
from lightning_modules.zoo.model.convnets import CifarResNet, LeNet5
from lightning_modules.zoo.model.time_series import MNIST1DGRU
from lightning_modules.zoo.model.vit import ViT

NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], list[str]]] = {
    # builder, sample, layers whose inputs are no multiple of four
    "mlp": (lambda shape: MLP(shape, 3, (16, 12)), (8,), []),
    "lenet5": (lambda shape: LeNet5(shape, 3), (1, 16, 16), ["features.0", "fc"]),
    "resnet20": (lambda shape: CifarResNet(shape, 3), (1, 8, 8), ["stem.0"]),
    "vit": (lambda shape: ViT(shape, 3, dim=8, depth=1, heads=2), (1, 8, 8), ["patches"]),
    "gru": (lambda shape: MNIST1DGRU(shape, 3, hidden_size=4), (8,), ["gru"]),
}
STAGES: dict[str, Callable[[list[str]], PruningStage]] = {
    "magnitude": lambda odd: OneShot(0.7, scope="global", epochs=1),
    "snip": lambda odd: OneShot(0.7, criterion="snip", when="fit"),
    "taylor": lambda odd: OneShot(0.7, criterion="taylor", biases=True, batches=2),
    "random": lambda odd: OneShot(0.7, criterion="random", epochs=1),
    "gradual": lambda odd: Gradual(0.7, scope="global", every=2, epochs=1),
    "movement": lambda odd: Movement(0.7, every=2, start_fraction=0.1, epochs=1),
    "lottery": lambda odd: LotteryTicket(0.7, rounds=2, epochs=1),
    "2:4": lambda odd: NOfM(exclude=odd, epochs=1),
}


def mlp(work_on: Any, seed: int = 0) -> StageContext:
    torch.manual_seed(3)
    return work_on(MLP((8,), 3, (16, 12)), (8,), seed)


def sparsity(context: StageContext, stage: PruningStage) -> float:
    weights = stage.weights(context.model)
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert zeros == count_zeros(context.state.masks, weights)
    return zeros / sum(weight.numel() for weight in weights.values())


@pytest.mark.parametrize("which", STAGES)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_stage_prunes_every_network_to_the_sparsity_asked_for(
    network: str, which: str, work_on: Any, drive: Any
) -> None:
    build, shape, odd = NETWORKS[network]
    torch.manual_seed(0)
    context, stage = work_on(build(shape), shape), STAGES[which](odd)
    drive(stage, context, steps=4, dense=0 if which == "snip" else 2)
    weights = stage.weights(context.model)
    zeros, n = sum(stage.num_zeros(weights, stage.sparsity)[1]), sum(w.numel() for w in weights.values())
    assert sparsity(context, stage) == zeros / n
    assert abs(zeros - stage.sparsity * n) <= len(weights)
    untouched = set(dict(context.model.named_parameters())) - set(weights)
    assert not untouched & set(context.state.masks)
    assert stage.biases or not any("bias" in name or "norm" in name or ".bn" in name for name in context.state.masks)
    settings = stage.settings()
    assert settings["reached"].keys() == weights.keys() and settings["sparsity"] == stage.sparsity


def test_global_pruning_takes_the_smallest_of_all_layers(work_on: Any, drive: Any) -> None:
    context, stage = mlp(work_on), OneShot(0.9, scope="global")
    before = {name: weight.detach().clone() for name, weight in stage.weights(context.model).items()}
    drive(stage, context)
    gone = torch.cat([before[name][~mask] for name, mask in context.state.masks.items()]).abs()
    kept = torch.cat([before[name][mask] for name, mask in context.state.masks.items()]).abs()
    assert len(gone) == round(0.9 * (len(gone) + len(kept)))
    assert gone.max() <= kept.min()


def test_biases_are_pruned_with_their_layer_where_asked(work_on: Any, drive: Any) -> None:
    context, stage = mlp(work_on), OneShot(0.5, biases=True)
    drive(stage, context)
    for layer in ("hidden.0", "hidden.1", "head"):
        masks = [
            context.state.masks[f"{layer}.{own}"]
            for own in ("weight", "bias")
            if f"{layer}.{own}" in context.state.masks
        ]
        size = sum(p.numel() for p in context.model.get_submodule(layer).parameters())
        assert sum(int((~mask).sum()) for mask in masks) == round(0.5 * size)
    assert any(name.endswith("bias") for name in context.state.masks)


def test_a_parameter_of_two_layers_is_pruned_once(work_on: Any, drive: Any) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    model[2].weight = model[0].weight
    context, stage = work_on(model, (8,)), OneShot(0.5)
    drive(stage, context)
    assert list(context.state.masks) == ["0.weight", "3.weight"]


def test_the_gradual_schedule_is_the_formula_and_a_pruned_weight_stays_so(work_on: Any, go_on: Any) -> None:
    context = mlp(work_on)
    seen: list[tuple[int, float]] = []
    old: dict[str, torch.Tensor] = {}

    class Watched(Gradual):
        def after_step(self, context: StageContext, step: int, total: int) -> None:
            super().after_step(context, step, total)
            masks = context.state.masks
            assert not any((mask & ~old[name]).any() for name, mask in masks.items() if name in old)
            old.update({name: mask.clone() for name, mask in masks.items()})
            seen.append((step, count_zeros(masks, masks)))

    stage = Watched(0.8, scope="global", every=5, start_fraction=0.1, end_fraction=0.7, epochs=1)
    stage.begin(context)
    go_on(stage, context, 50)
    n = sum(weight.numel() for weight in stage.weights(context.model).values())
    assert len(seen) == 50
    for step, zeros in seen:
        last = min(max(step + 1 - 5, 0) // 5 * 5, 30)  # renewed at 5, 10 … 35 = 0.7 * 50
        assert zeros == round((0.8 - 0.8 * (1 - last / 30) ** 3) * n), step
    stage.end(context)


def test_movement_adds_up_what_pushes_weights_to_zero_and_lets_them_come_back(work_on: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    context = work_on(model, (4,))
    weight = model[0].weight
    with torch.no_grad():
        weight.copy_(torch.tensor([[1.0, 2.0, -3.0, 4.0]]))
    stage = Movement(0.5, every=1, end_fraction=0.5, epochs=1)
    stage.begin(context)
    weight.grad = torch.tensor([[2.0, -1.0, -1.0, 0.5]])
    stage.before_step(context, 0, 4)
    assert stage.movement_scores["0.weight"].tolist() == [[-2.0, 2.0, -3.0, -2.0]]
    stage.prune(context, 0.5)
    assert weight.tolist() == [[0.0, 2.0, 0.0, 4.0]]
    weight.grad = torch.tensor([[-5.0, 0.0, 0.0, 1.0]])
    stage.before_step(context, 1, 4)
    assert stage.movement_scores["0.weight"].tolist() == [[3.0, 2.0, -3.0, -6.0]]
    with torch.no_grad():
        weight += torch.tensor([[9.0, 0.5, 9.0, 0.5]])  # what momentum does to pruned ones does not count
    stage.prune(context, 0.5)
    assert weight.tolist() == [[1.0, 2.5, 0.0, 0.0]]
    assert stage.pruned_values["0.weight"].tolist() == [[0.0, 0.0, -3.0, 4.5]]


def test_a_lottery_ticket_is_rewound_and_its_last_masks_are_trained(work_on: Any, go_on: Any) -> None:
    context, stage = mlp(work_on), LotteryTicket(0.8, rounds=3, steps="equal", epochs=2, biases=True)
    go_on(None, context, 8)
    trained = {name: weight.detach().clone() for name, weight in stage.weights(context.model).items()}
    n, zeros = sum(weight.numel() for weight in trained.values()), []
    stage.begin(context)
    assert all(
        (trained[name][~mask].abs().max() <= trained[name].abs().max()) for name, mask in context.state.masks.items()
    )
    for number in range(stage.rounds):
        zeros.append(count_zeros(context.state.masks, trained))
        for name, tensor in context.model.state_dict().items():
            assert torch.equal(tensor, context.initial[name] * context.state.masks.get(name, torch.tensor(1.0)))
        go_on(stage, context, 8)
        if number + 1 < stage.rounds:
            stage.after_round(context, number)
    stage.end(context)
    assert [round(z / n, 1) for z in zeros] == [0.3, 0.5, 0.8]
    assert stage.rounds == 3 and zeros[-1] == count_zeros(context.state.masks, trained)


def test_rewinding_to_an_epoch_takes_the_weights_of_that_epoch(work_on: Any, go_on: Any) -> None:
    context, stage = mlp(work_on), LotteryTicket(0.5, rounds=1, epochs=4, rewind_epochs=1)
    go_on(None, context, 2)
    stage.begin(context)
    assert stage.rounds == 2 and not context.state.masks
    assert all(torch.equal(tensor, context.initial[name]) for name, tensor in context.model.state_dict().items())
    go_on(stage, context, 16)
    stage.after_round(context, 0)
    other = mlp(work_on)
    go_on(None, other, 4)
    other.state.masks = context.state.masks
    other.state.apply(other.model)
    assert all(torch.equal(tensor, other.model.state_dict()[n]) for n, tensor in context.model.state_dict().items())
    assert count_zeros(context.state.masks, context.state.masks) > 0


@pytest.mark.parametrize("which", ["magnitude", "gradual", "movement", "lottery", "2:4"])
def test_the_random_control_has_as_many_zeros_in_each_layer_elsewhere(which: str, work_on: Any, drive: Any) -> None:
    works = []
    for control in (None, "random"):
        context, stage = mlp(work_on), STAGES[which]([])
        stage.control = control
        drive(stage, context, steps=8, dense=4)
        works.append(context)
    ours, control = (context.state.masks for context in works)
    assert ours.keys() == control.keys()
    if which in ("magnitude", "2:4"):
        assert all(int(ours[name].sum()) == int(control[name].sum()) for name in ours)
    assert any(not torch.equal(ours[name], control[name]) for name in ours)
    if which == "2:4":
        assert all((mask.view(-1, 4).sum(1) == 2).all() for mask in control.values())


@pytest.mark.parametrize("make", [OneShot, Gradual, Movement, LotteryTicket])
def test_the_reinitialised_control_trains_the_masks_found_on_new_weights(make: Any, work_on: Any, drive: Any) -> None:
    works = []
    for control in (None, "reinit"):
        context, stage = mlp(work_on), make(0.6, epochs=1, control=control)
        drive(stage, context, steps=6, dense=4)
        works.append(context)
    ours, control = works
    assert all(torch.equal(mask, control.state.masks[name]) for name, mask in ours.state.masks.items())
    assert not torch.equal(ours.model.hidden[0].weight, control.model.hidden[0].weight)
    assert float((control.model.hidden[0].weight == 0).float().mean()) == pytest.approx(0.6, abs=0.01)


def test_a_reinitialised_ticket_starts_from_weights_of_the_seed(work_on: Any, go_on: Any) -> None:
    starts = []
    for seed in (0, 0, 1):
        context, stage = mlp(work_on, seed), LotteryTicket(0.6, rounds=1, epochs=1, control="reinit")
        go_on(None, context, 4)
        stage.begin(context)
        starts.append(context.model.hidden[0].weight.detach().clone())
        assert not torch.equal(starts[-1], context.initial["hidden.0.weight"] * context.state.masks["hidden.0.weight"])
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("make", [OneShot, Gradual, Movement, LotteryTicket])
def test_the_dense_control_trains_as_long_without_a_mask(make: Any, work_on: Any, drive: Any) -> None:
    context, stage = mlp(work_on), make(0.0, epochs=1, control="dense")
    drive(stage, context, steps=6, dense=4)
    assert not context.state.masks and stage.rounds == 1
    assert not torch.equal(context.model.head.weight, context.initial["head.weight"])


def test_masks_of_an_earlier_stage_stay_in_force(work_on: Any, drive: Any) -> None:
    context = mlp(work_on)
    drive(OneShot(0.5, layers=["hidden.0"]), context)
    first = context.state.masks["hidden.0.weight"].clone()
    once = OneShot(0.6, criterion="random")
    for stage in (once, Movement(0.7, every=2, epochs=1), NOfM(1, 4), OneShot(0.9, control="random")):
        drive(stage, context, steps=6)
        assert not (context.state.masks["hidden.0.weight"] & ~first).any()
    assert sparsity(context, OneShot(0.9)) == pytest.approx(0.9, abs=0.002)


@pytest.mark.parametrize("which", ["gradual", "movement", "lottery"])
def test_a_fit_that_was_cut_off_goes_on_to_the_same_masks(which: str, work_on: Any, go_on: Any, tmp_path: Path) -> None:
    make = {
        "gradual": lambda: Gradual(0.8, every=2, epochs=1),
        "movement": lambda: Movement(0.4, every=2, epochs=1),
        "lottery": lambda: LotteryTicket(0.8, rounds=2, epochs=4, rewind_epochs=1),
    }[which]
    whole, cut = mlp(work_on), mlp(work_on)
    for context in (whole, cut):
        stage = make()
        go_on(None, context, 2)
        OneShot(0.2).begin(context)
        stage.begin(context)
        go_on(stage, context, 16, last=9 if context is cut else 16, momentum=0.0)
        if context is cut:
            file = tmp_path / "point.ckpt"
            torch.save({"stage": stage.state_dict(), "form": context.state.plain_dict()}, file)
            point = torch.load(file, weights_only=True)
            stage = make()
            stage.load_state_dict(point["stage"])
            context.state.replace(CompressedState.of(point["form"]))
            go_on(stage, context, 16, first=9, momentum=0.0)
        for number in range(stage.rounds - 1):
            stage.after_round(context, number)
        stage.end(context)
    assert whole.state.masks.keys() == cut.state.masks.keys()
    assert all(torch.equal(mask, cut.state.masks[name]) for name, mask in whole.state.masks.items())
    assert all(torch.equal(tensor, cut.model.state_dict()[n]) for n, tensor in whole.model.state_dict().items())
