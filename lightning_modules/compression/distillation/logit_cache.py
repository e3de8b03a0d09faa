"""Cache of the teachers' logits of training samples, for training without augmentation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class LogitCache:
    """Logits [M, N, K] of M teachers by sample index; N is the highest index so far + 1, NaN: not computed yet.

    They are part of the stage's state, so that a resumed run uses identical numbers: the last bits of a teacher's logits
    depend on the other samples of a batch.
    """

    def __init__(self) -> None:
        self.logits: Tensor | None = None
        self.computed = 0  # number of samples whose logits were computed

    def look_up(self, batch: dict[str, Tensor], compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The logits [M, B, K] of a batch; `compute` maps raw samples that are not cached to their logits."""
        index = batch["index"]
        new = self._is_new(index)
        if new.any():
            self._put(index[new], compute(batch["x"][new]))
        assert self.logits is not None
        return self.logits.index_select(1, index)

    def _is_new(self, index: Tensor) -> Tensor:
        new = torch.ones_like(index, dtype=torch.bool)
        if self.logits is not None:
            self.logits = self.logits.to(index.device)
            inside = index < self.logits.shape[1]
            new[inside] = self.logits[0, index[inside], 0].isnan()
        return new

    def _put(self, index: Tensor, found: Tensor) -> None:
        size, known = int(index.max()) + 1, self.logits
        if known is None or known.shape[1] < size:
            self.logits = found.new_full((found.shape[0], size, found.shape[2]), torch.nan, dtype=torch.float32)
            if known is not None:
                self.logits[:, : known.shape[1]] = known
        assert self.logits is not None
        self.logits[:, index] = found.float()
        self.computed += len(index)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.logits is None else {"logits": self.logits.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.logits = state.get("logits")
