"""What holds for every transform of recordings."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from synthetic_audio import generator, hiss, int16, sine, write_wav
from torch import Tensor, nn

from lightning_modules.augmentation.audio.gain_shift_speed import Gain, Polarity, SpeedPerturbation, TimeShift
from lightning_modules.augmentation.audio.noise_reverberation import BackgroundNoise, Reverberation
from lightning_modules.augmentation.audio.spec_augment import SpecAugment, ToLogMel
from lightning_modules.config.errors import UserError
from lightning_modules.data.compose import Compose
from lightning_modules.zoo.data.log_mel import LogMel

WAVES = {
    "gain": Gain(),
    "polarity": Polarity(1.0),
    "shift": TimeShift(),
    "speed": SpeedPerturbation(),
    "white": BackgroundNoise(probability=1.0),
    "pink": BackgroundNoise(source="pink", probability=1.0),
    "reverberation": Reverberation(probability=1.0),
}
EVERY = [*WAVES, "features"]


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A transform, and a batch of 16 samples for it."""
    if name == "features":
        return SpecAugment(bands=4, frames=0.5), torch.randn(16, 1, 8, 20, generator=generator(3))
    return WAVES[name], hiss(16)


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_follows_from_the_generator_alone_and_stays_as_it_was_itself(name: str) -> None:
    transform, x = made(name)
    given = {"x": x, "y": torch.arange(16), "index": torch.arange(16)}
    copy, before = x.clone(), torch.get_rng_state()
    first, again = transform(given, generator(1)), transform(given, generator(1))
    assert torch.equal(first["x"], again["x"]) and not torch.equal(first["x"], x)
    if name != "polarity":  # a certain one draws nothing
        assert not torch.equal(first["x"], transform(given, generator(2))["x"])
    assert torch.equal(given["x"], copy) and torch.equal(before, torch.get_rng_state())
    assert first["y"] is given["y"] and first["index"] is given["index"]


@pytest.mark.parametrize("name", WAVES)
@pytest.mark.parametrize("dtype", [torch.int16, torch.float16, torch.float64])
def test_the_type_stays_and_each_type_hears_the_same(name: str, dtype: torch.dtype) -> None:
    x = hiss(6)
    same = WAVES[name]({"x": x}, generator())["x"]
    out = WAVES[name]({"x": int16(x) if dtype == torch.int16 else x.to(dtype)}, generator())["x"]
    assert out.dtype == dtype
    heard = out.float() / 32767 if dtype == torch.int16 else out.float()
    assert torch.allclose(heard, same.clamp(-1, 1) if dtype == torch.int16 else same, atol=2e-3)


@pytest.mark.parametrize("name", EVERY)
def test_equal_samples_are_changed_each_in_its_own_way(name: str) -> None:
    transform, x = made(name)
    out = transform({"x": x[:1].expand_as(x)}, generator())["x"]
    if name != "polarity":
        assert len(out.flatten(1).unique(dim=0)) >= 12


@pytest.mark.parametrize("name", EVERY)
def test_samples_are_changed_with_the_probability(name: str) -> None:
    transform, x = made(name)
    x = x.repeat(40, *[1] * (x.ndim - 1))
    try:
        transform.probability = 0.3
        changed = (transform({"x": x}, generator())["x"] != x).flatten(1).any(1).float()
    finally:
        transform.probability = 1.0
    assert abs(float(changed.mean()) - 0.3) < 0.06
    assert abs(float(torch.corrcoef(torch.stack((changed[:-1], changed[1:])))[0, 1])) < 0.12


@pytest.mark.parametrize("name", WAVES)
@pytest.mark.parametrize("shape", [(1, 800), (3, 1), (2, 2), (2, 7), (0, 100)])
def test_short_and_odd_recordings_and_batches_of_one_or_none_work(name: str, shape: tuple[int, int]) -> None:
    out = WAVES[name]({"x": hiss(*shape)}, generator())["x"]
    assert out.shape == shape and out.isfinite().all()


@pytest.mark.parametrize("name", WAVES)
def test_silence_stays_silence(name: str) -> None:
    for silent in (torch.zeros(4, 500), torch.zeros(4, 500, dtype=torch.int16)):
        assert not WAVES[name]({"x": silent}, generator())["x"].any()


