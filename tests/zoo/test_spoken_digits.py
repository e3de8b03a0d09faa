"""Spoken digits: files, official and held-out test part, features, and synthetic voices."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_audio import sine, write_spoken_digits, write_wav

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data import synthetic_voices
from lightning_modules.zoo.data.audio_file import fit_length, read_recordings
from lightning_modules.zoo.data.spoken_digits import SpokenDigits


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers, seven recordings of each digit."""
    folder = tmp_path_factory.mktemp("digits")
    write_spoken_digits(folder)
    return folder


def ready(root: Path, **settings: object) -> SpokenDigits:
    data = SpokenDigits(root=root, **settings)  # type: ignore[arg-type]
    data.setup()
    return data


def test_the_official_test_part_are_recordings_0_to_4_of_everybody(root: Path) -> None:
    data = ready(root)
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 54, "val": 6, "test": 150}
    assert data.arrays.test is not None and data.arrays.test[1].bincount().tolist() == [15] * 10
    assert data.test_speaker.bincount().tolist() == [50] * 3 and data.speaker.bincount().tolist() == [20] * 3
    assert data.arrays.x.dtype == torch.int16 and data.input_shape == (8000,)
    assert (data.domain, data.sample_rate, data.class_names[3]) == ("audio", 8000, "three")
    assert data.model_settings() == {"n_mels": 40}


def test_a_speaker_that_is_held_out_is_the_whole_test_part_and_in_no_other(root: Path) -> None:
    data = ready(root, held_out="bob")
    assert data.speaker_names == ["ann", "bob", "cid"]
    assert data.test_speaker.unique().tolist() == [1] and len(data.test_speaker) == 70
    assert sorted(data.speaker.unique().tolist()) == [0, 2]
    loud = data.arrays.test[0].abs().amax(1)  # bob's loudness is 0.2
    assert ((loud > 0.19 * 32767) & (loud < 0.21 * 32767)).all()
    with pytest.raises(UserError, match=r"data.held_out=bobb: did you mean 'bob'"):
        ready(root, held_out="bobb")


def test_recordings_lie_in_the_middle_and_longer_ones_are_cut_and_counted(root: Path) -> None:
    data = ready(root, seconds=0.4)  # 3200 samples; the files have 3000 to 3600
    assert data.cut == 3 * 10 * 4 and data.input_shape == (3200,)
    assert fit_length(np.arange(1, 4), 6).tolist() == [0, 1, 2, 3, 0, 0]
    assert fit_length(np.arange(7), 3).tolist() == [2, 3, 4]


def test_features_made_once_are_those_of_preprocessing_without_augmentation(root: Path) -> None:
    once, each = ready(root, features="log_mel"), ready(root)
    assert once.input_shape == (1, 40, 101) and once.arrays.x.dtype == torch.float32
    made, heard = once.preprocess(once.arrays.x), each.preprocess(each.arrays.x)
    assert torch.allclose(made, heard, atol=1e-4)
    assert once.fingerprint() != each.fingerprint()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"features": "wave"}, "SpokenDigits.features=wave: did you mean 'waveform'"),
        ({"seconds": 0}, "SpokenDigits.seconds=0: expected a value in \\(0, 600\\]"),
        ({"n_fft": 2}, "SpokenDigits.n_fft=2: expected 16 or more"),
        ({"sample_rate": 10}, "SpokenDigits.sample_rate=10: expected 1000 or more"),
        ({"synthetic_voices": -1}, "SpokenDigits.synthetic_voices=-1: expected 0 or more"),
    ],
)
def test_a_senseless_setting_is_told_before_anything_is_read(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        SpokenDigits(**settings)  # type: ignore[arg-type]


def test_missing_files_are_answered_with_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)fsdd/recordings.*git clone .*free-spoken-digit-dataset.*data.root"):
        SpokenDigits(root=tmp_path).setup()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"RIFF", "cannot be read as an audio file"), (b"", "Format not recognised"), (b"not a sound at all", "repair")],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    file = write_spoken_digits(tmp_path, ("ann",)) / "3_ann_2.wav"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"3_ann_2.wav .*{said}"):
        SpokenDigits(root=tmp_path).setup()
    cut = write_wav(file, np.arange(1000)).read_bytes()[:-100]
    file.write_bytes(cut)
    with pytest.raises(UserError, match=r"3_ann_2.wav is truncated by 100 bytes"):
        SpokenDigits(root=tmp_path).setup()


