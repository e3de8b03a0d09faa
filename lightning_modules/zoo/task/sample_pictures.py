"""Pictures of what a generator makes of fixed latents, as files of a run."""

from pathlib import Path

import pytorch_lightning as pl
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.report.figures import COLOURS, blank_figure, style_axes
from lightning_modules.tracking.logger import BufferedMLflowLogger
from lightning_modules.zoo.task.gan import GAN

_POINTS, _MOST_REAL = 2500, 2000


class SamplePictures(pl.Callback):
    """Writes ``samples/epoch_0005.png`` after the last epoch and after each `every_n_epochs`-th.

    Images are a square grid of `rows`² samples; of 2-D points 2500 are drawn over those of the data.
    """

    @bounded
    def __init__(self, every_n_epochs: Count = 1, rows: Count = 8) -> None:
        self.every_n_epochs, self.rows = every_n_epochs, rows
        self._drawn = -1  # epoch

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, GAN):
            raise UserError(f"callbacks.sample_pictures: {type(pl_module).__name__} is no GAN; remove it")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._write(trainer, pl_module, trainer.current_epoch + 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, pl_module, trainer.current_epoch)

    def _write(self, trainer: pl.Trainer, task: pl.LightningModule, epoch: int) -> None:
        recorded = any(isinstance(logger, BufferedMLflowLogger) for logger in trainer.loggers)
        if not (recorded and trainer.is_global_zero and isinstance(task, GAN)) or epoch == self._drawn:
            return
        path = Path(trainer.default_root_dir) / "samples" / f"epoch_{epoch:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if task.makes_images:
            figure = draw_images(task.sample(self.rows**2), self.rows)
        else:
            data = trainer.datamodule  # type: ignore[attr-defined]
            figure = draw_points(task.sample(_POINTS), data.arrays.x[:_MOST_REAL], f"After {epoch} epochs")
        figure.savefig(path)
        self._drawn = epoch


def draw_images(images: Tensor, rows: int) -> Figure:
    """Draw images [N, C, H, W] in 0..1 in a grid of `rows` columns."""
    grid = make_grid(images.clamp(0, 1), nrow=rows, padding=1).permute(1, 2, 0).numpy()
    figure = blank_figure(6, 6 * grid.shape[0] / grid.shape[1])
    axes = figure.add_subplot()
    axes.imshow(grid if grid.shape[2] == 3 else grid[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    return figure


def draw_points(samples: Tensor, real: Tensor, title: str) -> Figure:
    """Draw the first two dimensions of samples [N, D] over real points [M, D]."""
    figure = blank_figure(4.5, 4.5)
    axes = figure.add_subplot()
    for points, name, colour in ((real, "data", "#bbbbbb"), (samples, "generated", COLOURS[0])):
        axes.scatter(
            points[:, 0].numpy(), points[:, -1].numpy(), s=4, alpha=0.5, linewidths=0, color=colour, label=name
        )
    style_axes(axes, title, "x", "y")
    axes.set_aspect("equal")
    axes.legend(loc="upper right", fontsize=8, markerscale=3)
    return figure
