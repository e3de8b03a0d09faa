"""Speech with transcripts: strings of digits, own lists, padding that has no effect, and CTC's decoding."""

import csv
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_audio import generator, hiss, int16, sine, write_spoken_digits, write_wav
from torch import Tensor

from lightning_modules.augmentation.audio.gain_shift_speed import Gain
from lightning_modules.augmentation.audio.noise_reverberation import BackgroundNoise
from lightning_modules.augmentation.audio.spec_augment import SpecAugment, ToLogMel
from lightning_modules.augmentation.audio.variable_length import EachRecording, SpeedAndLength
from lightning_modules.config.errors import UserError
from lightning_modules.data.preprocess import preprocess_spec
from lightning_modules.zoo.data.digit_strings import DigitStrings
from lightning_modules.zoo.data.speech import PADDING, SpeechFeatures, lengths_of, pad_waves, trim
from lightning_modules.zoo.data.transcribed_audio import TranscribedAudio
from lightning_modules.zoo.model.speech import SpeechGRU
from lightning_modules.zoo.task.ctc import CTC, best_path, ctc_losses, decode, output_lengths, prefix_beam_search


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_spoken_digits(folder, indices=6)
    return folder


def strings(root: Path, **settings: object) -> DigitStrings:
    counts = {"num_train": 6, "num_val": 3, "num_test": 4, "held_out": "cid", **settings}
    return DigitStrings(root=root, **counts)  # type: ignore[arg-type]


def own(folder: Path, lines: str, name: str = "transcripts.csv", **settings: object) -> TranscribedAudio:
    for i in range(4):
        write_wav(folder / f"{i}.wav", (sine(length=4000 + 500 * i)[0] * 32767).numpy())
    (folder / name).write_text("file,text\n" + lines)
    return TranscribedAudio(**{"root": folder, "sample_rate": 8000, "val_fraction": 0, "test_fraction": 0, **settings})  # type: ignore[arg-type]


# --- data ----------------------------------------------------------------------------------------------------------
def test_strings_are_digits_of_one_speaker_with_pauses_and_the_test_speaker_is_in_no_other_part(root: Path) -> None:
    data = strings(root, min_snr_db=60, max_snr_db=60)
    data.setup()
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 6, "val": 3, "test": 4}
    assert data.splits["val"].tolist() == [6, 7, 8] and data.arrays.test is not None
    for (x, y), loud in ((data.arrays.test, {3}), ((data.arrays.x, data.arrays.y), {1, 2})):
        for wave, text in zip(x, map(data.preprocess.to_text, y.tolist()), strict=True):
            assert 2 <= len(text.split()) <= 6
            inside = wave[: int(lengths_of(wave[None]))].abs()
            assert round(int(inside.max()) / 3276.7) in loud
            assert (inside[:400] < 100).all() and (inside[-400:] < 100).all()  # pauses of 50 ms or more
            assert len(inside) > 3000 * len(text.split())