def test_other_rates_and_several_channels_become_one_of_8_khz(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(22050) / 22050) * 10000
    write_wav(tmp_path / "stereo.wav", np.stack([tone, 0 * tone], 1), rate=22050, channels=2)
    [heard] = read_recordings([tmp_path / "stereo.wav"], 8000)
    wanted = sine(500, level=5000)[0].numpy()
    assert heard.dtype == np.int16 and len(heard) == 8000
    assert np.abs(heard - wanted)[200:-200].max() < 30


def spoken(count: int, words: object, rate: int, cache: Path) -> list[list[np.ndarray]]:
    return [[np.full(100, 7 + voice, np.int16)] * 10 for voice in range(count)]


def test_synthetic_voices_train_beside_what_is_drawn_of_people(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.zoo.data.spoken_digits.synthesize_voices", spoken)
    plain = ready(root, held_out="ann", per_class=2)
    data = ready(root, held_out="ann", per_class=2, synthetic_voices=3)
    train = data.splits["train"]
    assert len(train) == 20 + 30 and torch.equal(train[:20], plain.splits["train"])
    assert torch.equal(data.splits["val"], plain.splits["val"]) and len(data.splits["test"]) == 70
    assert (data.speaker[train[20:]] == -1).all() and data.arrays.x[train[20:]].amax() == 9
    assert data.arrays.y[train[20:]].tolist() == list(range(10)) * 3
    assert data.class_counts is not None and data.class_counts.tolist() == [5] * 10
    assert len({data.fingerprint(), plain.fingerprint(), ready(root, held_out="ann", per_class=2).fingerprint()}) == 2
    known = {"held_out": "ann", "per_class": 2, "synthetic_voices": 3}
    ready(root, **known, expected_fingerprint=data.fingerprint())
    with pytest.raises(UserError, match="data fingerprint mismatch"):
        ready(root, **known, expected_fingerprint=plain.fingerprint())


def test_without_the_package_the_message_says_how_to_get_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_voices, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"data.synthetic_voices needs the package espeakng-loader: pip install -e"):
        ready(root, synthetic_voices=1)


def test_voices_are_kept_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(voices: int, words: list[str], sample_rate: int) -> bytes:
        lengths = [len(word) * (k + 1) for k in range(voices) for word in words]
        buffer = io.BytesIO()
        np.savez(buffer, flat=np.arange(sum(lengths), dtype=np.int16), lengths=lengths)
        return buffer.getvalue()

    monkeypatch.setattr(synthetic_voices, "_run_subprocess", said)
    monkeypatch.setattr(synthetic_voices, "_version", lambda: "1")
    first = synthetic_voices.synthesize_voices(2, ["a", "bcd"], 8000, tmp_path)
    assert [[len(wave) for wave in voice] for voice in first] == [[1, 3], [2, 6]]
    monkeypatch.setattr(synthetic_voices, "_run_subprocess", None)
    again = synthetic_voices.synthesize_voices(2, ["a", "bcd"], 8000, tmp_path)
    assert all(np.array_equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    [file] = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    monkeypatch.setattr(synthetic_voices, "_run_subprocess", said)
    assert len(synthetic_voices.synthesize_voices(2, ["a", "bcd"], 8000, tmp_path)) == 2


@pytest.mark.slow
def test_espeak_says_different_words_in_different_voices_and_the_same_again(tmp_path: Path) -> None:
    words = ["zero", "seven"]
    first, again = (synthetic_voices.synthesize_voices(5, words, 8000, tmp_path / name) for name in ("a", "b"))
    assert all(np.array_equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    for voice in first:
        assert len(voice) == 2 and all(0.15 * 8000 < len(wave) < 1.5 * 8000 for wave in voice)
        assert all(0.25 * 32767 < np.abs(wave.astype(int)).max() < 0.35 * 32767 for wave in voice)
    assert len({tuple(voice[0][:500]) for voice in first}) == 5
    longer = synthetic_voices.synthesize_voices(6, words, 8000, tmp_path)
    assert np.array_equal(longer[4][1], first[4][1]), "voice k is always the same"
