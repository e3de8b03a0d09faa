from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "augmentation").glob("*.yaml"))


def build(*overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base=None):
        return instantiate(compose(overrides=list(overrides)).augmentation)


class TenClasses:
    num_classes = 10


def domain_of(name: str) -> str:
    return {"cutout": "image", "none": "image"}.get(name, name.partition("_")[0])


@pytest.mark.parametrize("name", [name for name in NAMES if domain_of(name) == "image"])
def test_every_image_config_builds_and_keeps_shape_and_type(name: str) -> None:
    x = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    transforms = build(f"+augmentation={name}")
    transforms.prepare(TenClasses())
    out = transforms({"x": x, "y": torch.arange(5), "index": torch.arange(5)}, torch.Generator())["x"]
    assert (out.shape, out.dtype) == (x.shape, x.dtype)


def test_every_config_is_of_a_known_domain() -> None:
    assert {domain_of(name) for name in NAMES} == {
        "image",
        "series",
        "audio",
        "text",
        "interactions",
        "masks",
        "boxes",
        "speech",
    }


def test_one_transform_is_overridden_or_left_out_by_its_name() -> None:
    basic, crop_flip = "+augmentation=image_basic", "augmentation.transforms.crop_flip"
    transforms: nn.Module = build(basic, f"{crop_flip}.padding=1").get_submodule("transforms")
    assert [transform.padding for transform in transforms.children()] == [1]
    assert len(list(build(basic, f"{crop_flip}=null").get_submodule("transforms").children())) == 0
