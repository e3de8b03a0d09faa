"""Images with boxes, from folders in COCO's, Pascal VOC's or YOLO's format. Longer than 200 lines: one class."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from PIL import Image
from torch import Tensor, nn
from torchvision.utils import draw_bounding_boxes

from lightning_modules.config.bounds import Whole, bounded
from lightning_modules.config.errors import UserError, warn
from lightning_modules.data.class_folders import read_in_threads
from lightning_modules.data.files import data_root
from lightning_modules.data.fingerprint import cached_digest, files_digest, tensor_digest
from lightning_modules.data.image_folder import MEMORY_LIMIT, ImageData, read_image
from lightning_modules.data.in_memory import Batch, RawDataset
from lightning_modules.data.preprocess import Affine, SampleSource
from lightning_modules.zoo.data.box_files import NO_BOX, PARTS, READERS, AnnotatedImage, AnnotatedImages, image_size

Side = Annotated[int, Ge(32)]

_ROUNDING = 0.01  # pixels
GREY = 114  # of what surrounds an image that has another shape
_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#000075")


class NamedBoxes(Affine):
    """Standardizes images; holds the names of the classes and the size of images [height, width] for predictions."""

    def __init__(
        self, shift: Sequence[float], scale: Sequence[float], class_names: Sequence[str], fitted: bool = False
    ):
        super().__init__(shift, scale, fitted)
        self.class_names = list(class_names)


def scale_to_fit(width: int, height: int, size: Sequence[int]) -> tuple[int, int]:
    """Return the (width, height) with which an image fits into `size`, [height, width], in its own shape."""
    scale = min(size[0] / height, size[1] / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def letterbox(file: Path, size: Sequence[int]) -> Tensor:
    """Return an image as uint8 RGB [3, *size]: scaled to fit, at the upper left, on grey."""
    image = read_image(file)
    fitted = image.resize(scale_to_fit(*image.size, size), Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (size[1], size[0]), (GREY,) * 3)
    canvas.paste(fitted)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)


class LetterboxedFiles:
    """Images that are decoded on access (a `SampleSource`)."""

    dtype = torch.uint8

    def __init__(self, files: Sequence[Path], size: Sequence[int]) -> None:
        self.files, self.size = files, size
        self.shape = torch.Size((len(files), 3, *size))

    def __len__(self) -> int:
        return len(self.files)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Decode the images of `index` (`dim` is 0)."""
        return torch.stack([letterbox(self.files[i], self.size) for i in index.tolist()])

    def in_memory(self) -> Tensor:
        """Decode all images. Raises UserError listing all files that are not readable images."""
        out = torch.empty(self.shape, dtype=torch.uint8)
        for i, image in enumerate(read_in_threads(lambda file: letterbox(file, self.size), self.files)):
            out[i] = image
        return out


