"""A figure of images with their true and their predicted masks."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from lightning_modules.augmentation.image.masks import IGNORED
from lightning_modules.report.figures import INK, blank_figure
from lightning_modules.zoo.data.masks import overlay, palette

MAX_NAMED = 16  # classes in the legend


def draw_masks(x: Tensor, truth: Tensor, predicted: Tensor, names: Sequence[str]) -> Figure:
    """Draw a row for each raw image uint8 [C, H, W]: itself, its mask [H, W], the predicted one, and pixels that are wrong."""
    wrong = ((predicted != truth) & (truth != IGNORED)).to(torch.uint8)[:, None] * 255
    columns = {"image": x, "truth": overlay(x, truth), "prediction": overlay(x, predicted), "wrong": wrong}
    figure = blank_figure(2.4 * len(columns), 2.4 * x.shape[2] / x.shape[3] * len(x) + 0.6)
    for column, (title, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures.expand(-1, 3, -1, -1)):
            axes = figure.add_subplot(len(x), len(columns), row * len(columns) + column + 1)
            axes.imshow(picture.permute(1, 2, 0).numpy())
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=9, color=INK)
    colours = palette() / 255
    patches = [Patch(color=colours[i], label=name) for i, name in enumerate(names[:MAX_NAMED])]
    figure.legend(handles=patches, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure
