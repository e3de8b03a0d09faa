"""Detect objects in image files: a table of boxes, and the images with the boxes drawn on them."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_modules.config.errors import UserError, warn
from lightning_modules.data.class_folders import printable_name
from lightning_modules.data.image_folder import SUFFIXES, read_image
from lightning_modules.zoo.data.detection_data import draw_boxes, letterbox, scale_to_fit

THRESHOLD = 0.3  # score from which a detection is written


@dataclass(frozen=True)
class BoxFinder:
    """Detects objects in images uint8 [B, 3, *image_size], as [B, K, 6]: x1, y1, x2, y2, score, class."""

    detect: Callable[[Tensor], Tensor]
    image_size: tuple[int, int]
    class_names: Sequence[str]


def detect_files(finder: BoxFinder, files: Sequence[Path], out: TextIO, pictures: Path | None) -> int:
    """Write a CSV row for each object in image files; return the number of rows.

    Columns: ``file``, ``class``, ``score``, and the corners in pixels of the file's image. The images are drawn to the
    folder `pictures`. Files that cannot be read are listed in a warning. Raises UserError if none is left.
    """
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["file", "class", "score", "x1", "y1", "x2", "y2"])
    count, failed, files = 0, [], [file for file in files if file.suffix.lower() in SUFFIXES]
    for file in files:
        try:
            boxes, scores = detect_file(finder, file)
        except UserError as error:
            failed.append(str(error))
            continue
        for row, score in zip(boxes.tolist(), scores.tolist(), strict=True):
            corners = [f"{value:.1f}" for value in row[:4]]
            table.writerow([printable_name(str(file)), finder.class_names[int(row[4])], f"{score:.4f}", *corners])
        count += len(boxes)
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            image = torch.from_numpy(np.array(read_image(file))).permute(2, 0, 1)
            drawn = draw_boxes(image, boxes, finder.class_names, scores)
            Image.fromarray(drawn.permute(1, 2, 0).numpy()).save(pictures / f"{file.stem}.png")
    if len(failed) == len(files):
        raise UserError("\n".join(failed[:5]) or f"input: no image; expected {', '.join(SUFFIXES)}")
    if failed:
        warn("\n".join([f"{len(failed)} of {len(files)} files were not predicted:", *failed[:5]]))
    return count


def detect_file(finder: BoxFinder, file: Path) -> tuple[Tensor, Tensor]:
    """Return boxes [n, 5], with the class last, in pixels of the file's image, and their scores [n]."""
    size, (width, height) = finder.image_size, read_image(file).size
    with torch.inference_mode():
        [found] = finder.detect(letterbox(file, size)[None]).cpu()
    found = found[found[:, 4] >= THRESHOLD]
    to_width, to_height = scale_to_fit(width, height, size)
    corners = found[:, :4] / torch.tensor([to_width / width, to_height / height]).repeat(2)
    limits = torch.tensor([width, height, width, height])
    return torch.cat([corners.minimum(limits), found[:, 5:]], 1), found[:, 4]
