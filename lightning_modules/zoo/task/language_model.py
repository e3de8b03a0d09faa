"""Language modelling: the next token of each position of a text."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_modules.config.bounds import bounded
from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import Batch
from lightning_modules.task.batches import as_dict
from lightning_modules.task.metrics import select_metrics
from lightning_modules.task.supervised import Supervised
from lightning_modules.zoo.data.token_vocabulary import TokenVocabulary
from lightning_modules.zoo.task.token_metrics import MEASURES, NATS, TOKENS, ratio, token_metrics, token_sums


class LanguageModel(Supervised):
    """Logits [B, T, V] of the tokens int [B, T] that follow those of a sample; the served model returns the logits.

    ``val/loss`` is nats per token, ``val/nats_per_char`` the same sum per character: they differ for tokens of several.

    Args:
        num_outputs: size of the vocabulary.
        metrics: names for ``val`` and ``test``: nats_per_char, bits_per_char, perplexity, accuracy.
    """

    variable_dims = (1,)  # an exported model takes texts of any length up to the block

    @bounded
    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        num_outputs: int,
        metrics: Mapping[str, Sequence[str] | None] | None = None,
        **loop: Any,
    ) -> None:
        super().__init__(model, loss, **loop)
        if not isinstance(self.preprocess, TokenVocabulary):
            raise UserError("task=language_model: the data have no token vocabulary; try data=packed_text")
        self.num_outputs = num_outputs
        self.metrics = select_metrics(metrics, dict.fromkeys(("val", "test"), tuple(MEASURES)))

    @property
    def vocabulary(self) -> TokenVocabulary:
        """The tokens of the model, and how texts are encoded."""
        assert isinstance(self.preprocess, TokenVocabulary)
        return self.preprocess

    def output_shape(self, x: Tensor, num_outputs: int) -> tuple[int, ...]:
        return (*x.shape, num_outputs)

    def output_name(self, i: int) -> str:
        return ("nats", "tokens", "characters", "correct")[i]  # of what is kept of a sample

    def build_metrics(self, stage: str) -> MetricCollection:
        return token_metrics(self.metrics[stage])

    def _buffer_predictions(self, stage: str, batch: Batch) -> None:
        batch = as_dict(batch)
        sums = token_sums(self.forward(batch["x"]), batch["y"], self.vocabulary.token_characters)
        self.prediction_buffers[stage].add(sums, batch["y"], batch.get("index"), self.data_rank)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Nats per token, whatever the loss that is trained."""
        return ratio(outputs, NATS, TOKENS)
