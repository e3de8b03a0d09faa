"""Translations of an encoder-decoder: greedy, or the best of a beam."""

import torch
from torch import Tensor

from lightning_modules.zoo.data.sentence_pairs import BOS, EOS, PAD
from lightning_modules.zoo.model.translation import EncoderDecoder


def length_penalty(length: Tensor, alpha: float) -> Tensor:
    """By what the log-probability of so many tokens is divided (Wu et al. 2016, eq. 14); 1 with alpha 0."""
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def beam_search(
    model: EncoderDecoder,
    source: Tensor,
    beam: int = 1,
    alpha: float = 0.0,
    banned: tuple[int, ...] = (PAD, BOS),
    max_length: int | None = None,
) -> Tensor:
    """Return the best target found for each source int [B, S], int64 [B, max_length], padded after its EOS.

    Each step extends the `beam` best beginnings by a token, and keeps the best of the result by their log-probability
    divided by `length_penalty`. A beginning that has ended stays as it is. With a beam of 1 this is greedy decoding.

    Args:
        banned: tokens that are never written.
        max_length: tokens with EOS; None: those that the model was built for. A target may be cut there.
    """
    count, max_length = len(source), max_length or model.length
    memory = tuple(part.repeat_interleave(beam, 0) for part in model.encode(source))
    tokens = torch.full((count * beam, 1), BOS, device=source.device)
    logs = torch.full((count, beam), -torch.inf, dtype=torch.float64, device=source.device)
    logs[:, 0] = 0  # all beginnings are the same
    lengths = torch.zeros_like(logs)
    rows = torch.arange(count, device=source.device)[:, None] * beam
    state: tuple[Tensor, ...] = ()
    for _ in range(max_length):
        logits, state = model.step(tokens[:, -1], memory, state)
        logits[:, list(banned)] = -torch.inf
        steps = logits.double().log_softmax(-1)
        ended = (tokens[:, -1] == EOS) | (tokens[:, -1] == PAD)
        steps[ended] = -torch.inf
        steps[ended, PAD] = 0
        vocabulary = steps.shape[1]
        grown = lengths + ~ended.view(count, beam)
        found = logs[..., None] + steps.view(count, beam, vocabulary)
        best = (found / length_penalty(grown, alpha)[..., None]).flatten(1).topk(beam).indices
        parents = best // vocabulary
        logs, lengths = found.flatten(1).gather(1, best), grown.gather(1, parents)
        kept = (rows + parents).flatten()
        tokens = torch.cat([tokens[kept], (best % vocabulary).view(-1, 1)], 1)
        state = tuple(part.index_select(0, kept) for part in state)
        if bool(((tokens[:, -1] == EOS) | (tokens[:, -1] == PAD)).all()):
            break
    first = (logs / length_penalty(lengths, alpha)).argmax(1)
    chosen = tokens.view(count, beam, -1)[torch.arange(count, device=source.device), first, 1:]
    return torch.nn.functional.pad(chosen, (0, max_length - chosen.shape[1]), value=PAD)
