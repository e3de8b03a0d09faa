"""Checks of the sample shape that a network supports."""

from collections.abc import Sequence

from lightning_modules.config.errors import UserError


def image_shape(model: str, input_shape: Sequence[int], smallest: int = 1) -> tuple[int, int, int]:
    """Return (channels, height, width); raise UserError for other samples, and images with a side below `smallest`."""
    if len(input_shape) != 3:
        raise UserError(f"model={model} needs images [C, H, W], the data gives {tuple(input_shape)}; try model=mlp")
    channels, height, width = (int(size) for size in input_shape)
    if min(height, width) < smallest:
        raise UserError(
            f"model={model} needs images of at least {smallest}x{smallest} pixels, the data gives {tuple(input_shape)}"
        )
    return channels, height, width


def series_shape(model: str, input_shape: Sequence[int]) -> tuple[int, int]:
    """Return (channels, length) of a series [L] or [C, L]; raise UserError for other samples."""
    if len(input_shape) not in (1, 2):
        raise UserError(f"model={model} needs series [L] or [C, L], the data gives {tuple(input_shape)}")
    channels, length = (1, *input_shape)[-2:]
    return int(channels), int(length)


def text_shape(model: str, input_shape: Sequence[int], vocab_size: int | None) -> tuple[int, int]:
    """Return (maximum text length, vocabulary size); raise UserError for other samples."""
    if len(input_shape) != 1:
        raise UserError(
            f"model={model} needs texts, rows of word ids [L], the data gives {tuple(input_shape)}; try data=trec"
        )
    if vocab_size is None:
        raise UserError(f"model.vocab_size is unknown for this data; model={model} needs texts, as in data=trec")
    return int(input_shape[0]), int(vocab_size)
