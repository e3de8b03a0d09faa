"""Image files of every mode, against Pillow's own conversions and arithmetic on the values that were written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_modules.config.errors import UserError
from lightning_modules.data.image_folder import Background, ImageFolder, background_color, decode, read_image
from lightning_modules.run.input_files import InputSpec, read_samples

RNG = np.random.RandomState(0)
COLOR = Image.fromarray(RNG.randint(0, 256, (6, 8, 3), np.uint8))
ALPHA = Image.fromarray(RNG.randint(0, 256, (6, 8), np.uint8))


def pixels(path: Path, background: Background = "white") -> np.ndarray:
    return np.array(read_image(path, background)).astype(int)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, 2).astype(int)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_modes_without_alpha_are_converted_as_pillow_does(tmp_path: Path, mode: str) -> None:
    suffix = "png" if mode in ("1", "L", "P", "RGB") else "tif"
    source = COLOR.quantize(16) if mode == "P" else COLOR.convert(mode)
    source.save(tmp_path / f"x.{suffix}")
    assert np.array_equal(pixels(tmp_path / f"x.{suffix}"), np.array(source.convert("RGB")))


@pytest.mark.parametrize("background", ["white", "black", [10, 200, 30]])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_onto_the_background(tmp_path: Path, mode: str, background: Background) -> None:
    source = (COLOR if mode == "RGBA" else COLOR.convert("L")).copy()
    source.putalpha(ALPHA)
    source.save(tmp_path / "x.png")
    color, alpha = np.array(source.convert("RGBA")).astype(float)[..., :3], np.array(ALPHA)[..., None] / 255
    wanted = color * alpha + np.array(background_color(background)) * (1 - alpha)  # Porter and Duff's "over"
    assert np.abs(pixels(tmp_path / "x.png", background) - wanted).max() <= 1


def test_a_transparent_palette_entry_color_or_grey_value_is_background(tmp_path: Path) -> None:
    palette = COLOR.quantize(4)
    palette.save(tmp_path / "palette.png", transparency=1)
    palette.save(tmp_path / "palette.gif", transparency=1)
    index, color = np.array(palette), np.array(palette.convert("RGB"))
    for name in ("palette.png", "palette.gif"):
        found = pixels(tmp_path / name, [1, 2, 3])
        assert (found[index == 1] == [1, 2, 3]).all()
        assert np.array_equal(found[index != 1], color[index != 1])
    flat = COLOR.copy()
    flat.paste((9, 9, 9), (0, 0, 3, 3))
    flat.save(tmp_path / "rgb.png", transparency=(9, 9, 9))
    flat.convert("L").save(tmp_path / "l.png", transparency=9)
    for name in ("rgb.png", "l.png"):
        assert (pixels(tmp_path / name, "black")[:3, :3] == 0).all() and (pixels(tmp_path / name)[:3, :3] == 255).all()


def test_sixteen_bits_are_scaled_by_their_full_range(tmp_path: Path) -> None:
    values = RNG.randint(0, 65536, (6, 8)).astype(np.uint16)
    values[0, :3] = 0, 9000, 65535
    wanted = np.round(values / 257)
    for name in ("x.png", "x.tif", "x.pgm"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.array_equal(pixels(tmp_path / name), grey(wanted)), name
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "i.tif")
    assert np.array_equal(pixels(tmp_path / "i.tif"), grey(wanted))
    assert Image.open(tmp_path / "i.tif").mode == "I"
    big_endian = Image.frombytes("I;16B", (8, 6), values.astype(">u2").tobytes())
    big_endian.save(tmp_path / "b.tif")
    assert np.array_equal(pixels(tmp_path / "b.tif"), grey(wanted))


def test_floats_are_scaled_from_one_and_values_beyond_the_range_are_rejected(tmp_path: Path) -> None:
    values = RNG.rand(6, 8).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "f.tif")
    assert np.array_equal(pixels(tmp_path / "f.tif"), grey(np.round(values.astype(float) * 255)))
    for wrong, said in (
        (values * 300, r"mode F, range from .* expected 0 to 1\)"),
        (np.where(values > 0.5, np.nan, values), "mode F, range from nan"),
        ((values * 1e6).astype(np.int32), r"mode I, .* expected 0 to 65535\)"),
        (-(values * 1e3).astype(np.int32), r"mode I, range from -\d+"),
    ):
        Image.fromarray(wrong).save(tmp_path / "wrong.tif")
        with pytest.raises(UserError, match=rf"wrong\.tif cannot be read as an image .*{said}"):
            read_image(tmp_path / "wrong.tif")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_by_their_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    shown = np.zeros((16, 24), np.uint8)
    shown[:8, :8], shown[:8, 16:] = 255, 128  # three corners differ: each of the eight ways is told apart
    undo: Callable[[np.ndarray], np.ndarray] = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: np.transpose, 6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"quality": 100} if suffix in ("jpg", "webp") else {}
    Image.fromarray(undo(shown).copy()).convert("RGB").save(tmp_path / f"x.{suffix}", exif=exif, **settings)
    assert np.abs(pixels(tmp_path / f"x.{suffix}") - grey(shown)).max() < 30


def test_damaged_metadata_do_not_make_an_image_unreadable(tmp_path: Path) -> None:
    COLOR.save(tmp_path / "x.png", exif=b"Exif\0\0no tiff at all")
    assert np.array_equal(pixels(tmp_path / "x.png"), np.array(COLOR))


def test_training_and_prediction_read_the_same_pixels(tmp_path: Path) -> None:
    values = np.full((8, 8), 9000, np.uint16)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(values).save(tmp_path / name / f"{i}.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a" / "0.png")
    data = ImageFolder(root=tmp_path, image_size=8, background=[1, 2, 3])
    x = data.arrays.x
    assert x[0, :, 0, 0].tolist() == [1, 2, 3] and (x[1:] == 35).all()  # type: ignore[index]
    for shape, cut in (((3, 8, 8), True), ((3, 8, 8), False), ((1, 8, 8), False)):
        wanted = InputSpec(shape, x.dtype, cut, background=[1, 2, 3])
        assert (read_samples(tmp_path / "a" / "1.png", wanted) == 35).all()
        found = read_samples(tmp_path / "a" / "0.png", wanted)[0, :, 0, 0].tolist()
        assert found == ([1, 2, 3] if shape[0] == 3 else [2])
    other = ImageFolder(root=tmp_path, image_size=8)
    assert other.fingerprint() != data.fingerprint()
    assert other.fingerprint() == ImageFolder(root=tmp_path, image_size=8, background=[255, 255, 255]).fingerprint()
    assert (decode(tmp_path / "a" / "0.png", 8) == 255).all()


@pytest.mark.parametrize("background", ["red", [1, 2], [0, 0, 256], [0.5, 0, 0], 5, None, [1, 2, 3, 4]])
def test_a_background_that_is_no_color_is_rejected(background: object) -> None:
    with pytest.raises(UserError, match=r"background=.*expected (white, black or \[r, g, b\]|a string or a list)"):
        ImageFolder(background=background)  # type: ignore[arg-type]
