"""Base class of the torchvision and timm classifiers: gray images, the head, a frozen backbone."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError


class PretrainedNetwork(nn.Module):
    """Wraps a library's `network`; `heads` are the names of its last layers.

    Gray images are repeated to three channels with `repeat_gray`. With `freeze_backbone` only the heads are trained, and
    all else stays in eval mode, so that the running statistics of batch norms do not change.
    """

    def __init__(self, network: nn.Module, heads: Sequence[str], repeat_gray: bool, freeze_backbone: bool) -> None:
        super().__init__()
        self.network = network
        self.heads = list(heads)
        self.repeat_gray = repeat_gray
        self.freeze_backbone = freeze_backbone
        if freeze_backbone:
            network.requires_grad_(False)
            for head in heads:
                network.get_submodule(head).requires_grad_(True)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.expand(-1, 3, -1, -1) if self.repeat_gray else images)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_backbone:
            self.network.eval()
            for head in self.heads:
                self.network.get_submodule(head).train(mode)
        return self

    def check(self, name: str, input_shape: Sequence[int], num_outputs: int) -> None:
        """Run one black image through the network; raise UserError if it fails or the network is not a classifier."""
        self.eval()
        try:
            with torch.no_grad():
                logits = self(torch.zeros(1, *input_shape))
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = str(error).strip().splitlines()[:1]
            raise UserError(
                f"model.name={name} cannot take images of shape {tuple(input_shape)}: {''.join(reason)}"
            ) from error
        self.train()
        if not isinstance(logits, Tensor) or logits.shape != (1, num_outputs):
            raise UserError(f"model.name={name} is not a classifier: its output is not one row of {num_outputs} logits")
