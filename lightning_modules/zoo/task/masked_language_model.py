"""Masked language modelling (Devlin et al. 2019, section 3.1): predict words of a text that are hidden from the network."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_modules.config.bounds import OpenFraction, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import Batch
from lightning_modules.task.batches import as_dict
from lightning_modules.task.metrics import select_metrics
from lightning_modules.task.rng import derive_seed
from lightning_modules.task.supervised import Supervised
from lightning_modules.zoo.data.vocabulary import PADDING, UNKNOWN, Vocabulary
from lightning_modules.zoo.model.masked_bert import MaskedBert
from lightning_modules.zoo.task.token_metrics import IGNORED, NATS, TOKENS, ratio, token_metrics, token_sums

METRICS = ("perplexity", "accuracy")
MASKED, RANDOM = 0.8, 0.1  # of the chosen words; the rest stay as they are


class MaskedLanguageModel(Supervised):
    """Learns from texts alone; labels are ignored. ``val/loss`` is nats per hidden word.

    Of each text `share` of the words, at least one, are chosen: 80 % become ``[MASK]``, 10 % a random word, 10 % stay. In
    training they are drawn anew for each step; in validation and test they are a function of the text and the seed.

    Args:
        num_outputs, class_names, class_counts: of the labels, which are not used.
        share: of the words that are predicted.
        metrics: names for ``val`` and ``test``: perplexity, accuracy.
    """

    @bounded
    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        kind: Literal["masked"] = "masked",
        num_outputs: int | None = None,
        class_names: Sequence[str] | None = None,
        class_counts: Tensor | None = None,
        share: OpenFraction = 0.15,
        metrics: Mapping[str, Sequence[str] | None] | None = None,
        **loop: Any,
    ) -> None:
        super().__init__(model, loss, **loop)
        if not isinstance(model, MaskedBert) or not isinstance(self.preprocess, Vocabulary):
            raise UserError("task=masked_language_model needs model=masked_bert and texts, as in data=text_lines")
        self.share, self.mask_id, self.vocab_size = share, model.mask, model.vocab_size
        self.metrics = select_metrics(metrics, dict.fromkeys(("val", "test"), METRICS))
        if wrong := sorted({name for names in self.metrics.values() for name in names} - set(METRICS)):
            raise UserError(
                f"task.metrics: {wrong[0]} is not defined for hidden words; expected {' or '.join(METRICS)}"
            )
        self._step_seed = 0

    def output_shape(self, x: Tensor, num_outputs: int) -> tuple[int, ...]:
        return (*x.shape, self.vocab_size)

    def loss_target(self, batch: Batch) -> Tensor:
        """All words of the texts: what the loss is checked with before the first step."""
        return self.preprocess(batch["x"])

    def output_name(self, i: int) -> str:
        return ("nats", "words", "characters", "correct")[i]  # of what is kept of a sample

    def build_metrics(self, stage: str) -> MetricCollection:
        return token_metrics(self.metrics[stage])

    def training_loss(self, batch: Batch, step: int) -> Tensor:
        self._step_seed = derive_seed(derive_seed(self.seed, step, self.data_rank), 1, 0)
        return super().training_loss(batch, step)

    def outputs_and_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        hidden, target = self.hide(self.preprocess(batch["x"]), [self._step_seed])
        chosen = target != IGNORED
        outputs = self.model(hidden, chosen)  # of the chosen words only: a seventh of the work
        return outputs, self.loss(outputs, target[chosen]) if len(outputs) else outputs.sum()  # texts may have no word

    def _buffer_predictions(self, stage: str, batch: Batch) -> None:
        batch = as_dict(batch)
        ids = self.preprocess(batch["x"])
        place = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        of_text = [derive_seed(self.seed, content, 0) for content in (ids * place**2).sum(1).tolist()]
        hidden, target = self.hide(ids, of_text)
        sums = token_sums(self.model(hidden), target, torch.ones(self.vocab_size, device=ids.device, dtype=torch.int64))
        self.prediction_buffers[stage].add(sums, target, batch.get("index"), self.data_rank)

    def hide(self, ids: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return word ids int [B, L] with words hidden, and the targets: the hidden words, elsewhere -100.

        `seeds`: one for the batch, or one for each text.
        """
        rows = len(ids) // max(1, len(seeds))
        drawn = [torch.rand(3, rows, ids.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        order, action, word = torch.cat(drawn, 1).to(ids.device)
        words = ids != PADDING
        count = (words.sum(1, keepdim=True) * self.share).round().clamp(min=1)
        rank = order.masked_fill(~words, 2.0).argsort(1).argsort(1)
        chosen = (rank < count) & words
        replaced = (UNKNOWN + 1 + word * (self.vocab_size - UNKNOWN - 1)).long().clamp(max=self.vocab_size - 1)
        hidden = ids.where(~chosen | (action >= MASKED + RANDOM), replaced)
        hidden = hidden.masked_fill(chosen & (action < MASKED), self.mask_id)
        return hidden, ids.masked_fill(~chosen, IGNORED)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Nats per hidden word, whatever the loss that is trained."""
        return ratio(outputs, NATS, TOKENS)
