"""Transforms that combine several texts: appended context and mixup."""

import torch
from torch import Tensor

from lightning_modules.augmentation.mixup import Mixing
from lightning_modules.augmentation.per_sample import bernoulli_mask, uniform
from lightning_modules.augmentation.text.text_transform import TextTransform, row_lengths
from lightning_modules.config.bounds import Count, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.text_data import TextData


class AddContext(TextTransform):
    """Appends another training text of the same class, as far as it fits.

    Must come before transforms that mix labels.

    Args:
        max_words: maximum number of appended words; null appends as many as fit.
    """

    @bounded
    def __init__(self, max_words: Count | None = None, probability: float = 0.5) -> None:
        super().__init__(probability)
        self.max_words = max_words
        self.texts = self.first = self.count = self.rank = torch.zeros(0, dtype=torch.int64)

    def prepare(self, data: TextData) -> None:
        """Sort the training texts by class. Raises UserError if the targets are not classes."""
        if data.num_classes is None:
            raise UserError(f"augmentation: AddContext adds texts of the same class, but {data.name} has no classes")
        train = data.splits["train"]
        y = data.arrays.y[train]
        places = train[y.argsort(stable=True)]  # indices of the training texts, sorted by class
        self.texts = data.arrays.x.index_select(0, places)
        self.count = y.bincount(minlength=data.num_classes)
        self.first = self.count.cumsum(0) - self.count
        self.rank = torch.full((len(data.arrays.y),), -1)
        self.rank[places] = torch.arange(len(places))

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return a new batch with unchanged labels. Raises UserError if labels have been mixed already."""
        x, y = batch["x"], batch["y"]
        self.check(x)
        if y.is_floating_point():
            raise UserError("augmentation: AddContext needs classes: put it before the transforms that mix labels")
        drawn, other = bernoulli_mask(len(x), self.probability, generator), uniform(len(x), 0, 1, generator)
        label = y.cpu()
        # one of the other texts of the class: skip the text's own rank
        own = self.rank[batch["index"].cpu()] if "index" in batch else torch.full_like(label, -1)
        first, among = self.first[label], self.count[label] - (own >= 0).long()
        pick = first + (other * among).long().minimum((among - 1).clamp(min=0))
        pick = pick + ((own >= 0) & (pick >= own)).long()
        added = self.texts[pick.clamp(max=len(self.texts) - 1)].to(x.device)
        words = torch.where(drawn & (among > 0), 1, 0).to(x.device) * row_lengths(added)
        return {**batch, "x": self.append_words(x, added, words)}

    def append_words(self, x: Tensor, added: Tensor, words: Tensor) -> Tensor:
        """Append the first `words` (int64 [n]) words of the rows `added` to those of `x`."""
        words = words if self.max_words is None else words.clamp(max=self.max_words)
        place = torch.arange(x.shape[1], device=x.device) - row_lengths(x)[:, None]
        new = added.gather(1, place.clamp(0, added.shape[1] - 1)).to(x.dtype)
        return torch.where((place >= 0) & (place < words[:, None]), new, x)


class TextMixup(Mixing):
    """Mixup of text representations: the task blends vectors at the network's `mixing_point`; labels become soft.

    Guo, Mao and Zhang 2019, "Augmenting Data with Mixup for Sentence Classification". The batch only holds partners and
    weights, because word ids cannot be mixed.
    """

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the batch with soft "y" (float [B, K], or values), "mix_partner" int64 [B] and "mix_weight" float [B]."""
        x = batch["x"]
        partner, weight = self.draw(len(x), generator)
        y = self.mix_targets(batch, partner, weight)
        return {**batch, "y": y, "mix_partner": partner.to(x.device), "mix_weight": weight.to(x.device)}
