"""Masks that a segmentation predicts for image files."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from lightning_modules.config.errors import UserError
from lightning_modules.data.image_folder import read_image
from lightning_modules.run.input_files import InputSpec, list_files
from lightning_modules.zoo.data.masks import overlay, palette

if TYPE_CHECKING:
    from lightning_modules.zoo.task.segmentation import Segmentation

MAX_LISTED = 5  # files that a message names


def write_masks(task: "Segmentation", wanted: InputSpec, source: Path, folder: Path) -> list[dict[str, str]]:
    """Write ``NAME.png``, the class numbers as a palette image, and ``NAME.overlay.png`` for each image of a file or folder.

    Returns the file, its mask, and the share of pixels of each class. A warning lists files that are not readable images.
    Raises UserError if none is, or if masks would replace images.
    """
    if folder.resolve() == (source if source.is_dir() else source.parent).resolve():
        raise UserError(f"output={folder}: the masks would replace the images; choose another folder")
    rows: list[dict[str, str]] = []
    failed: list[str] = []
    for file in list_files(source):
        try:
            image = read_image(file, wanted.background)
        except UserError as error:
            failed.append(str(error))
            continue
        target = folder / (file.relative_to(source) if source.is_dir() else Path(file.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        mask = _predict(task, image, wanted)
        written = Image.fromarray(mask)
        written.putpalette(palette().flatten().tolist())
        written.save(target.with_suffix(".png"))
        drawn = overlay(_pixels(image, "RGB"), torch.from_numpy(mask)[None])[0]
        Image.fromarray(drawn.permute(1, 2, 0).numpy()).save(target.with_suffix(".overlay.png"))
        shares = np.bincount(mask.flatten(), minlength=task.num_outputs) / mask.size
        named = {name: f"{share:.6f}" for name, share in zip(task.class_names, shares, strict=True)}
        rows.append({"file": str(file), "mask": str(target.with_suffix(".png")), **named})
    listed = "\n".join([*failed[:MAX_LISTED], *(["…"] if len(failed) > MAX_LISTED else [])])
    if not rows:
        raise UserError(listed)
    if failed:
        warnings.warn(f"{len(failed)} files were not predicted:\n{listed}", stacklevel=2)
    return rows


def _predict(task: "Segmentation", image: Image.Image, wanted: InputSpec) -> np.ndarray:
    """Return the class of each pixel, uint8 [H, W], at the size of the image."""
    channels, height, width = wanted.shape
    given = image.resize((width, height), Image.Resampling.BILINEAR) if wanted.cuts_images else image
    mask = task.predict_masks(_pixels(given, "L" if channels == 1 else "RGB"))[0].numpy()
    return np.array(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))


def _pixels(image: Image.Image, mode: str) -> torch.Tensor:
    """Return uint8 [1, C, H, W]."""
    pixels = np.array(image.convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)[None]
