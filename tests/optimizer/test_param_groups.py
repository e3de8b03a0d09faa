"""Which parameters are trained, and which decay."""

import pytest
import torch
from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.optimizer.param_groups import parameter_groups
from lightning_modules.zoo.model.convnets import ConvNet
from lightning_modules.zoo.model.vit import ViT


def names(model: nn.Module, group: dict[str, list[nn.Parameter]]) -> set[str]:
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return {known[id(parameter)] for parameter in group["params"]}


def test_all_parameters_decay_unless_norms_and_biases_are_exempt() -> None:
    model = ConvNet((1, 8, 8), 10, channels=[4, 8], depth=1)
    [group] = parameter_groups(model, 0.1, decay_norms_and_biases=True)
    assert group["weight_decay"] == 0.1
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]


def test_norms_and_biases_can_be_exempt_from_decay() -> None:
    model = ConvNet((1, 8, 8), 10, channels=[4, 8], depth=1)
    decayed, exempt = parameter_groups(model, 0.1, decay_norms_and_biases=False)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)
    assert names(model, decayed) == {"features.0.weight", "features.4.weight", "head.weight"}
    assert names(model, decayed) | names(model, exempt) == {name for name, _ in model.named_parameters()}


def test_the_weights_of_a_layer_norm_are_exempt_whatever_their_shape() -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Unflatten(1, (2, 3)), nn.LayerNorm((2, 3)))
    decayed, exempt = parameter_groups(model, 0.1, decay_norms_and_biases=False)
    assert names(model, decayed) == {"0.weight"}
    assert names(model, exempt) == {"2.weight", "2.bias"}


def test_the_positions_of_a_transformer_decay() -> None:
    model = ViT((40,), 10, depth=1)
    decayed, _ = parameter_groups(model, 0.1, decay_norms_and_biases=False)
    assert "positions" in names(model, decayed)


@pytest.mark.parametrize("decay_norms_and_biases", [True, False])
def test_frozen_parameters_are_left_out_and_shared_ones_stand_once(decay_norms_and_biases: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    model[2].weight = model[1].weight
    groups = parameter_groups(model, 0.1, decay_norms_and_biases)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in (model[1].weight, model[1].bias, model[2].bias))


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(UserError, match="no trainable parameters"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)


def test_a_step_without_gradient_shrinks_only_what_decays() -> None:
    model = nn.Linear(2, 2)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.5, False), lr=0.1, weight_decay=0.5)
    model(torch.zeros(1, 2)).mul(0).sum().backward()
    optimizer.step()
    assert torch.allclose(model.weight, torch.full((2, 2), 0.95))
    assert torch.equal(model.bias, torch.ones(2))
