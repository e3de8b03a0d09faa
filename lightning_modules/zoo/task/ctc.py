"""Connectionist temporal classification (Graves et al. 2006): loss, best path, and prefix beam search."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.zoo.data.speech import BLANK
from lightning_modules.zoo.model.speech import NEVER

Labels = tuple[int, ...]  # without blanks and repetitions of frames


class CTC(nn.Module):
    """The mean over samples of nats per symbol, of log-probabilities [B, F, V] against symbols int64 [B, L] padded by 0.

    Frames behind a recording are those whose last symbol has the log-probability -10,000 (`SpeechGRU`). A sample that
    augmentation has made too short for its transcript has no gradient.
    """

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        return ctc_losses(outputs, target).mean()


def ctc_losses(outputs: Tensor, target: Tensor) -> Tensor:
    """Return the nats per symbol [B] of each sample."""
    frames, symbols = output_lengths(outputs), (target != BLANK).sum(1)
    nats = F.ctc_loss(
        outputs.transpose(0, 1), target, frames, symbols, blank=BLANK, reduction="none", zero_infinity=True
    )
    return nats / symbols


def output_lengths(outputs: Tensor) -> Tensor:
    """Return the frames int64 [B] of each recording in log-probabilities [B, F, V]."""
    return (outputs[..., -1] != NEVER).sum(1)


def best_path(outputs: Tensor) -> list[Labels]:
    """Return the labels of the likeliest path of each sample: symbols of [B, F, V], without repetitions and blanks."""
    likeliest = outputs.argmax(2).cpu()
    return [tuple(s for s in path.unique_consecutive().tolist() if s != BLANK) for path in likeliest]


def prefix_beam_search(log_probs: Tensor, width: int) -> list[tuple[Labels, float]]:
    """Return the `width` likeliest labelings of log-probabilities [F, V], with their log-probabilities, best first.

    Each is the sum over all paths that the search has kept. Graves 2012, "Supervised Sequence Labelling with Recurrent
    Neural Networks", section 7.5; by frames as in Hannun et al. 2014 (arXiv 1408.2873), without a language model.
    """
    beams: dict[Labels, tuple[float, float]] = {(): (0.0, -math.inf)}  # paths that end in a blank, and in a symbol
    for frame in log_probs.tolist():
        found: dict[Labels, list[float]] = {}
        for prefix, (blank, symbol) in beams.items():
            total = _add(blank, symbol)
            for number, logp in enumerate(frame):
                if number == BLANK:
                    _extend(found, prefix, 0, total + logp)
                elif prefix and number == prefix[-1]:
                    _extend(found, prefix, 1, symbol + logp)
                    _extend(found, (*prefix, number), 1, blank + logp)
                else:
                    _extend(found, (*prefix, number), 1, total + logp)
        best = sorted(found.items(), key=lambda one: -_add(*one[1]))[:width]
        beams = {prefix: (ends[0], ends[1]) for prefix, ends in best}
    return [(prefix, _add(*ends)) for prefix, ends in beams.items()]


def decode(outputs: Tensor, beam_width: int | None) -> list[Labels]:
    """Return the labels of each sample of log-probabilities [B, F, V]: of the best path, or with a beam."""
    if beam_width is None:
        return best_path(outputs)
    lengths = output_lengths(outputs).tolist()
    return [prefix_beam_search(one[:n], beam_width)[0][0] for one, n in zip(outputs.cpu(), lengths, strict=True)]


def pad_labels(labels: Sequence[Labels], size: int) -> Tensor:
    """Return int64 [B, size], padded by blanks."""
    return torch.tensor([[*one, *[BLANK] * (size - len(one))] for one in labels])


def _extend(found: dict[Labels, list[float]], prefix: Labels, end: int, logp: float) -> None:
    if logp > -math.inf:
        ends = found.setdefault(prefix, [-math.inf, -math.inf])
        ends[end] = _add(ends[end], logp)


def _add(a: float, b: float) -> float:
    """Return log(e^a + e^b)."""
    high, low = (a, b) if a > b else (b, a)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
