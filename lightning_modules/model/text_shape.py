"""What networks of texts share: which samples they take, and which places of a batch hold words."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.errors import UserError


def text_shape(model: str, input_shape: Sequence[int], vocab_size: int | None) -> tuple[int, int]:
    """Return (words of the longest text, ids); raise UserError for samples that are no texts."""
    if len(input_shape) != 1:
        raise UserError(
            f"model={model} reads texts, rows of word ids [L], the data gives {tuple(input_shape)}; try data=trec"
        )
    if vocab_size is None:
        raise UserError(
            f"model.vocab_size: these data do not say how many words they have; model={model} needs data=trec"
        )
    return int(input_shape[0]), int(vocab_size)


def trimmed(tokens: Tensor) -> Tensor:
    """Model ids [B, L] without the columns at the end that are padding in all rows; one column stays."""
    if torch.compiler.is_compiling():  # the length would depend on the values
        return tokens
    used = (tokens != 0).any(0).nonzero()
    longest = int(used[-1]) + 1 if len(used) else 1
    return tokens[:, :longest]