@pytest.mark.parametrize("name", EVERY)
def test_no_gradient_is_kept(name: str) -> None:
    transform, x = made(name)
    assert not transform({"x": x.requires_grad_()}, generator())["x"].requires_grad


@pytest.mark.parametrize("name", WAVES)
def test_what_is_no_waveform_is_refused(name: str) -> None:
    for wrong in (torch.zeros(2, 1, 40, 101), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 9).long()):
        with pytest.raises(UserError, match=r"needs waveforms \[T\].*use SpecAugment"):
            WAVES[name]({"x": wrong}, generator())


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Gain(3, -3), r"Gain.\[min_db, max_db\]=\[3, -3\] must be two ascending numbers"),
        (lambda: SpeedPerturbation(0, 1), "of at least 0.1"),
        (lambda: TimeShift(-0.1), "TimeShift"),
        (lambda: BackgroundNoise(30, 5), "min_snr_db"),
        (lambda: BackgroundNoise(source="whit"), "did you mean 'white'"),
        (lambda: BackgroundNoise(folder="here"), "source=folder and a folder belong together"),
        (lambda: BackgroundNoise(probability=1.5), r"Noise.probability=1.5: expected a value in \[0, 1\]"),
        (lambda: Reverberation(0, 1), "of at least 0.001"),
        (lambda: SpecAugment(frames=2), "SpecAugment.frames=2"),
        (lambda: SpecAugment(bands=-1), "SpecAugment.bands=-1"),
    ],
)
def test_a_senseless_setting_is_told(build: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build()  # type: ignore[operator]


def recordings(**more: object) -> SimpleNamespace:
    """What transforms see of a datamodule: sixteen recordings, of which four train."""
    splits = {"train": torch.arange(4)}
    preprocess = LogMel(8000, 64, 20, 8, mean=[1.0] * 8, std=[2.0] * 8)
    known = {"sample_rate": 8000, "name": "made", "splits": splits, "preprocess": preprocess, **more}
    return SimpleNamespace(arrays=SimpleNamespace(x=int16(sine(500, 16, 800))), **known)


def test_waveforms_features_and_masks_make_one_list_and_preprocessing_passes_features_on() -> None:
    data = recordings()
    transforms = Compose({"gain": Gain(), "features": ToLogMel(), "masks": SpecAugment(bands=4)})
    transforms.prepare(data)
    x = data.arrays.x
    out = transforms({"x": x}, generator())["x"]
    assert out.shape == (16, 1, 8, 41)
    normal = data.preprocess(out)
    heard = data.preprocess(Gain()({"x": x}, generator())["x"])
    assert torch.equal((normal != 0), (normal == heard) & (normal != 0)), "what is not masked is as without masks"
    assert (normal == 0).any(), "what is masked is the mean"
    assert not transforms.state_dict(), "a checkpoint is loaded without the augmentation too"


def test_what_needs_recordings_says_so(tmp_path: Path) -> None:
    images = recordings(sample_rate=None, preprocess=nn.Identity())
    write_wav(tmp_path / "hum.wav", int16(sine())[0].numpy())
    for transform in (ToLogMel(), Reverberation(), BackgroundNoise(source="folder", folder=tmp_path)):
        with pytest.raises(UserError, match="needs recordings"):
            transform.prepare(images)
    for unprepared in (ToLogMel(), BackgroundNoise(source="training", probability=1.0)):
        with pytest.raises(UserError, match="call prepare"):
            unprepared({"x": hiss(2)}, generator())
    with pytest.raises(UserError, match="or ToLogMel before it"):
        SpecAugment()({"x": hiss(2)}, generator())


@pytest.mark.gpu
@pytest.mark.parametrize("name", EVERY)
def test_a_gpu_gives_the_batch_that_a_cpu_gives(name: str) -> None:
    transform, x = made(name)
    here = transform({"x": x, "y": torch.arange(16)}, generator(1))["x"]
    there = transform({"x": x.cuda(), "y": torch.arange(16).cuda()}, generator(1))["x"]
    assert there.is_cuda
    assert torch.allclose(there.cpu(), here, rtol=1e-4, atol=1e-4)
