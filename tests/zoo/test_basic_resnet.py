import pytest
import torch
from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.model.convnets import BasicResNet, ProjectionBlock


def test_every_stage_but_the_first_halves_the_image_and_has_a_projection() -> None:
    model = BasicResNet((3, 32, 32), 10)
    x, sides = model.stem(torch.randn(1, 3, 32, 32)), []
    for block in model.blocks:
        x = block(x)
        sides.append(x.shape[-1])
    assert sides == [32, 32, 16, 16, 8, 8, 4, 4]
    projections = [isinstance(block.shortcut, nn.Sequential) for block in model.blocks]  # type: ignore[union-attr]
    assert projections == [False, False, True, False, True, False, True, False]


def test_a_block_adds_its_input_to_what_it_computes() -> None:
    block = ProjectionBlock(4, 4).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 4, 5, 5)
    assert torch.allclose(block(x), x)


def test_a_network_without_stages_or_blocks_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.widths"):
        BasicResNet((3, 32, 32), 10, widths=[])
    with pytest.raises(UserError, match=r"BasicResNet\.blocks=0: expected 1 or more"):
        BasicResNet((3, 32, 32), 10, blocks=0)


def test_images_that_the_stages_would_empty_are_refused() -> None:
    with pytest.raises(UserError, match="at least 8x8"):
        BasicResNet((3, 4, 4), 10)
