"""Metrics of translations: BLEU and chrF of sacrebleu, and the share of sentences that are exactly the reference."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.config.errors import UserError, suggest
from lightning_modules.task.metrics import NO_SYNC
from lightning_modules.zoo.data.sentence_pairs import from_bytes
from lightning_modules.zoo.task.token_metrics import MEASURES

CORPUS_SCORES = ("bleu", "chrf")
OF_TOKENS = ("perplexity", "accuracy")
NAMES = (*CORPUS_SCORES, "sentence_accuracy", *OF_TOKENS)
SUMS = 4  # columns of `token_sums`, before the ids


class TranslationMetrics(Metric):
    """Metrics by name of sums and ids [N, 4 + T], against the UTF-8 of the references, uint8 [N, R].

    ``bleu`` and ``chrf`` (0 to 100) are sacrebleu's of the whole corpus, with its defaults; `signatures` has their
    signatures. ``sentence_accuracy`` is the share of translations that equal the reference. ``perplexity`` and ``accuracy``
    are those of the reference's tokens.

    Args:
        to_text: of ids [T].
    """

    full_state_update = False

    def __init__(self, names: Sequence[str], to_text: Callable[[Tensor], str]) -> None:
        super().__init__(**NO_SYNC)
        for name in names:
            if name not in NAMES:
                raise UserError(f"task.metrics: unknown metric '{name}' for translation; {suggest(name, NAMES)}")
        if set(names) & set(CORPUS_SCORES) and find_spec("sacrebleu") is None:
            raise UserError("task.metrics: bleu and chrf need sacrebleu: pip install -e '.[text]'")
        self.names, self.to_text = tuple(names), to_text
        self.signatures: dict[str, str] = {}
        self.add_state("kept", [], dist_reduce_fx="cat")
        self.add_state("references", [], dist_reduce_fx="cat")

    def update(self, kept: Tensor, references: Tensor) -> None:
        """Add sentences."""
        self.kept.append(kept.cpu())  # type: ignore[operator, union-attr]
        self.references.append(references.cpu())  # type: ignore[operator, union-attr]

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name."""
        kept, references = (torch.cat(list(part)) for part in (self.kept, self.references))  # type: ignore[arg-type]
        translations = [self.to_text(ids) for ids in kept[:, SUMS:].long()]
        texts = [from_bytes(row) for row in references]
        values: dict[str, Any] = {name: MEASURES[name](kept[:, :SUMS]) for name in OF_TOKENS}
        values["sentence_accuracy"] = sum(map(str.__eq__, translations, texts)) / len(texts)
        for name in CORPUS_SCORES:
            if name in self.names:
                values[name], self.signatures[name] = corpus_score(name, translations, texts)
        return {name: torch.as_tensor(values[name], dtype=torch.float32) for name in self.names}


def corpus_score(name: str, translations: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Return sacrebleu's ``bleu`` or ``chrf`` of a corpus, and its signature."""
    from sacrebleu.metrics import BLEU, CHRF

    score = BLEU() if name == "bleu" else CHRF()
    found = score.corpus_score(list(translations), [list(references)])
    return float(found.score), str(score.get_signature())
