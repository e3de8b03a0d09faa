"""Log-mel features: against references, and normalised by the training part."""

import pytest
import torch
from hydra.utils import instantiate
from synthetic_audio import hiss, int16, sine

from lightning_modules.config.errors import UserError
from lightning_modules.data.fingerprint import describe_preprocess
from lightning_modules.zoo.data.log_mel import POWER_FLOOR, LogMel, MelSpectrum


@pytest.mark.slow  # torchaudio is a reference, not a part
@pytest.mark.parametrize(("rate", "n_fft", "hop", "n_mels"), [(8000, 256, 80, 40), (16000, 400, 160, 64)])
def test_features_are_those_of_torchaudio(rate: int, n_fft: int, hop: int, n_mels: int) -> None:
    import torchaudio

    x = hiss(2, 5000) + sine(700, 2, 5000)
    ours = MelSpectrum(rate, n_fft, hop, n_mels)(x)
    reference = torchaudio.transforms.MelSpectrogram(rate, n_fft, hop_length=hop, n_mels=n_mels)(x)
    assert torch.allclose(ours[:, 0], (reference + POWER_FLOOR).log(), atol=1e-3)


@pytest.mark.slow  # librosa takes a minute to compile itself
def test_features_are_those_of_librosa() -> None:
    import librosa

    x = hiss(2, 5000) + sine(700, 2, 5000)
    settings = {"sr": 8000, "n_fft": 256, "hop_length": 80, "n_mels": 40, "pad_mode": "reflect"}
    reference = librosa.feature.melspectrogram(y=x.numpy(), **settings, htk=True, norm=None)
    ours = MelSpectrum(8000, 256, 80, 40)(x)[:, 0]
    assert torch.allclose(ours, (torch.from_numpy(reference) + POWER_FLOOR).log(), atol=1e-3)


def test_integers_are_heard_as_the_floats_that_they_stand_for_and_silence_is_the_floor() -> None:
    spectrum = MelSpectrum(8000, 256, 80, 40)
    x = sine(count=2) + hiss(2, 8000, 0.01)
    assert torch.allclose(spectrum(int16(x)), spectrum(x), atol=0.02)
    silent = spectrum(torch.zeros(1, 8000, dtype=torch.int16))
    assert silent.shape == (1, 1, 40, 101) and torch.allclose(silent, torch.tensor(POWER_FLOOR).log())


@pytest.mark.parametrize("length", [1, 2, 100, 129, 8001])
def test_recordings_shorter_than_a_window_have_features_too(length: int) -> None:
    assert MelSpectrum(8000, 256, 80, 40)(hiss(2, length)).shape == (2, 1, 40, length // 80 + 1)


def test_each_band_of_the_training_part_has_mean_0_and_std_1_and_only_that_is_measured() -> None:
    x = torch.cat([hiss(300, 1600), 100 * hiss(5, 1600)])
    train = torch.arange(300)
    features = LogMel(8000, 256, 80, 20).fit(x, train)
    normal = features(x[train])[:, 0].transpose(0, 1).flatten(1)
    assert normal.mean(1).abs().max() < 1e-4 and (normal.std(1) - 1).abs().max() < 1e-3
    from_features = LogMel(8000, 256, 80, 20).fit(features.spectrum(x), train)
    assert torch.allclose(from_features.normalise.shift, features.normalise.shift)


def test_what_is_features_already_is_only_normalised() -> None:
    features = LogMel(8000, 256, 80, 20).fit(hiss(20, 1600), torch.arange(20))
    assert torch.equal(features(features.spectrum(hiss(3))), features(hiss(3)))


def test_a_recipe_of_plain_values_builds_the_same_preprocessing() -> None:
    features = LogMel(8000, 256, 80, 20).fit(hiss(20, 1600), torch.arange(20))
    again = instantiate(features.recipe())
    assert torch.equal(again(hiss(3)), features(hiss(3)))
    assert features.recipe()["fitted"] is True and again.recipe() == features.recipe()


def test_a_fingerprint_sees_every_setting_and_no_moments() -> None:
    def seen(x: torch.Tensor, *settings: int) -> list[str]:
        return describe_preprocess(LogMel(*settings).fit(x, torch.arange(len(x))))

    x = hiss(5, 1600)
    assert seen(x, 8000, 256, 80, 20) == seen(2 * x, 8000, 256, 80, 20)
    others = [(16000, 256, 80, 20), (8000, 512, 80, 20), (8000, 256, 100, 20), (8000, 256, 80, 21)]
    assert all(seen(x, *other) != seen(x, 8000, 256, 80, 20) for other in others)


def test_senseless_spectra_are_told() -> None:
    with pytest.raises(UserError, match=r"data.n_mels=200 is too many for data.n_fft=256"):
        MelSpectrum(8000, 256, 80, 200)
    with pytest.raises(UserError, match=r"data.hop=300 exceeds data.n_fft=256"):
        MelSpectrum(8000, 256, 300, 40)
    with pytest.raises(UserError, match=r"MelSpectrum.n_mels=0: expected 1 or more"):
        MelSpectrum(8000, 256, 80, 0)
