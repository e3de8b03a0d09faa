from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_modules.augmentation.image.crop_flip import CropFlip
from lightning_modules.augmentation.tta import TestTimeAugmentation
from lightning_modules.config.errors import UserError


def test_the_first_view_is_the_sample_as_it_is() -> None:
    x = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    batch = {"x": x, "y": torch.arange(4)}
    plain, mirrored = TestTimeAugmentation({"flip": CropFlip(0, 1.0)}, views=1)(batch, torch.Generator())
    assert torch.equal(plain, x)
    assert torch.equal(mirrored, x.flip(3))


def test_a_transform_that_mixes_targets_is_refused() -> None:
    class Mixes(torch.nn.Module):
        def forward(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
            return {**batch, "y": batch["y"].float()}

    with pytest.raises(UserError, match="transforms that mix samples or targets cannot be used"):
        list(TestTimeAugmentation([Mixes()])({"x": torch.zeros(2, 1, 2, 2), "y": torch.arange(2)}, torch.Generator()))


def test_no_view_is_no_test_time_augmentation() -> None:
    with pytest.raises(UserError, match=r"views=0: expected 1 or more"):
        TestTimeAugmentation([], views=0)


@pytest.mark.slow
def test_a_run_measures_both_and_mirrored_views_of_symmetric_scores_agree(train: Callable[..., Any]) -> None:
    """Of views that are the sample itself the mean is the plain result; of a mirrored one it is another."""
    same = train("tta=flip", "tta.transforms.flip.flip_probability=0.0").data.metrics
    assert same["tta/test/loss"] == pytest.approx(same["test/loss"], rel=1e-5)
    other = train("tta=flip").data.metrics
    assert other["test/loss"] == pytest.approx(same["test/loss"], rel=1e-6)
    assert other["tta/test/loss"] != pytest.approx(same["test/loss"], rel=1e-3)
