from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

CONF = Path(__file__).parents[2] / "conf"


def build(*overrides: str) -> nn.Module:
    with initialize_config_dir(str(CONF), version_base=None):
        return instantiate(compose(overrides=list(overrides)).augmentation)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "augmentation").glob("*.yaml")))
def test_every_augmentation_config_builds_and_keeps_the_shape(name: str) -> None:
    x = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    out = build(f"+augmentation={name}")({"x": x}, torch.Generator())["x"]
    assert (out.shape, out.dtype) == (x.shape, x.dtype)


def test_one_transform_is_overridden_or_left_out_by_its_name() -> None:
    basic, crop_flip = "+augmentation=image_basic", "augmentation.transforms.crop_flip"
    transforms = build(basic, f"{crop_flip}.padding=1").get_submodule("transforms")
    assert [transform.padding for transform in transforms.children()] == [1]
    assert len(list(build(basic, f"{crop_flip}=null").get_submodule("transforms").children())) == 0
