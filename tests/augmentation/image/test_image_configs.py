"""The shipped configs of images: built, shown the data, and done to batches."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

CONF = Path(__file__).parents[3] / "conf"
NAMES = sorted(
    path.stem for path in (CONF / "augmentation").glob("*.yaml") if path.stem.startswith(("image_", "cutout"))
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_config_of_images_changes_them_and_keeps_their_shape(name: str, channels: int) -> None:
    settings = ["augmentation.transforms.cutout.fill=7"] if name == "cutout" else []  # its fill is for three channels
    with initialize_config_dir(str(CONF), version_base=None):
        transform = instantiate(compose(overrides=[f"+augmentation={name}", *settings]).augmentation)
    transform.prepare(SimpleNamespace(num_classes=10))
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (16, channels, 28, 28), dtype=torch.uint8, generator=generator)
    out = transform({"x": x, "y": torch.arange(16) % 10, "index": torch.arange(16)}, generator)
    assert (out["x"].shape, out["x"].dtype) == (x.shape, torch.uint8)
    assert not torch.equal(out["x"], x)
    mixed = name in ("image_mixup", "image_cutmix")
    assert out["y"].shape == ((16, 10) if mixed else (16,))
