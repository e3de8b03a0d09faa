"""Recordings of a user's own, by class."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from synthetic_audio import int16, sine, write_wav

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.audio import AudioFolder
from lightning_modules.zoo.data.audio_file import read_recordings


def fill(folder: Path, count: int, names: tuple[str, ...] = ("dog", "cat")) -> None:
    for k, name in enumerate(names):
        for i in range(count):
            write_wav(folder / name / f"{i}.wav", int16(sine(300 * (k + 1), length=900))[0].numpy())


def test_folders_are_classes_and_parts_are_split_off_by_fraction(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    data = AudioFolder(root=tmp_path, seconds=0.1)
    data.setup()
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 14, "val": 2, "test": 4}
    assert (data.class_names, data.input_shape, data.cut) == (["cat", "dog"], (800,), 20)


def test_folders_of_parts_are_taken_as_they_are(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        fill(tmp_path / part, count)
    data = AudioFolder(root=tmp_path, seconds=0.1)
    data.setup()
    assert {part: len(index) for part, index in data.splits.items()} == {"train": 8, "val": 4, "test": 6}
    assert data.arrays.y[data.splits["val"]].tolist() == [0, 0, 1, 1]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no classes were found in .*set data.root"):
        AudioFolder(root=tmp_path).setup()
    fill(tmp_path / "test", 2)
    with pytest.raises(UserError, match="has test but no train folder"):
        AudioFolder(root=tmp_path).setup()
    fill(tmp_path / "train", 2)
    fill(tmp_path / "test", 1, ("dgo",))
    with pytest.raises(UserError, match=r"dgo is not a class of the training part: did you mean 'dog'"):
        AudioFolder(root=tmp_path).setup()
    (tmp_path / "train" / "owl").mkdir()
    with pytest.raises(UserError, match=r"owl contains no audio files"):
        AudioFolder(root=tmp_path).setup()


TONE = np.sin(np.arange(2000) * 0.3) * 0.4


def riff(code: int, bits: int, data: bytes, declared: int | None = None, extensible: bool = False) -> bytes:
    """A mono .wav of 8 kHz by the letter of the format; `declared` is the size in its header."""
    width = bits // 8
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else code, 1, 8000, 8000 * width, width, bits)
    if extensible:
        form += struct.pack("<HHIH", 22, bits, 4, code) + bytes.fromhex("000000001000800000aa00389b71")
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data"
    body += struct.pack("<I", len(data) if declared is None else declared) + data
    return b"RIFF" + struct.pack("<I", len(body) if declared is None else 0xFFFFFFFF) + body


WHOLE = (TONE * 32767).round().astype("<i2")
IN_24 = b"".join(struct.pack("<i", int(value) * 256)[:3] for value in WHOLE)


@pytest.mark.parametrize(
    "content",
    [
        riff(1, 16, WHOLE.tobytes()),
        riff(1, 16, WHOLE.tobytes(), extensible=True),
        riff(1, 16, WHOLE.tobytes(), declared=0xFFFFFFFF),
        riff(1, 24, IN_24),
        riff(1, 24, IN_24, extensible=True),
        riff(1, 32, (WHOLE.astype("<i4") << 16).tobytes()),
        riff(3, 32, (WHOLE / 32768).astype("<f4").tobytes()),
        riff(3, 64, (WHOLE / 32768).astype("<f8").tobytes()),
        riff(3, 32, (WHOLE / 32768).astype("<f4").tobytes(), declared=0xFFFFFFFF, extensible=True),
    ],
    ids=["16", "extensible", "streamed", "24", "24 extensible", "32", "float", "double", "streamed float"],
)
def test_every_kind_of_wav_holds_the_same_sound(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    [wave] = read_recordings([tmp_path / "x.wav"], 8000)
    assert wave.dtype == np.int16 and np.array_equal(wave, WHOLE)


def test_other_formats_are_read_beside_wav(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    soundfile.write(tmp_path / "cat" / "x.flac", WHOLE, 8000)
    soundfile.write(tmp_path / "cat" / "y.FLAC", WHOLE.astype(np.int32) << 16, 8000, subtype="PCM_24", format="FLAC")
    data = AudioFolder(root=tmp_path, seconds=0.25)
    assert len(data.arrays.y) == 22
    for row in data.arrays.x[10:12]:  # type: ignore[index]
        assert np.array_equal(row.numpy(), WHOLE)
    for number in range(3):
        (tmp_path / "dog" / f"{number}.flac").write_bytes(b"fLaC")
    with pytest.raises(UserError, match=r"3 of 25 files cannot be read:\n.*dog/0.flac cannot be read as an audio file"):
        AudioFolder(root=tmp_path).setup()


def test_channels_in_antiphase_are_not_mixed_to_silence(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    other = (np.random.RandomState(0).randn(2000) * 8000).astype(np.int16)
    for name, right in (("in phase", WHOLE), ("one", 0 * WHOLE), ("unrelated", other)):
        write_wav(tmp_path / f"{name}.wav", np.stack([WHOLE, right], 1), channels=2)
    read = read_recordings(sorted(tmp_path.glob("*.wav")), 8000)
    assert not recwarn.list
    for wave, right in zip(read, (WHOLE, 0 * WHOLE, other), strict=True):
        assert np.array_equal(wave, np.stack([WHOLE, right]).mean(0).round())
    for name, right in (("anti", -WHOLE), ("nearly", (-0.9 * WHOLE).astype(np.int16)), ("zero", 0 * WHOLE)):
        left = 0 * WHOLE if name == "zero" else WHOLE
        write_wav(tmp_path / "anti" / f"{name}.wav", np.stack([right, left], 1), channels=2)
    files = sorted(tmp_path.rglob("*.wav"))
    with pytest.warns(UserWarning, match=r"2 of 6 recordings have channels in antiphase: .*anti/anti\.wav"):
        read = read_recordings(files, 8000)
    assert np.array_equal(np.abs(read[0]), np.abs(WHOLE)) and np.array_equal(read[1], WHOLE) and not read[2].any()


def test_sound_above_full_scale_is_clipped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(riff(3, 32, (TONE * 4).astype("<f4").tobytes()))
    with pytest.warns(UserWarning, match="1 of 1 recordings have samples above full scale"):
        [wave] = read_recordings([tmp_path / "x.wav"], 8000)
    assert np.array_equal(wave, np.clip((TONE * 4).astype("<f4").astype(float) * 32768, -32768, 32767).round())
    for wrong, said in (
        (riff(3, 32, np.array([0, np.nan], "<f4").tobytes()), "non-finite samples"),
        (riff(1, 16, b""), "contains no samples"),
        (riff(1, 16, WHOLE.tobytes(), declared=5000), "is truncated by 1000 bytes"),
    ):
        (tmp_path / "x.wav").write_bytes(wrong)
        with pytest.raises(UserError, match=rf"x\.wav .*{said}"):
            read_recordings([tmp_path / "x.wav"], 8000)
