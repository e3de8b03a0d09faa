"""Noise at a ratio, and reverberation."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from synthetic_audio import generator, hiss, int16, level_db, sine, write_wav

from lightning_modules.augmentation.audio.noise_reverberation import (
    BackgroundNoise,
    Reverberation,
    fft_convolve,
    pink_noise,
)
from lightning_modules.config.errors import UserError


@pytest.mark.parametrize("source", ["white", "pink"])
def test_noise_has_the_ratio_that_is_drawn_uniformly_in_decibels(source: str) -> None:
    x = sine(count=1200, length=400)
    added = BackgroundNoise(-5, 25, source=source, probability=1.0)({"x": x}, generator())["x"] - x
    ratios = level_db(x) - level_db(added)
    assert ratios.min() > -5.01 and ratios.max() < 25.01
    assert torch.histc(ratios.float(), 5, -5.01, 25.01).sub(240).abs().max() < 60


@pytest.mark.slow  # audiomentations is a reference, not a part
def test_a_ratio_is_that_of_audiomentations() -> None:
    from audiomentations import AddGaussianSNR

    x = sine(300)
    reference = torch.from_numpy(AddGaussianSNR(min_snr_db=7.0, max_snr_db=7.0, p=1.0)(x[0].numpy(), 8000)) - x
    added = BackgroundNoise(7, 7, probability=1.0)({"x": x}, generator())["x"] - x
    assert level_db(added).item() == pytest.approx(level_db(x).item() - 7, abs=1e-3)
    assert level_db(added).item() == pytest.approx(level_db(reference).item(), abs=0.25)


def test_pink_noise_has_equal_power_in_every_octave() -> None:
    power = torch.fft.rfft(pink_noise(hiss(200, 4096))).abs().square().mean(0)
    octaves = torch.tensor([power[2**k : 2 ** (k + 1)].sum() for k in range(4, 11)])
    assert (octaves / octaves.mean() - 1).abs().max() < 0.1
    assert pink_noise(hiss(3)).mean(1).abs().max() < 1e-6


def test_only_training_recordings_are_taken_as_noise() -> None:
    x = torch.stack([sine(100 * (k + 1), length=800)[0] for k in range(8)])
    train = torch.tensor([1, 4, 6])
    data = SimpleNamespace(arrays=SimpleNamespace(x=int16(x)), splits={"train": train})
    noise = BackgroundNoise(0, 0, source="training", probability=1.0)
    noise.prepare(data)
    quiet = sine(3000, count=300, length=800)
    added = noise({"x": quiet}, generator())["x"] - quiet
    found = torch.fft.rfft(added).abs().argmax(1) * 10  # Hz
    assert sorted(found.unique().tolist()) == [200, 500, 700]


def test_short_background_is_repeated_and_a_folder_without_any_is_told(tmp_path: Path) -> None:
    write_wav(tmp_path / "deep" / "click.WAV".lower(), np.array([3000, -3000, 1000]))
    noise = BackgroundNoise(10, 10, "folder", tmp_path, probability=1.0)
    noise.prepare(SimpleNamespace(sample_rate=8000))
    x = sine(count=2, length=50)
    assert (noise({"x": x}, generator())["x"] != x).all()
    with pytest.raises(UserError, match=r"Noise.folder=.*empty: there are no audio files"):
        BackgroundNoise(source="folder", folder=tmp_path / "empty").prepare(SimpleNamespace(sample_rate=8000))


def test_convolution_is_numpys() -> None:
    x, response = hiss(3, 101), hiss(3, 37)
    wanted = [np.convolve(a, b)[:101] for a, b in zip(x.numpy(), response.numpy(), strict=True)]
    assert np.allclose(fft_convolve(x, response), wanted, atol=1e-6)


def test_a_room_decays_by_60_decibels_in_its_time_and_has_its_direct_sound() -> None:
    rooms = Reverberation(0.3, 0.3, 6.0, 6.0)._rooms(200, 8000, generator())
    assert rooms.shape == (200, 2400) and (rooms[:, 0] == 1).all()
    tail = rooms[:, 1:].double().square()
    assert torch.allclose(10 * tail.sum(1).log10(), torch.tensor(-6.0).double(), atol=1e-3)
    early, late = tail[:, 200:400].mean(), tail[:, 1800:2000].mean()  # 0.2 s apart: 40 dB
    assert float(10 * (early / late).log10()) == pytest.approx(40, abs=1)


def test_reverberation_keeps_the_level_and_sounds_on_after_the_end() -> None:
    x = sine(count=20, length=8000)
    x[:, 4000:] = 0
    out = Reverberation(0.3, 0.6, 0.0, 5.0, probability=1.0)({"x": x}, generator())["x"]
    assert torch.allclose(level_db(out), level_db(x), atol=1e-3)
    after = level_db(out[:, 4100:4400])
    assert (after > -40).all() and (level_db(out[:, 7000:]) < after).all()


def test_an_impulse_response_of_a_folder_is_taken_from_its_peak(tmp_path: Path) -> None:
    response = np.array([0, 200, 20000, 0, 10000])
    write_wav(tmp_path / "hall.wav", response)
    room = Reverberation(folder=tmp_path, probability=1.0)
    room.prepare(SimpleNamespace(sample_rate=8000))
    x = hiss(2, 300)
    out = room({"x": x}, generator())["x"]
    wanted = x.clone()
    wanted[:, 2:] += 0.5 * x[:, :-2]
    wanted *= (x.square().mean(1) / wanted.square().mean(1)).sqrt()[:, None]
    assert torch.allclose(out, wanted, atol=1e-5)