def test_strings_are_a_function_of_the_seed(root: Path) -> None:
    first, same, other = (strings(root, generator_seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint() == same.fingerprint() != other.fingerprint()
    assert torch.equal(first.arrays.x, same.arrays.x)
    with pytest.raises(UserError, match="held_out=bobb: did you mean 'bob'"):
        strings(root, held_out="bobb").setup()
    with pytest.raises(UserError, match=r"min_digits=7 is more than data\.max_digits=6"):
        strings(root, min_digits=7)
    with pytest.raises(UserError, match="use data"):
        strings(root, per_class=3)


def test_own_recordings_have_their_texts_and_parts(tmp_path: Path) -> None:
    data = own(tmp_path, '0.wav,"yes,  no"\n1.wav,no\n', "train.csv")
    (tmp_path / "test.csv").write_text("text,file\noh,2.wav\n", encoding="utf-8-sig")
    data.setup()
    assert [data.preprocess.to_text(ids) for ids in data.arrays.y.tolist()] == ["yes, no", "no"]
    assert data.arrays.test is not None and int(lengths_of(data.arrays.test[0])) == 5000
    assert data.num_targets == len(set("yes, no oh")) + 1
    assert data.where["test"] == [f"{tmp_path}/2.wav (test.csv:2)"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("0.wav,yes\n9.wav,no\n", r"transcripts\.csv:3: there is no recording .*9\.wav"),
        ("0.wav, \n", r"transcripts\.csv:2: the transcript of 0\.wav is empty"),
        ("0.wav,yes,no\n", r"transcripts\.csv:2: expected 2 cells"),
        ("0.wav\n", r"transcripts\.csv:2: expected 2 cells"),
        ("0.wav,yes\n0.wav,no\n", r"0\.wav \(transcripts\.csv:3\) is listed twice; first as .*csv:2\)"),
        ("0.wav,yés\n", r"0\.wav \(transcripts\.csv:2\): the transcript has 'é', which data\.symbols lacks"),
        ("", r"transcripts\.csv lists no recording"),
    ],
)
def test_a_wrong_line_is_one_error_with_its_place(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        own(tmp_path, lines, symbols="yesno").setup()


def test_lists_that_are_missing_or_lack_a_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected transcripts\.csv or train\.csv"):
        TranscribedAudio(root=tmp_path).setup()
    (tmp_path / "train.csv").write_text("file,words\n")
    with pytest.raises(UserError, match=r"train\.csv has no column text"):
        TranscribedAudio(root=tmp_path).setup()


def test_a_transcript_that_needs_more_frames_than_there_are_is_named(tmp_path: Path) -> None:
    data = own(tmp_path, "0.wav,ab\n1.wav,nooooooooooooon\n2.wav,a\n")
    data.require_frames(lambda frames: 27)  # 15 symbols, and a blank between 12 pairs of equal ones
    with pytest.raises(
        UserError, match=r"1\.wav \(transcripts\.csv:3\) has 26 frames for a transcript that needs 27: c"
    ):
        data.require_frames(lambda frames: 26 if frames == 4500 // 80 + 1 else 99)


# --- padding -------------------------------------------------------------------------------------------------------
def features(**settings: object) -> SpeechFeatures:
    return SpeechFeatures("ab", 8000, 256, 80, 20, **settings)  # type: ignore[arg-type]


def waves(*lengths: int) -> list[Tensor]:
    return [int16(hiss(i + 1, length)[i]) for i, length in enumerate(lengths)]


def test_padding_changes_neither_features_nor_outputs_nor_loss_of_a_recording() -> None:
    torch.manual_seed(0)
    preprocess, model = features(mean=[-9.0] * 20), SpeechGRU([5000], 3, n_mels=20, channels=8, hidden_size=8).eval()
    each, y = waves(3000, 5000, 81), torch.tensor([[1, 2], [1, 1], [2, 0]])
    assert lengths_of(pad_waves(each)).tolist() == [3000, 5000, 81] and trim(pad_waves(each[:1]))[0].shape == (3000,)
    padded = preprocess(pad_waves(each))
    assert padded[:, -1].sum(1).tolist() == [38, 63, 2] and padded.shape == (3, 21, 63)
    outputs = model(padded)
    assert output_lengths(outputs).tolist() == [19, 32, 1]
    for i, wave in enumerate(each):
        alone = preprocess(wave[None])
        torch.testing.assert_close(padded[i, :, : alone.shape[2]], alone[0])
        assert not padded[i, :, alone.shape[2] :].any()
        single = model(alone)
        torch.testing.assert_close(outputs[i, : single.shape[1]], single[0])
        torch.testing.assert_close(ctc_losses(outputs, y)[i], ctc_losses(single, y[i : i + 1])[0])
        assert best_path(outputs)[i] == best_path(single)[0]


def test_features_are_normalized_over_frames_of_recordings_only_and_rebuilt_from_their_recipe() -> None:
    x = pad_waves(waves(3000, 800))
    fit = features().fit(x, torch.arange(2))
    normal = fit(x)
    inside = normal[:, :-1].transpose(1, 2)[normal[:, -1] > 0]
    assert torch.allclose(inside.mean(0), torch.zeros(20), atol=1e-4) and torch.allclose(
        inside.std(0), torch.ones(20), atol=0.02
    )
    spec = preprocess_spec(fit)
    again = SpeechFeatures(**{key: value for key, value in spec.items() if key != "_target_"})  # type: ignore[arg-type]
    assert torch.equal(again(x), normal) and again.to_text([2, 0, 1]) == "ba"


# --- augmentation --------------------------------------------------------------------------------------------------
def test_noise_has_the_level_of_each_recording_and_padding_stays() -> None:
    x = pad_waves([int16(sine(length=8000, level=0.5)[0]), int16(sine(length=800, level=0.05)[0])])
    noise = BackgroundNoise(min_snr_db=20, max_snr_db=20, probability=1.0)
    out = EachRecording([noise])({"x": x}, generator())["x"]
    assert lengths_of(out).tolist() == [8000, 800] and (out[1, 800:] == PADDING).all()
    for before, after, n in zip(x, out, (8000, 800), strict=True):
        added = (after - before)[:n].double().square().mean()
        assert 10 * torch.log10(before[:n].double().square().mean() / added) == pytest.approx(20, abs=0.5)
    loud = EachRecording([Gain(40, 40)])({"x": x}, generator())["x"]
    assert lengths_of(loud).tolist() == [8000, 800]  # clipped samples are no padding
    with pytest.raises(UserError, match="source=training needs recordings of one length"):
        EachRecording([BackgroundNoise(source="training")]).prepare(object())


@pytest.mark.parametrize("rate", [0.8, 1.25])
def test_speed_changes_the_length_and_cuts_nothing(rate: float) -> None:
    wave = torch.cat([sine(1000, length=400), torch.zeros(1, 3200), sine(1000, length=400)], 1)
    out = EachRecording([SpeedAndLength(rate, rate)])({"x": int16(wave)}, generator())["x"]
    assert out.shape[1] == pytest.approx(4000 / rate, abs=1)
    energy = float(int16(wave).double().square().sum()) / rate
    assert float(out.double().square().sum()) == pytest.approx(energy, rel=0.05)


def test_masks_are_fractions_of_the_frames_of_each_recording() -> None:
    x, preprocess = pad_waves(waves(8000, 1600)), features()
    data = type("Data", (), {"preprocess": preprocess, "name": "data"})()
    mask = SpecAugment(bands=0, frames=0.2, time_masks=1)
    augmentation = EachRecording([ToLogMel(), mask])
    augmentation.prepare(data)
    plain, most = preprocess(x), torch.zeros(2)
    for seed in range(20):
        out = augmentation({"x": x}, generator(seed))["x"]
        assert lengths_of(out).tolist() == [101, 21]
        seen = preprocess(out)
        assert torch.equal(plain[:, -1], seen[:, -1])
        most = torch.maximum(most, (plain != seen)[:, :-1].any(1).sum(1))
    assert 10 < most[0] <= 20 and 1 <= most[1] <= 4


# --- CTC -----------------------------------------------------------------------------------------------------------
def every_labeling(log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """The probability of each labeling as the sum over all paths."""
    frames, symbols = log_probs.shape
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(symbols), repeat=frames):
        labels = tuple(s for s, _ in itertools.groupby(path) if s)
        found[labels] += float(log_probs[torch.arange(frames), list(path)].sum().exp())
    return found


@pytest.mark.parametrize("seed", range(4))
def test_beam_search_and_loss_are_those_of_all_paths(seed: int) -> None:
    log_probs = torch.randn(5, 3, generator=generator(seed)).double().log_softmax(1)
    exact = every_labeling(log_probs)
    found = prefix_beam_search(log_probs, 1000)
    assert {labels: np.exp(logp) for labels, logp in found} == pytest.approx(exact)
    assert found[0][0] == max(exact, key=lambda labels: exact[labels])
    assert [logp for _, logp in found] == sorted((logp for _, logp in found), reverse=True)
    y = torch.tensor([[1, 1, 2, 0]])
    assert float(ctc_losses(log_probs[None], y)) == pytest.approx(-np.log(exact[1, 1, 2]) / 3)
    assert CTC()(log_probs[None].expand(2, -1, -1), y.expand(2, -1)) == pytest.approx(-np.log(exact[1, 1, 2]) / 3)


def test_a_beam_finds_what_the_best_path_misses() -> None:
    log_probs = torch.tensor([[0.4, 0.35, 0.25], [0.4, 0.35, 0.25]]).log()  # blanks are the likeliest path: 0.16
    assert best_path(log_probs[None]) == [()]
    labels, logp = prefix_beam_search(log_probs, 4)[0]
    assert labels == (1,) and np.exp(logp) == pytest.approx(0.35 * 0.35 + 2 * 0.35 * 0.4)
    assert decode(log_probs[None], None) == [()] and decode(log_probs[None], 4) == [(1,)]


def test_a_list_of_transcripts_may_be_quoted(tmp_path: Path) -> None:
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "file"], ['say "no"', "0.wav"]])
    write_wav(tmp_path / "0.wav", (sine()[0] * 32767).numpy())
    data = TranscribedAudio(root=tmp_path, sample_rate=8000, val_fraction=0, test_fraction=0)
    assert data.arrays.y.shape == (1, 8) and data.symbols[:2] == [" ", '"']
