"""Reader for image files of any mode: 8-bit RGB pixels as an image viewer shows them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lightning_modules.config.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".gif")
COLORS = {"white": (255, 255, 255), "black": (0, 0, 0)}
Background = str | Sequence[int]  # "white", "black" or [r, g, b]


def background_color(background: Background) -> tuple[int, int, int]:
    """Return [r, g, b]. Raises UserError if `background` is not a color."""
    given = COLORS.get(background) if isinstance(background, str) else background
    color = tuple(given) if isinstance(given, Sequence) else ()
    if len(color) != 3 or not all(type(value) is int and 0 <= value <= 255 for value in color):
        raise UserError(f"data.background={background}: expected white, black or [r, g, b] with integers from 0 to 255")
    return color[0], color[1], color[2]


def read_image(path: Path, background: Background = "white") -> Image.Image:
    """Read an image file (of an animation the first frame) as 8-bit RGB, rotated by its EXIF orientation.

    Transparent pixels are composited onto `background`. 16-bit grey values (modes I;16 and I) are scaled from
    0..65535 to 0..255, floating-point ones (mode F) from 0..1.

    Raises:
        UserError: the file is not a readable image, or its values exceed the range of its mode.
    """
    try:
        with Image.open(path) as opened:
            opened.load()  # applies the orientation of a TIFF, which must not be applied twice
            image = _to_8_bit(_upright(opened))
            if image.has_transparency_data:
                backdrop = Image.new("RGBA", image.size, (*background_color(background), 255))
                image = Image.alpha_composite(backdrop, image.convert("RGBA"))
            return image.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # a damaged image may raise almost anything
        raise UserError(f"{path} cannot be read as an image ({error}): repair or remove it") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # an image with damaged metadata is still readable
        return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale modes of more than 8 bits to L (with alpha: LA); return other modes unchanged."""
    if not (image.mode == "F" or image.mode.startswith("I")):
        return image
    values = np.asarray(image)
    full = 1 if image.mode == "F" else 65535
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= full):  # NaN too
        raise ValueError(f"its values, mode {image.mode}, range from {low:g} to {high:g}; expected 0 to {full}")
    grey = Image.fromarray((values.astype(np.float64) * (255 / full)).round().astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey
