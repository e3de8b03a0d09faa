"""Loss and metrics of models that predict tokens: nats per token and per character, bits, perplexity, accuracy.

They are computed from sums over each sample (`token_sums`), so that no logits are kept.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.task.metrics import NO_SYNC

IGNORED = -100  # a target that is no token, as in torch's cross entropy
NATS, TOKENS, CHARACTERS, CORRECT = range(4)  # columns of the sums


class TokenCrossEntropy(nn.CrossEntropyLoss):
    """The mean over tokens of logits [B, T, V] against ids int [B, T]; ids of -100 are left out."""

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        return super().forward(outputs.flatten(0, -2), target.flatten().long())


def token_sums(logits: Tensor, target: Tensor, token_characters: Tensor) -> Tensor:
    """Return float32 [B, 4] of each sample: nats, tokens, characters, and tokens that have the highest logit.

    Args:
        logits: [B, T, V]; target: int [B, T], -100 where there is no token.
        token_characters: number of characters of each token, [V].
    """
    target = target.long()
    nats = F.cross_entropy(logits.float().transpose(1, 2), target, reduction="none", ignore_index=IGNORED)
    counted = target != IGNORED
    characters = token_characters[target.clamp(min=0)] * counted
    correct = (logits.argmax(-1) == target) & counted
    return torch.stack([part.sum(1).float() for part in (nats, counted, characters, correct)], 1)


def mean_nats(sums: Tensor) -> Tensor:
    """Return the nats per token of the sums of samples [N, 4]."""
    return _ratio(sums, NATS, TOKENS)


def _ratio(sums: Tensor, numerator: int, denominator: int) -> Tensor:
    total = sums.cpu().double().sum(0)
    return (total[numerator] / total[denominator]).float()


Measure = Callable[[Tensor], Tensor]
MEASURES: Mapping[str, Measure] = {
    "nats_per_char": lambda sums: _ratio(sums, NATS, CHARACTERS),
    "bits_per_char": lambda sums: _ratio(sums, NATS, CHARACTERS) / math.log(2),
    "perplexity": lambda sums: mean_nats(sums).exp(),
    "accuracy": lambda sums: _ratio(sums, CORRECT, TOKENS),
}


class TokenMetric(Metric):
    """A measure of the sums of all samples."""

    full_state_update = False

    def __init__(self, measure: Measure) -> None:
        super().__init__(**NO_SYNC)
        self.measure = measure
        self.add_state("sums", [], dist_reduce_fx="cat")

    def update(self, sums: Tensor, target: Any = None) -> None:
        """Add the sums [N, 4] of samples."""
        self.sums.append(sums)  # type: ignore[operator, union-attr]

    def compute(self) -> Tensor:
        return self.measure(torch.cat(list(self.sums)))  # type: ignore[arg-type]


def token_metrics(names: Sequence[str]) -> MetricCollection:
    """Return the named metrics. Raises UserError for an unknown name."""
    for name in names:
        if name not in MEASURES:
            raise UserError(f"task.metrics: unknown metric '{name}'; {suggest(str(name), MEASURES)}")
    return MetricCollection({name: TokenMetric(MEASURES[name]) for name in names}, compute_groups=False)
