"""Figures of original and augmented samples side by side: images, series, sound and text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_modules.report.figures import COLOURS, INK, blank_figure

if TYPE_CHECKING:
    from torch import Tensor

_INCHES, _POINTS = 11.0, 7.2  # width of a figure of text, and its font size
_MAX_COLUMNS = (
    _INCHES * 72 / (_POINTS * 0.65)
)  # characters per line: monospaced ones are 0.6 of their size wide, plus a pixel
_TEXT_COLUMN = 24  # column in which the text begins, after the title
_LINE = int(_MAX_COLUMNS) - _TEXT_COLUMN - 4  # characters of a line of text
_MOST_LINES = 3  # lines of one text
_MUTED_COLOUR = "#888888"


@dataclass(frozen=True)
class SampleGrid:
    """What to draw: `rows` of raw samples [S, …], the first not augmented, and a title for each sample.

    `sample_text` puts a raw sample into words; `sample_rate` (Hz) is that of sound.
    """

    domain: str
    rows: Sequence[Tensor]
    titles: Sequence[Sequence[str]]
    sample_text: Callable[[Tensor], str]
    sample_rate: int | None = None


def draw_samples(shown: SampleGrid) -> Figure:
    """Draw one column per sample and one row per draw of the augmentation; text and tables one line per draw."""
    if shown.domain in ("text", "interactions", "table"):
        return _words(shown)
    draw = {"image": _image, "series": _series, "audio": _sound}[shown.domain]
    columns, rows = len(shown.rows[0]), len(shown.rows)
    figure = blank_figure(1.5 * columns, 1.55 * rows + 0.3)
    figure.suptitle("Training samples: as they are (top), and as augmentation makes them", color=INK, fontsize=10)
    for row in range(rows):
        for column in range(columns):
            axes = figure.add_subplot(rows, columns, row * columns + column + 1)
            draw(axes, shown, row, column)
            axes.set_title(shown.titles[row][column], fontsize=7, color=INK, pad=2)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
    return figure


def _image(axes: Axes, shown: SampleGrid, row: int, column: int) -> None:
    x = shown.rows[row][column]
    whole = x.float() / 255 if not x.is_floating_point() else _unit(x)
    pixels = whole.clamp(0, 1).permute(1, 2, 0).numpy()
    if pixels.shape[2] == 1:
        axes.imshow(pixels[..., 0], cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(pixels[..., :3])


def _unit(x: Tensor) -> Tensor:
    """Scale floats of any range to [0, 1]; values already in it stay."""
    low, high = float(x.min()), float(x.max())
    return x.float() if low >= 0 and high <= 1 else (x.float() - low) / max(high - low, 1e-12)


def _series(axes: Axes, shown: SampleGrid, row: int, column: int) -> None:
    original, own = (shown.rows[k][column].float().reshape(-1, shown.rows[k].shape[-1]) for k in (0, row))
    if row:
        axes.plot(original.T.numpy(), color="#CCCCCC", linewidth=1)
    axes.plot(own.T.numpy(), color=COLOURS[0], linewidth=1, alpha=0.9 if len(own) == 1 else 0.5)


def _sound(axes: Axes, shown: SampleGrid, row: int, column: int) -> None:
    """The spectrogram of a waveform [T] in decibels, or features [1, bands, frames] as they are."""
    x = shown.rows[row][column].float()
    picture = x.reshape(-1, x.shape[-1]).numpy() if x.ndim > 1 else _spectrogram(x)
    axes.imshow(picture, origin="lower", aspect="auto", cmap="magma")


def _spectrogram(x: Tensor) -> np.ndarray:
    from scipy.signal import stft

    power = np.abs(stft(x.numpy(), nperseg=min(256, len(x)))[2]) ** 2
    decibels = 10 * np.log10(power + 1e-10)
    return np.maximum(decibels, decibels.max() - 80)


def _words(shown: SampleGrid) -> Figure:
    """A block of lines for each sample; words that are not in the original are coloured."""
    blocks = [
        [(shown.titles[row][column], shown.sample_text(shown.rows[row][column])) for row in range(len(shown.rows))]
        for column in range(len(shown.rows[0]))
    ]
    lines = [line for block in blocks for line in [*_wrap_words(block), []]]
    figure = blank_figure(_INCHES, 0.19 * (len(lines) + 3))
    figure.set_layout_engine("none")  # positions are counted in characters over the whole width
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-2, _MAX_COLUMNS - 2)
    axes.set_ylim(len(lines), -3)
    title = "Training samples: as they are (black), and as augmentation makes them; what is new is coloured"
    axes.text(0, -2, title, color=INK, fontsize=10, fontweight="bold", va="center")
    for y, line in enumerate(lines):
        for x, text, colour in line:
            plain = text.replace("$", r"\$")
            axes.text(x, y, plain, color=colour, fontsize=_POINTS, family="monospace", va="center")
    return figure


def _wrap_words(block: Sequence[tuple[str, str]]) -> list[list[tuple[int, str, str]]]:
    """Lines of (column, text, colour): a title, then the words; new words of a draw have another colour."""
    known = set(block[0][1].split())
    laid: list[list[tuple[int, str, str]]] = []
    for row, (title, text) in enumerate(block):
        wrapped = textwrap.wrap(text or "(empty)", _LINE, max_lines=_MOST_LINES, placeholder=" …") or [""]
        for number, words in enumerate(wrapped):
            line = [(0, title[:20], _MUTED_COLOUR)] if number == 0 else []
            laid.append(line + _colour_words(words, known, INK if row == 0 else _MUTED_COLOUR))
    return laid


def _colour_words(words: str, known: set[str], plain: str) -> list[tuple[int, str, str]]:
    """Place each word separately: characters are rounded to pixels, which would add up over a line."""
    found, place = [], _TEXT_COLUMN
    for word in words.split(" "):
        found.append((place, word, plain if word in known or word == "…" else COLOURS[1]))
        place += len(word) + 1
    return found
