import pytest
import torch
from torch import Tensor

from lightning_modules.augmentation.image.erasing import Cutout
from lightning_modules.config.errors import UserError


def covered(size: int, side: int = 9, count: int = 4000) -> Tensor:
    """bool [count, side, side]: the pixels that cutout has covered in white images."""
    x = torch.ones(count, 1, side, side)
    return Cutout(size)({"x": x}, torch.Generator().manual_seed(0))["x"][:, 0] == 0


def test_one_square_is_covered_and_may_hang_over_the_border() -> None:
    found = covered(3)
    rows, columns = found.any(2).sum(1), found.any(1).sum(1)
    assert torch.equal(found.sum((1, 2)), rows * columns), "a rectangle"
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3}
    assert ((rows == 2) & (columns == 2)).any(), "a corner"


def test_every_pixel_is_as_often_the_centre() -> None:
    middle = covered(1, side=4, count=16_000).sum(0)
    assert middle.sum() == 16_000
    assert middle.sub(1000).abs().max() < 150


def test_an_even_square_reaches_further_to_the_left_and_top() -> None:
    x = torch.ones(500, 1, 9, 9)
    rows = Cutout(4)({"x": x}, torch.Generator().manual_seed(1))["x"].eq(0).any(3)[:, 0]
    centre = torch.randint(9, (500,), generator=torch.Generator().manual_seed(1))
    for row, at in zip(rows, centre.tolist(), strict=True):
        assert row.nonzero().flatten().tolist() == [r for r in range(at - 2, at + 2) if 0 <= r < 9]


def test_covered_pixels_get_the_fill_of_their_channel_and_the_others_stay() -> None:
    x = torch.full((8, 3, 6, 6), 200, dtype=torch.uint8)
    out = Cutout(3, fill=[10.6, 20, 30])({"x": x}, torch.Generator().manual_seed(0))["x"]
    assert out.dtype == torch.uint8
    for channel, value in enumerate((10, 20, 30)):
        assert set(out[:, channel].unique().tolist()) == {value, 200}
    assert (x == 200).all()


def test_samples_that_are_no_images_and_senseless_sizes_are_refused() -> None:
    with pytest.raises(UserError, match=r"Cutout\.size=0"):
        Cutout(0)
    for cutout, shape in ((Cutout(3), (2, 40)), (Cutout(3, fill=[1, 2, 3]), (2, 1, 8, 8))):
        with pytest.raises(UserError, match="Cutout"):
            cutout({"x": torch.zeros(shape)}, torch.Generator())
