import pytest
import torch

from lightning_modules.augmentation.time_series import TimeSeriesJitter
from lightning_modules.config.errors import UserError


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_moves_are_even_over_their_range_and_wrap_around() -> None:
    x = torch.zeros(20_000, 40)
    x[:, 0] = 1.0
    out = TimeSeriesJitter(shift=0.1, scale=0, noise=0)({"x": x}, source())["x"]
    moves = out.argmax(1)
    counts = moves.bincount(minlength=40)
    assert sorted(moves.unique().tolist()) == [0, 1, 2, 3, 4, 36, 37, 38, 39]
    assert float((counts[counts > 0] - 20_000 / 9).abs().max()) < 250
    assert torch.equal(out.sum(1), torch.ones(20_000))


def test_factors_and_noise_have_their_size_and_channels_move_together() -> None:
    x = torch.ones(5000, 2, 30) + torch.arange(30) % 2
    scaled = TimeSeriesJitter(shift=0, scale=0.2, noise=0)({"x": x}, source())["x"] / x
    assert 0.8 <= float(scaled.min()) < 0.81 and 1.19 < float(scaled.max()) <= 1.2
    torch.testing.assert_close(scaled[:, 0], scaled[:, 1])
    noisy = TimeSeriesJitter(shift=0, scale=0, noise=0.5)({"x": x}, source())["x"] - x
    assert abs(float(noisy.std()) - 0.5 * 0.5) < 0.01, "half of each series' deviation of 0.5"
    moved = TimeSeriesJitter(shift=0.5, scale=0, noise=0)({"x": x * torch.tensor([[1.0], [2.0]])}, source())["x"]
    torch.testing.assert_close(moved[:, 1], 2 * moved[:, 0])


def test_constant_and_half_precision_series_and_a_batch_of_one_work() -> None:
    flat = torch.full((1, 7), 3.0, dtype=torch.float16)
    out = TimeSeriesJitter()({"x": flat}, source())["x"]
    assert out.dtype == torch.float16
    assert bool(out.isfinite().all())
    assert float(out.float().std()) < 1e-3


@pytest.mark.parametrize("name", ["shift", "scale", "noise", "probability"])
def test_wrong_settings_are_explained(name: str) -> None:
    with pytest.raises(UserError, match=rf"Jitter\.{name}=-1: expected"):
        TimeSeriesJitter(**{name: -1})


def test_images_and_whole_numbers_are_no_series() -> None:
    for x in (torch.zeros(2, 1, 4, 4), torch.zeros(2, 9, dtype=torch.int64)):
        with pytest.raises(UserError, match="TimeSeriesJitter needs series of floats"):
            TimeSeriesJitter()({"x": x}, source())


@pytest.mark.gpu
def test_a_gpu_gives_the_batch_that_a_cpu_gives() -> None:
    x = torch.randn(64, 2, 30, generator=source(1))
    there = TimeSeriesJitter(shift=0.2)({"x": x.cuda()}, source())["x"]
    assert there.is_cuda
    assert torch.allclose(there.cpu(), TimeSeriesJitter(shift=0.2)({"x": x}, source())["x"], rtol=1e-5, atol=1e-5)
