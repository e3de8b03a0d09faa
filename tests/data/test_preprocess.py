import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.data.preprocess import MinMax, Standardize, check_constants, standardize
from lightning_modules.zoo.data.log_mel import LogMel

G = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (700, 3, 5, 4), dtype=torch.uint8, generator=G)
TABLE = torch.randn(700, 6, generator=G) * 3 + 1e4
PART = torch.arange(0, 700, 2)


def test_images_are_standardised_per_channel() -> None:
    found = Standardize.fit(IMAGES, PART)
    values = IMAGES[PART].double() / 255
    torch.testing.assert_close(found.shift, values.mean((0, 2, 3)).float())
    torch.testing.assert_close(found.scale, values.std((0, 2, 3), correction=0).float())
    expected = (values - values.mean((0, 2, 3), keepdim=True)) / values.std((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(found(IMAGES[PART]), expected.float(), atol=1e-5, rtol=1e-5)


def test_uint8_and_floats_in_0_to_1_give_the_same() -> None:
    found = Standardize([0.5], [0.2])
    torch.testing.assert_close(found(IMAGES), found(IMAGES.float() / 255), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_comes_out_has_the_type_of_the_training(dtype: torch.dtype) -> None:
    for x in (IMAGES, IMAGES.float() / 255):
        values = Standardize([0.5], [0.2]).to(dtype)(x)
        assert values.dtype == dtype
        torch.testing.assert_close(values.float(), Standardize([0.5], [0.2])(x), atol=0.05, rtol=0)
    assert LogMel(8000, 256, 80, 20).to(dtype)(torch.zeros(2, 4000, dtype=torch.int16)).dtype == dtype


def test_the_raw_batch_is_left_as_it_is() -> None:
    for x in (IMAGES.clone(), TABLE.clone()):
        before = x.clone()
        Standardize([0.5], [0.2])(x)
        assert torch.equal(x, before)


def test_tables_are_standardised_per_feature_far_from_zero() -> None:
    scaled = Standardize.fit(TABLE, PART)(TABLE[PART])
    torch.testing.assert_close(scaled.mean(0), torch.zeros(6), atol=2e-3, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(6), atol=2e-3, rtol=0)


def test_min_max_maps_the_fitted_part_to_0_and_1() -> None:
    scaled = MinMax.fit(TABLE, PART)(TABLE[PART])
    assert torch.equal(scaled.amin(0), torch.zeros(6))
    torch.testing.assert_close(scaled.amax(0), torch.ones(6))


@pytest.mark.parametrize("kind", [Standardize, MinMax])
def test_a_constant_column_stays_finite(kind: type[Standardize] | type[MinMax]) -> None:
    table = torch.cat((TABLE, torch.full((700, 1), 0.1)), 1)
    scaled = kind.fit(table, PART)(table)
    assert scaled.isfinite().all()
    torch.testing.assert_close(scaled[:, -1], torch.zeros(700))


def test_the_constants_are_buffers_and_not_parameters() -> None:
    module = Standardize([0.5], [0.2])
    assert list(module.parameters()) == []
    assert set(module.state_dict()) == {"shift", "scale"}


def test_constants_of_the_wrong_number_are_explained() -> None:
    with pytest.raises(UserError, match=r"data.mean has 2 .* 3 channels"):
        standardize(IMAGES, PART, [0.5, 0.5], [0.2, 0.2])
    assert standardize(IMAGES, PART, [0.5], [0.2])(IMAGES).shape == IMAGES.shape
    for mean, std, message in (([0.5], None, "give both"), ([0.5], [0.0], "must be greater than 0")):
        with pytest.raises(UserError, match=message):
            check_constants(mean, std)
    check_constants(None, None)
