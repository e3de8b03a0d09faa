"""Loss and metrics of models that predict tokens, from sums over each sample, so that no logits are kept."""

import math
from collections.abc import Callable, Mapping, Sequence

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

    Of logits [B, T, V] against ids int [B, T], given the number of characters of each token, [V].
    """
    target = target.long()
    counted = target != IGNORED
    nats = F.cross_entropy(logits.float().transpose(1, 2), target, reduction="none", ignore_index=IGNORED)
    characters = token_characters[target.clamp(min=0)] * counted
    correct = (logits.argmax(-1) == target) & counted
    return torch.stack([part.sum(1).float() for part in (nats, counted, characters, correct)], 1)


def ratio(sums: Tensor, numerator: int, denominator: int) -> Tensor:
    """Return one column of the sums of samples [N, 4] over another, as nats per token."""
    total = sums.cpu().double().sum(0)
    return (total[numerator] / total[denominator]).float()


Measure = Callable[[Tensor], Tensor]
MEASURES: Mapping[str, Measure] = {
    "nats_per_char": lambda sums: ratio(sums, NATS, CHARACTERS),
    "bits_per_char": lambda sums: ratio(sums, NATS, CHARACTERS) / math.log(2),
    "perplexity": lambda sums: ratio(sums, NATS, TOKENS).exp(),
    "accuracy": lambda sums: ratio(sums, CORRECT, TOKENS),
}


class TokenMetric(Metric):
    """A measure of the sums of all samples."""

    full_state_update = False

    def __init__(self, measure: Measure) -> None:
        super().__init__(**NO_SYNC)
        self.measure = measure
        self.add_state("sums", [], dist_reduce_fx="cat")

    def update(self, sums: Tensor, target: Tensor | None = None) -> None:
        self.sums.append(sums)  # type: ignore[operator, union-attr]

    def compute(self) -> Tensor:
        return self.measure(torch.cat(list(self.sums)))  # type: ignore[arg-type]


def token_metrics(names: Sequence[str]) -> MetricCollection:
    """Return the named metrics. Raises UserError for an unknown name."""
    if wrong := [name for name in names if name not in MEASURES]:
        raise UserError(f"task.metrics: unknown metric '{wrong[0]}'; {suggest(str(wrong[0]), MEASURES)}")
    return MetricCollection({name: TokenMetric(MEASURES[name]) for name in names}, compute_groups=False)
