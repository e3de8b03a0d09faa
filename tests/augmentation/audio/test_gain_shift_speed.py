"""Louder, later and faster: against references."""

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly
from synthetic_audio import generator, hiss, int16, level_db, sine

from lightning_modules.augmentation.audio.gain_shift_speed import (
    Gain,
    Polarity,
    SpeedPerturbation,
    TimeShift,
    change_speed,
)


def test_gains_are_uniform_in_decibels_over_their_range() -> None:
    x = sine(count=4000, length=64, level=0.01)
    gains = level_db(Gain(-10, 20)({"x": x}, generator())["x"]) - level_db(x)
    assert gains.min() >= -10 and gains.max() <= 20.001
    assert torch.histc(gains.float(), 6, -10, 20).sub(4000 / 6).abs().max() < 110
    assert abs(float(torch.corrcoef(torch.stack((gains[:-1], gains[1:])))[0, 1])) < 0.06


@pytest.mark.slow  # audiomentations is a reference, not a part
def test_a_gain_is_that_of_audiomentations() -> None:
    from audiomentations import Gain as Reference

    x = hiss(3)
    ours = Gain(-4.5, -4.5)({"x": x}, generator())["x"]
    reference = Reference(min_gain_db=-4.5, max_gain_db=-4.5, p=1.0)
    assert np.allclose(ours, [reference(one, 8000) for one in x.numpy()], atol=1e-7)


def test_what_is_too_loud_for_int16_is_clipped_and_not_wrapped() -> None:
    out = Gain(40, 40)({"x": int16(sine())}, generator())["x"]
    assert out.min() == -32768 and out.max() == 32767
    assert (out.sign() == int16(sine()).sign()).all()


def test_polarity_turns_a_recording_upside_down_even_the_lowest_value() -> None:
    x = torch.tensor([[-32768, 5, 0, 32767]], dtype=torch.int16)
    assert Polarity(1.0)({"x": x}, generator())["x"].tolist() == [[32767, -5, 0, -32767]]


def test_shifts_are_whole_and_uniform_and_silence_comes_in() -> None:
    x = torch.zeros(6000, 21)
    x[:, 10] = 1
    out = TimeShift(0.25)({"x": x}, generator())["x"]
    assert (out.sum(1) == 1).all()
    moves = out.argmax(1) - 10
    assert moves.min() == -5 and moves.max() == 5
    assert (moves + 5).bincount().sub(6000 / 11).abs().max() < 90
    ramp = torch.arange(1.0, 9).expand(100, 8)
    for row in TimeShift(1.0)({"x": ramp}, generator())["x"].tolist():
        kept = [value for value in row if value]
        assert kept == list(range(1, 9))[: len(kept)] or kept == list(range(1, 9))[-len(kept) :]


@pytest.mark.slow  # audiomentations is a reference, not a part
def test_a_shift_is_that_of_audiomentations() -> None:
    from audiomentations import Shift as Reference

    x = hiss(1, 100)
    ours = TimeShift(0.3)({"x": x}, generator())["x"]
    later = int(torch.randint(-30, 31, (1, 1), generator=skipped(1)))
    reference = Reference(
        min_shift=later, max_shift=later, shift_unit="samples", rollover=False, fade_duration=0, p=1.0
    )
    assert np.array_equal(ours[0], reference(x[0].numpy(), 8000))


def skipped(count: int) -> torch.Generator:
    """A generator from which the choice of `count` samples has been drawn."""
    source = generator()
    torch.rand(count, generator=source)
    return source


@pytest.mark.parametrize(
    ("frequency", "rate"),
    [
        (200, 0.8),
        (1000, 0.8),
        (2600, 0.8),
        (2600, 1.0),
        (1000, 1.1),
        (2600, 1.1),
        (2600, 1.3),
        (3750, 1.1),
        (3200, 1.3),
    ],
)
def test_a_tone_played_faster_is_a_higher_tone_and_none_is_folded_back(frequency: int, rate: float) -> None:
    place = torch.arange(8000) - 3999.5
    tone = torch.sin(2 * torch.pi * frequency * place / 8000)[None]
    wanted = torch.sin(2 * torch.pi * frequency * rate * place / 8000) * (frequency * rate < 4000)
    middle = slice(1500, 6500)
    played = change_speed(tone, torch.tensor([rate]))[0]
    assert (played - wanted)[middle].square().mean().sqrt() < 0.01


def test_playing_is_scipys_resampling_around_the_middle() -> None:
    x = torch.from_numpy(resample_poly(hiss(1, 502)[0].numpy(), 3, 1))[
        None, :1505
    ]  # band-limited; its middle is a sample
    slower = torch.from_numpy(resample_poly(x[0].numpy().astype(np.float64), 5, 4)).float()  # rate 4 / 5
    start = 940 - 752  # of the middles
    ours, wanted = change_speed(x, torch.tensor([0.8]))[0], slower[start : start + 1505]
    at = slice(100, 1400)
    assert (ours - wanted)[at].square().mean() < 1e-3 * wanted[at].square().mean()


def test_silence_lies_beyond_the_ends_of_what_is_played_faster() -> None:
    out = change_speed(torch.ones(1, 1000), torch.tensor([2.0]))[0]
    assert not out[:240].any() and not out[-240:].any()
    assert torch.allclose(out[300:700], torch.ones(400), atol=0.02)


def test_rates_are_log_uniform_over_their_range() -> None:
    x = sine(500, count=400, length=2000)
    out = SpeedPerturbation(0.5, 2.0)({"x": x}, generator())["x"][:, 600:1400]
    crossings = (out[:, 1:].sign() != out[:, :-1].sign()).sum(1) / 100  # 100 in a tenth of a second at 500 Hz
    logs = crossings.log2()
    assert logs.min() > -1.1 and logs.max() < 1.1
    assert torch.histc(logs.clamp(-0.999, 0.999), 4, -1, 1).sub(100).abs().max() < 30