class DetectionFolder(ImageData):
    """uint8 [3, *size]; y, float32 [M, 5], are rows x1, y1, x2, y2, class, padded by rows of class -1.

    Corners are in pixels of the scaled image. Boxes that reach outside of their image are clipped, those without area
    left out; one warning counts both. Images without boxes are samples as any other. `box_files` describes the formats
    and which of them divide the images into parts; other parts are split off by their fractions.

    Args:
        root: the folder; relative to the data root or absolute.
        format: of the annotations.
        size: [height, width] to which images are scaled in their own shape; what is left over is grey.
        classes: names that may occur; null: those of the annotations.
        in_memory: true decodes all images once, false decodes them on access in `num_workers` processes,
            "auto" chooses true up to 2 GB.
        others: as in `InMemoryData`; without folds where the files name the parts, and without `per_class`.
    """

    hint = "data.root names a folder"

    @bounded
    def __init__(
        self,
        *,
        root: str | Path,
        format: Literal["coco", "voc", "yolo"],
        size: Sequence[Side] = (320, 320),
        classes: Sequence[str] | None = None,
        in_memory: Literal[True, False, "auto"] = "auto",
        num_workers: Whole = 2,
        **settings: Any,
    ) -> None:
        if len(size) != 2:
            raise UserError(f"data.size={list(size)}: expected [height, width]")
        self.root = data_root() / Path(root).expanduser()
        self.name, self.format = self.root.name, format
        self.size, self.classes = list(size), list(classes) if classes else None
        self.keep_in_memory = in_memory  # Lightning has a property of the plain name
        self.num_decode_workers = num_workers
        super().__init__(**settings)
        if self.plan.per_class:
            raise UserError("data.per_class: an image may have boxes of several classes; use data.fraction")

    def load(self) -> RawDataset:
        """Read all boxes, and decode the images if they are kept in memory.

        Raises UserError for missing files, unknown classes and malformed annotations, with file and line.
        """
        if not self.root.is_dir():
            raise UserError(f"data={self.name}: data.root={self.root} is missing. {self.hint}")
        read = READERS[self.format](self.root, self.classes)
        if not read.images or not read.class_names:
            raise UserError(f"{self.root} has no {'image' if not read.images else 'box'} in the format {self.format}")
        self.box_classes = read.class_names
        by_part = Counter(image.part for image in read.images)
        parts = [part for part in (None, *PARTS) if by_part[part]]
        images = [image for part in parts for image in read.images if image.part == part]
        y, train_val = self._targets(images), len(images) - by_part["test"]
        keep = len(images) * 3 * self.size[0] * self.size[1]
        decode = self.keep_in_memory is False or (self.keep_in_memory == "auto" and keep > MEMORY_LIMIT)
        self.num_workers = self.num_decode_workers if decode else 0
        first = train_val - by_part["val"]
        return RawDataset(
            self._store(images[:train_val], decode),
            y[:train_val],
            test=(self._store(images[train_val:], decode), y[train_val:]) if by_part["test"] else None,
            val=torch.arange(first, train_val) if by_part["val"] else None,
            content=self._digest(images, read, y),
        )

    def _digest(self, images: Sequence[AnnotatedImage], read: AnnotatedImages, y: Tensor) -> str:
        files = [*(image.file for image in images), *read.files]
        content = cached_digest(self.cache_dir, "files", files, lambda: files_digest(self.root, files))
        return f"{content} {tensor_digest(y)} {read.class_names} at {self.size}"

    def _store(self, images: Sequence[AnnotatedImage], decode: bool) -> SampleSource:
        files = LetterboxedFiles([image.file for image in images], self.size)
        return files if decode else files.in_memory()

    def _targets(self, images: Sequence[AnnotatedImage]) -> Tensor:
        """The boxes of all images in pixels of the scaled ones, [N, M, 5]."""
        index = {name: i for i, name in enumerate(self.box_classes)}
        rows: list[list[list[float]]] = []
        clipped: list[str] = []
        empty: list[str] = []
        for image in images:
            width, height = image_size(image.file)
            to_width, to_height = scale_to_fit(width, height, self.size)
            rows.append([])
            for box in image.boxes:
                x1, x2 = (min(max(x, 0.0), float(width)) for x in (box.x1, box.x2))
                y1, y2 = (min(max(y, 0.0), float(height)) for y in (box.y1, box.y2))
                if x2 <= x1 or y2 <= y1:
                    empty.append(box.where)
                    continue
                if max(abs(x1 - box.x1), abs(y1 - box.y1), abs(x2 - box.x2), abs(y2 - box.y2)) > _ROUNDING:
                    clipped.append(box.where)
                across, down = to_width / width, to_height / height
                rows[-1].append([x1 * across, y1 * down, x2 * across, y2 * down, float(index[box.name])])
        said = ((clipped, "clipped to their image"), (empty, "left out, as they have no area in their image"))
        for places, what in said:
            if places:
                warn(f"{self.name}: {len(places)} boxes are {what}; the first is in {places[0]}")
        y = torch.full((len(rows), max(1, *map(len, rows)) if rows else 1, 5), NO_BOX)
        for i, row in enumerate(rows):
            y[i, : len(row)] = torch.tensor(row).reshape(-1, 5)
        return y

    def build_preprocess(self, x: SampleSource, train: Tensor) -> nn.Module:
        """Standardize per channel; the names of the classes are recorded with the model."""
        fit: Any = super().build_preprocess(x, train)
        return NamedBoxes(fit.shift.tolist(), fit.scale.tolist(), self.box_classes, fit.fitted)

    def _describe_classes(self, arrays: RawDataset, train: Tensor) -> None:
        self.num_classes, self.class_names, self.class_counts = None, None, None  # of a whole sample
        self.num_targets = len(self.box_classes)  # outputs of a model

    def picture(self, batch: Batch) -> Tensor:
        """Return the images of a batch, uint8 [B, 3, H, W], with their boxes drawn on them."""
        pairs = zip(batch["x"], batch["y"], strict=True)
        return torch.stack([draw_boxes(image, boxes, self.box_classes) for image, boxes in pairs])


class Bccd(DetectionFolder):
    """BCCD: 364 images of blood cells with boxes of red cells, white cells and platelets; 205, 87 and 72 in its parts."""

    hint = "It is the folder BCCD of the repository Shenggan/BCCD_Dataset"

    def __init__(self, *, root: str | Path = "bccd/BCCD", **settings: Any) -> None:
        super().__init__(root=root, format="voc", **settings)
        self.name = "bccd"


def draw_boxes(image: Tensor, boxes: Tensor, names: Sequence[str], scores: Tensor | None = None) -> Tensor:
    """Return the image uint8 [3, H, W] with the boxes [M, 5] that are none of padding, colored by class."""
    shown = boxes[:, 4] >= 0
    boxes = boxes[shown].cpu()
    labels = [names[int(label)] for label in boxes[:, 4]]
    if scores is not None:
        labels = [f"{label} {score:.2f}" for label, score in zip(labels, scores[shown].tolist(), strict=True)]
    colors = [_COLORS[int(label) % len(_COLORS)] for label in boxes[:, 4]]
    corners = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:4], boxes[:, :2])], 1)
    drawn: Tensor = draw_bounding_boxes(image.cpu(), corners, labels, colors, width=2) if len(boxes) else image.cpu()
    return drawn
